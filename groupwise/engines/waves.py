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


def waves_of(requests: Sequence[Request], max_rows: int, alike: bool = False) -> Iterator[tuple[Sampling, list[Row]]]:
    """The waves of requests, each with its sampling; with `alike` only contexts of one length go together."""
    groups: dict[Sampling, dict[tuple[int, ...], list[Row]]] = {}
    for i, request in enumerate(requests):
        context = request.context.tokens
        rows = [Row(i, s, context, stream) for s, stream in enumerate(request.streams)]
        groups.setdefault(request.sampling, {}).setdefault(context, []).extend(rows)
    for sampling, contexts in groups.items():
        wave: list[Row] = []
        filled = 0
        for context in sorted(contexts, key=len):
            rows = contexts[context]
            if wave and (filled + len(rows) > max_rows or (alike and len(context) != len(wave[0].context))):
                yield sampling, wave
                wave, filled = [], 0
            while len(rows) > max_rows:
                yield sampling, rows[:max_rows]
                rows = rows[max_rows:]
            wave += rows
            filled += len(rows)
        if wave:
            yield sampling, wave
