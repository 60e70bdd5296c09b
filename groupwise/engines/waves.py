"""How requests become waves, the rows that are sampled together: a function of the requests alone.

Those with equal `Sampling` go together (in order of first appearance), sorted by context length (stable), and are cut into waves
of at most `max_rows` rows, at the boundary of a context where one fits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from groupwise.core.services import Request, Sampling


@dataclass(frozen=True)
class Row:
    """One completion to make: sample `sample` of request `request`."""

    request: int
    sample: int
    context: tuple[int, ...]
    stream: int


def waves_of(requests: Sequence[Request], max_rows: int, per_context: int = 0) -> Iterator[tuple[Sampling, list[Row]]]:
    """The waves of requests, each with its sampling; a context counts as so many rows besides those of its completions."""
    groups: dict[Sampling, dict[tuple[int, ...], list[Row]]] = {}
    for i, request in enumerate(requests):
        context = request.context.tokens
        rows = [Row(i, s, context, stream) for s, stream in enumerate(request.streams)]
        groups.setdefault(request.sampling, {}).setdefault(context, []).extend(rows)
    room = max(1, max_rows - per_context)
    for sampling, contexts in groups.items():
        wave: list[Row] = []
        filled = 0
        for context in sorted(contexts, key=len):
            rows = contexts[context]
            if wave and filled + len(rows) + per_context > max_rows:
                yield sampling, wave
                wave, filled = [], 0
            while len(rows) > room:
                yield sampling, rows[:room]
                rows = rows[room:]
            wave += rows
            filled += len(rows) + per_context
        if wave:
            yield sampling, wave
