"""From episodes to training sequences.

An episode becomes as few sequences as the token-prefix property allows: one if every turn's context begins with all
that came before (append-only), one more for each turn whose template rewrote the history.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeVar

import numpy as np

from groupwise.core.rollout import BEHAVIOURS, Context, Episode, Turn

OUTSIDE = "environment"
"""Author of the tokens between two turns of one sequence: what the environment answered, never trained on."""
NONE = BEHAVIOURS.index("none")
T = TypeVar("T")
Runs = list[tuple[T, int]]
"""A tag of every token: values, each with the number of tokens in a row that it holds for."""


class TrainSequence(NamedTuple):
    """One training sequence: a context and the tokens after it, with their tags.

    `segment` is the index of the turn within the episode (tokens between turns belong to the turn they precede).
    `behaviour` indexes `BEHAVIOURS`; tokens not trained on have `none`. `extras` are arrays with one row per token,
    `context_extras` with one per token of the context; rows that nobody has are -1.
    """

    context: Context
    tokens: tuple[int, ...]
    engine_logp: tuple[float, ...]
    author: Runs[str]
    behaviour: Runs[int]
    version: Runs[int]
    segment: Runs[int]
    extras: Mapping[str, np.ndarray]
    context_extras: Mapping[str, np.ndarray]


def sequences(episode: Episode) -> Iterator[TrainSequence]:
    """The training sequences of an episode, in order; turns without tokens are left out."""
    run: list[tuple[int, Turn, tuple[int, ...]]] = []
    for index, turn in enumerate(episode.turns):
        if not turn.completion.tokens:
            continue
        context = turn.trained_under.tokens
        between: tuple[int, ...] = ()
        if run:
            before = run[-1][1]
            so_far = before.trained_under.tokens + before.completion.tokens
            if turn.train_context is None and context[: len(so_far)] == so_far:
                between = context[len(so_far):]
            else:
                yield _join(run)
                run = []
        run.append((index, turn, between))
    if run:
        yield _join(run)


def _join(run: list[tuple[int, Turn, tuple[int, ...]]]) -> TrainSequence:
    """One sequence from turns that extend each other."""
    tokens: tuple[int, ...] = ()
    logp: tuple[float, ...] = ()
    author: Runs[str] = []
    behaviour: Runs[int] = []
    version: Runs[int] = []
    segment: Runs[int] = []
    for index, turn, between in run:
        gap, own = len(between), turn.completion
        if gap:
            author.append((OUTSIDE, gap))
            behaviour.append((NONE, gap))
            version.append((-1, gap))
        for span in turn.tiles:
            author.append((span.author, span.end - span.start))
            behaviour.append((BEHAVIOURS.index(span.behaviour), span.end - span.start))
        version += [(v.version, v.end - v.start) for v in own.versions] or [(-1, len(own.tokens))]
        segment.append((index, gap + len(own.tokens)))
        tokens += between + own.tokens
        # Log-probs that the engine took under another context are not those of this sequence.
        logp += (np.nan,) * gap + ((np.nan,) * len(own.tokens) if turn.moved else own.logp)
    first = run[0][1]
    return TrainSequence(first.trained_under, tokens, logp, author, behaviour, version, segment, _extras(run),
                         {} if first.moved else first.completion.context_extras)


def _extras(run: list[tuple[int, Turn, tuple[int, ...]]]) -> dict[str, np.ndarray]:
    """The extras of any turn; tokens between turns have those of the next one's context, of which they are the end."""
    kept = [({}, {}) if turn.moved else (turn.completion.extras, turn.completion.context_extras) for _, turn, _ in run]
    out: dict[str, np.ndarray] = {}
    for name in sorted({name for own, _ in kept for name in own}):
        like = next(own[name] for own, _ in kept if name in own)
        rows = []
        for (_, turn, between), (own, before) in zip(run, kept, strict=True):
            rows.append(before[name][len(turn.context.tokens) - len(between):] if name in before else blank(len(between), like))
            rows.append(own[name] if name in own else blank(len(turn.completion.tokens), like))
        out[name] = np.concatenate(rows)
    return out


def blank(n: int, like: np.ndarray) -> np.ndarray:
    """So many rows of an extra that nobody has: -1."""
    return np.full((n, *like.shape[1:]), -1).astype(like.dtype)
