"""What a rollout carries: prompts, contexts, completions, turns, episodes, verdicts, rewards, groups.

All types are frozen and plain (no torch), so they can be printed, stored and tested without a model.

An example, a two-turn episode of one rollout of one group:

    Prompt "7+5=" -> Turn(context=(7+5=), completion=(12 <eos>)) -> environment says "again"
                  -> Turn(context=(7+5= 12 <eos> again), completion=(12 <eos>))
"""

import hashlib
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from groupwise.core.verdict import Component, Finish, Verdict
from groupwise.errors import RolloutError

Behaviour = Literal["default", "self", "old", "recorded", "unknown", "none"]
"""What a token's ratio divides by: see `groupwise.core.rollout.BEHAVIOURS`."""

BEHAVIOURS: tuple[Behaviour, ...] = ("default", "self", "old", "recorded", "unknown", "none")
"""default: chosen by the update (`self` for one optimiser step per batch, `old` for several);
self: the live log-prob, detached (ratio exactly 1); old: the learner's log-prob before the update;
recorded: the engine's log-prob (stale or replayed tokens); unknown: 1 (teacher traces); none: not trained."""

_EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Context:
    """The tokens that a completion is conditioned on, and where they came from.

    >>> Context((1, 2)).id == Context((1, 2), source="hinted").id
    True
    """

    tokens: tuple[int, ...]
    source: str = "prompt"

    @property
    def id(self) -> str:
        """A hash of the tokens: contexts with equal tokens share a prefill."""
        return hashlib.blake2b(np.asarray(self.tokens, dtype=np.int64).tobytes(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Prompt:
    """One problem. `answer` and `meta` hold JSON values only: they travel to verifier processes.

    `messages` is the conversation that it is, {"role", "content"} each, if it is one: `text` is what is shown and compared.
    """

    id: str
    text: str
    answer: Any
    tokens: tuple[int, ...] = ()
    task: str = ""
    meta: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)
    messages: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class VersionSpan:
    """Tokens [start, end) were sampled from weights of this version."""

    start: int
    end: int
    version: int


@dataclass(frozen=True, slots=True)
class Completion:
    """The tokens of one turn as an engine returned them.

    `logp[t]` is the engine's log-prob of `tokens[t]` under the very distribution that was sampled from (after
    temperature and truncation); nan where the engine has none. `extras` holds arrays aligned with the tokens
    (routed experts, top-k ids), carried verbatim; `context_extras` the same of the tokens of the context, by the same names.
    """

    tokens: tuple[int, ...]
    logp: tuple[float, ...]
    finish: Finish = "stop"
    versions: tuple[VersionSpan, ...] = ()
    extras: Mapping[str, np.ndarray] = field(default_factory=lambda: _EMPTY)
    context_extras: Mapping[str, np.ndarray] = field(default_factory=lambda: _EMPTY)

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.logp):
            raise RolloutError(f"a completion has {len(self.tokens)} tokens but {len(self.logp)} log-probs")
        for name, array in self.extras.items():
            if len(array) != len(self.tokens):
                raise RolloutError(f"extra {name!r} has {len(array)} rows for {len(self.tokens)} tokens")
        covered = [(s.start, s.end) for s in self.versions]
        if covered and (covered[0][0] != 0 or covered[-1][1] != len(self.tokens)
                        or any(a[1] != b[0] for a, b in itertools.pairwise(covered))):
            raise RolloutError(f"version spans {covered} do not tile {len(self.tokens)} tokens")


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens [start, end) of a turn have this author and this behaviour."""

    start: int
    end: int
    author: str = "policy"
    behaviour: Behaviour = "default"


@dataclass(frozen=True, slots=True)
class Turn:
    """One visit of the policy: what it read, what it wrote.

    `context` is what the tokens were sampled under; `train_context`, if given, what they are trained under.
    `spans` tile the completion (empty: one span by the policy). `state` is a hash of the environment's state
    before the turn (None: unknown).
    """

    context: Context
    completion: Completion
    spans: tuple[Span, ...] = ()
    train_context: Context | None = None
    state: str | None = None
    text: str = ""

    def __post_init__(self) -> None:
        n, at = len(self.completion.tokens), 0
        for span in self.spans:
            if span.start != at or span.end < span.start:
                raise RolloutError(f"spans {self.spans} do not tile {n} tokens")
            at = span.end
        if self.spans and at != n:
            raise RolloutError(f"spans {self.spans} do not tile {n} tokens")
        for name, array in self.completion.context_extras.items():
            if len(array) != len(self.context.tokens):
                raise RolloutError(f"extra {name!r} has {len(array)} rows for a context of {len(self.context.tokens)} tokens")
        if self.moved and any(s.behaviour == "recorded" for s in self.spans):
            raise RolloutError("a token sampled under another context cannot be 'recorded': its engine log-prob "
                               "belongs to the context it was sampled under; use 'old', 'self' or 'unknown'")
        if any(s.behaviour == "recorded" and not math.isfinite(sum(self.completion.logp[s.start:s.end])) for s in self.spans):
            raise RolloutError("a 'recorded' token needs a finite engine log-prob")

    @property
    def trained_under(self) -> Context:
        """The context that the tokens are trained under."""
        return self.train_context or self.context

    @property
    def moved(self) -> bool:
        """Whether the tokens are trained under other tokens than they were sampled under."""
        return self.trained_under.tokens != self.context.tokens

    @property
    def tiles(self) -> tuple[Span, ...]:
        """The spans, with the default one filled in."""
        return self.spans or (Span(0, len(self.completion.tokens)),)

    @property
    def trained(self) -> int:
        """How many tokens are trained on."""
        n = len(self.completion.tokens)
        for span in self.spans:
            if span.behaviour == "none":
                n -= span.end - span.start
        return n


@dataclass(frozen=True, slots=True)
class Episode:
    """Everything that one visit of a prompt produced.

    `policy` names the weights that wrote it, `role` the part they played.
    """

    prompt: Prompt
    turns: tuple[Turn, ...]
    policy: str = "policy"
    role: str = "policy"

    @property
    def length(self) -> int:
        """Trained tokens: the |o| of the papers."""
        return sum(turn.trained for turn in self.turns)

    @property
    def truncated(self) -> bool:
        """Whether the last turn ran out of tokens."""
        return bool(self.turns) and self.turns[-1].completion.finish == "length"

    @property
    def text(self) -> str:
        """The text of the last turn: what a verifier reads."""
        return self.turns[-1].text if self.turns else ""

    @property
    def aside(self) -> bool:
        """Whether it was made for the credit of others (a greedy baseline): in another role, and not trained on at all. Such
        an episode is in no statistic.
        """
        return self.role != "policy" and self.length == 0

    @property
    def unaided(self) -> bool:
        """Whether the policy made it alone, as itself: every token its own, under the prompt's own context."""
        alone = all(t.train_context is None and t.context.source == "prompt" and all(s.author == "policy" for s in t.spans)
                    for t in self.turns)
        return alone and self.policy == self.role == "policy"


