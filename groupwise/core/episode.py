"""From episodes to training sequences.

An episode becomes as few sequences as the token-prefix property allows: one if every turn's context begins with all
that came before (append-only), one more for each turn whose template rewrote the history.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from groupwise.core.rollout import BEHAVIOURS, Context, Episode, Turn

OUTSIDE = "environment"
"""Author of the tokens between two turns of one sequence: what the environment answered, never trained on."""


@dataclass(frozen=True)
class TrainSequence:
    """One training sequence: a context and the tokens after it, with per-token tags.

    `segment[t]` is the index of the turn within the episode (tokens between turns belong to the turn they precede).
    `behaviour[t]` indexes `BEHAVIOURS`; tokens not trained on have `none`. Arrays have one entry per token.
    """

    context: Context
    tokens: np.ndarray
    author: tuple[str, ...]
    behaviour: np.ndarray
    engine_logp: np.ndarray
    version: np.ndarray
    segment: np.ndarray
    extras: Mapping[str, np.ndarray]


def sequences(episode: Episode) -> Iterator[TrainSequence]:
    """The training sequences of an episode, in order; turns without tokens are left out."""
    run: list[tuple[int, Turn, tuple[int, ...]]] = []
    so_far: tuple[int, ...] = ()
    for index, turn in enumerate(episode.turns):
        if not turn.completion.tokens:
            continue
        context = turn.trained_under.tokens
        extends = bool(run) and turn.train_context is None and context[: len(so_far)] == so_far
        if run and not extends:
            yield _join(run)
            run = []
        between = context[len(so_far):] if extends else ()
        run.append((index, turn, between))
        so_far = context + turn.completion.tokens
    if run:
        yield _join(run)


def _join(run: list[tuple[int, Turn, tuple[int, ...]]]) -> TrainSequence:
    """One sequence from turns that extend each other."""
    tokens: list[int] = []
    author: list[str] = []
    behaviour: list[int] = []
    logp: list[float] = []
    version: list[int] = []
    segment: list[int] = []
    for index, turn, between in run:
        n = len(turn.completion.tokens)
        tokens += [*between, *turn.completion.tokens]
        author += [OUTSIDE] * len(between)
        behaviour += [BEHAVIOURS.index("none")] * len(between)
        for span in turn.tiles:
            author += [span.author] * (span.end - span.start)
            behaviour += [BEHAVIOURS.index(span.behaviour)] * (span.end - span.start)
        moved = turn.trained_under.tokens != turn.context.tokens  # then the engine's log-probs are of another context
        logp += [np.nan] * len(between) + ([np.nan] * n if moved else list(turn.completion.logp))
        spans = [v for s in turn.completion.versions for v in [s.version] * (s.end - s.start)] or [-1] * n
        version += [-1] * len(between) + spans
        segment += [index] * (len(between) + n)
    return TrainSequence(
        context=run[0][1].trained_under, tokens=np.array(tokens, dtype=np.int64), author=tuple(author),
        behaviour=np.array(behaviour, dtype=np.int8), engine_logp=np.array(logp, dtype=np.float64),
        version=np.array(version, dtype=np.int64), segment=np.array(segment, dtype=np.int64), extras=_extras(run))


def _extras(run: list[tuple[int, Turn, tuple[int, ...]]]) -> dict[str, np.ndarray]:
    """Aligned extras of the turns, with zeros for the tokens between them; only those that every turn has."""
    names = set.intersection(*(set(turn.completion.extras) for _, turn, _ in run))
    out: dict[str, np.ndarray] = {}
    for name in sorted(names):
        rows = []
        for _, turn, between in run:
            array = turn.completion.extras[name]
            rows += [np.zeros((len(between), *array.shape[1:]), dtype=array.dtype), array]
        out[name] = np.concatenate(rows)
    return out
