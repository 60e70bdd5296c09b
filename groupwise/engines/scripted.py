"""An engine that replays given completions: for tests, examples and debugging a loop without a model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from groupwise.core.rollout import Completion, VersionSpan
from groupwise.core.services import Request
from groupwise.errors import EngineError

Script = (Callable[[Request, int], Completion | Sequence[int]] | Mapping[tuple[int, ...], Sequence[Sequence[int]]])


class Scripted:
    """Replays a script, and keeps what it was asked (`requests`) and which versions it was given (`versions`).

    The script is a function of the request and the sample's index, giving tokens or a whole `Completion`; or a table from context
    tokens to completions, where sample i takes entry i (cycled). Tokens beyond `max_tokens` are cut and finish with "length".
    """

    def __init__(self, script: Script, *, logp: float = -1.0) -> None:
        self.script = script
        self.logp = logp
        self.version = 0
        self.requests: list[Request] = []
        self.versions: list[int] = []

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """For each request one completion per stream. EngineError for a context that the table lacks."""
        self.requests += requests
        return [[self._complete(request, sample) for sample in range(len(request.streams))] for request in requests]

    def load(self, weights: Mapping[str, Any], *, version: int) -> None:
        """Record the version; there are no weights to take."""
        self.version = version
        self.versions.append(version)

    def _complete(self, request: Request, sample: int) -> Completion:
        said = self._look_up(request, sample)
        if isinstance(said, Completion):
            return said
        limit = request.sampling.max_tokens
        tokens = tuple(said)[:limit]
        versions = (VersionSpan(0, len(tokens), self.version),) if tokens else ()
        return Completion(tokens, (self.logp,) * len(tokens), "length" if len(said) > limit else "stop", versions)

    def _look_up(self, request: Request, sample: int) -> Completion | Sequence[int]:
        if not isinstance(self.script, Mapping):
            return self.script(request, sample)
        entries = self.script.get(request.context.tokens, ())
        if not entries:
            raise EngineError(f"the script has no completion for the context {request.context.tokens}; add it to the table")
        return entries[sample % len(entries)]