@dataclass(frozen=True, slots=True)
class Rollout:
    """An episode with its verdict and reward components.

    `masked` keeps it in the statistics but out of the gradient's numerator (overlong filtering). `weight` scales
    its advantage.
    """

    episode: Episode
    verdict: Verdict
    components: tuple[Component, ...] = ()
    masked: bool = False
    weight: float = 1.0

    @property
    def reward(self) -> float | None:
        """The weighted sum of the components that did not abstain; None if all did.

        >>> e = Episode(Prompt("p", "", 1), ())
        >>> Rollout(e, Verdict(True), (Component("a", 1.0), Component("b", None), Component("c", 1.0, weight=0.5))).reward
        1.5
        """
        values = [c.value * c.weight for c in self.components if c.value is not None]
        return float(sum(values)) if values else None

    def component(self, name: str) -> float | None:
        """The summed value of the components of a name; None if they are absent or abstain."""
        values = [c.value for c in self.components if c.name == name and c.value is not None]
        return float(sum(values)) if values else None


@dataclass(frozen=True, slots=True)
class Group:
    """The rollouts that are compared with each other; membership is explicit, never positional.

    `key` is unique within a step. `rollouts` hold no abstentions when the group reaches an objective: they are
    moved to `abstained`, a count. `own` are those that count: all but the ones made for the credit of others.
    """

    key: str
    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    abstained: int = 0

    @property
    def own(self) -> tuple[Rollout, ...]:
        """The rollouts that are trained on and counted."""
        return tuple([r for r in self.rollouts if not r.episode.aside])

    @property
    def rewards(self) -> np.ndarray:
        """[n] float64; nan where a rollout's reward abstains."""
        return np.array([np.nan if r.reward is None else r.reward for r in self.rollouts], dtype=np.float64)

    @property
    def correct(self) -> np.ndarray:
        """[n] bool: strict correctness, before any shaping."""
        return np.array([bool(r.verdict.correct) for r in self.rollouts], dtype=bool)
