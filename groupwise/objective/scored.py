"""What credit is made from: a table with one row per episode of a packed batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from groupwise.core.layout import Layout
from groupwise.core.rollout import Group, Rollout
from groupwise.objective.batch import Batch

Values = Float[np.ndarray, " n"]
Ids = Int[np.ndarray, " n"]


@dataclass(frozen=True)
class Scored:
    """What credit may look at: one row per episode of the batch, plus per-token values that were asked for.

    Tables are made when they are first looked at. `weight` scales an episode's advantage, `length` is its trained tokens.
    """

    layout: Layout
    rollouts: Sequence[Rollout]
    counted: Bool[np.ndarray, " t"]
    needed: Mapping[str, Float[np.ndarray, " t"]]

    @cached_property
    def reward(self) -> Values:
        """[episodes]; nan where all components abstain."""
        return np.array([_or_nan(r.reward) for r in self.rollouts], dtype=np.float64)

    @cached_property
    def correct(self) -> Bool[np.ndarray, " n"]:
        """[episodes] strict correctness."""
        return np.array([bool(r.verdict.correct) for r in self.rollouts], dtype=np.bool_)

    @cached_property
    def length(self) -> Ids:
        """[episodes] |o| of the papers."""
        ids = self.layout.ids("token", "episode")
        return np.bincount(ids[self.counted], minlength=self.layout.size("episode")).astype(np.int64)

    @cached_property
    def weight(self) -> Values:
        """[episodes]."""
        return np.array([r.weight for r in self.rollouts], dtype=np.float64)

    @cached_property
    def components(self) -> Mapping[str, Values]:
        """[episodes] by name of the component; nan where it is absent or abstains."""
        names = sorted({c.name for r in self.rollouts for c in r.components})
        return {name: np.array([_or_nan(r.component(name)) for r in self.rollouts], dtype=np.float64) for name in names}

    @cached_property
    def turn_reward(self) -> Float[np.ndarray, " s"]:
        """[segments] what components that target a turn or a span of it give."""
        return np.array([sum(c.weight * c.value for c in r.components
                             if c.value is not None and c.target != "rollout" and c.index == i)
                         for r in self.rollouts for i, turn in enumerate(r.episode.turns) if turn.completion.tokens],
                        dtype=np.float64)


def scored(groups: Sequence[Group], batch: Batch, needed: Mapping[str, Any]) -> Scored:
    """The table of a packed batch; `needed` are its per-token columns as arrays."""
    rollouts = [r for g in groups for r in g.rollouts if any(t.completion.tokens for t in r.episode.turns)]
    return Scored(batch.layout, rollouts, batch.counted.cpu().numpy(), needed)


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value
