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
    `behaviour` indexes `BEHAVIOURS`; tokens not trained on have `none`. `extras` are arrays with one row per token.
    """

    context: Context
    tokens: tuple[int, ...]
    engine_logp: tuple[float, ...]
    author: Runs[str]
    behaviour: Runs[int]
    version: Runs[int]
    segment: Runs[int]
    extras: Mapping[str, np.ndarray]


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
        moved = turn.train_context is not None and turn.train_context.tokens != turn.context.tokens
        logp += (np.nan,) * gap + ((np.nan,) * len(own.tokens) if moved else own.logp)
    return TrainSequence(run[0][1].trained_under, tokens, logp, author, behaviour, version, segment, _extras(run))


def _extras(run: list[tuple[int, Turn, tuple[int, ...]]]) -> dict[str, np.ndarray]:
    """Aligned extras of the turns, with zeros for the tokens between them; only those that every turn has."""
    out: dict[str, np.ndarray] = {}
    for name in sorted(run[0][1].completion.extras):
        if any(name not in turn.completion.extras for _, turn, _ in run):
            continue
        rows = []
        for _, turn, between in run:
            array = turn.completion.extras[name]
            rows += [np.zeros((len(between), *array.shape[1:]), dtype=array.dtype), array]
        out[name] = np.concatenate(rows)
    return out
