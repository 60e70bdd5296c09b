"""Update strategies: how a rollout batch is spent. Each optimiser step has weights of its own.

A batch is cut by whole groups. `step` is given a weighed minibatch and says when gradients are applied or discarded.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from groupwise.core.keyed import generator
from groupwise.errors import ConfigError
from groupwise.objective.batch import Batch
from groupwise.objective.objective import Objective

Stats = dict[str, float]


@runtime_checkable
class Stepper(Protocol):
    """The part of a learner that an update strategy drives."""

    def gradients(self, batch: Batch, objective: Objective) -> Stats:
        """Add the gradient of a weighed minibatch to the parameters' gradients."""
        ...

    def apply(self) -> Stats:
        """Clip, take the optimiser step, clear the gradients."""
        ...

    def discard(self) -> None:
        """Clear the gradients."""
        ...

    def snapshot(self) -> Mapping[str, Any]:
        """A copy of the weights."""
        ...

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take such a copy back."""
        ...


@runtime_checkable
class Update(Protocol):
    """How a rollout batch becomes optimiser steps."""

    @property
    def steps(self) -> int:
        """Optimiser steps per rollout batch (at most)."""
        ...

    def split(self, batch: Batch, key: int) -> Iterator[Batch]:
        """The minibatches, one per optimiser step; `key` makes the order of this batch reproducible."""
        ...

    def step(self, learner: Stepper, minibatch: Batch, objective: Objective) -> Stats:
        """One optimiser step on a weighed minibatch."""
        ...


@dataclass(frozen=True)
class Once:
    """The whole batch in one optimiser step: exactly on-policy."""

    steps: int = 1

    def split(self, batch: Batch, key: int) -> Iterator[Batch]:
        """The batch."""
        yield batch

    def step(self, learner: Stepper, minibatch: Batch, objective: Objective) -> Stats:
        """Gradient, step."""
        return learner.gradients(minibatch, objective) | learner.apply()


@dataclass(frozen=True)
class Minibatches:
    """n minibatches of whole groups, in a new random order each epoch."""

    n: int
    epochs: int = 1

    def __post_init__(self) -> None:
        if self.n < 1 or self.epochs < 1:
            raise ConfigError(f"minibatches: n and epochs must be at least 1, got {self.n} and {self.epochs}")

    @property
    def steps(self) -> int:
        """N times epochs."""
        return self.n * self.epochs

    def split(self, batch: Batch, key: int) -> Iterator[Batch]:
        """Groups dealt into n parts of nearly equal number; a part without groups is left out."""
        for epoch in range(self.epochs):
            order = generator(key, "minibatches", epoch).permutation(batch.layout.groups)
            for part in np.array_split(order, self.n):
                if len(part):
                    yield batch.groups(part)

    def step(self, learner: Stepper, minibatch: Batch, objective: Objective) -> Stats:
        """Gradient, step."""
        return Once().step(learner, minibatch, objective)


@dataclass(frozen=True)
class Gated:
    """Another strategy whose gradients are applied only if `accept` agrees with their statistics; else they are discarded."""

    inner: Minibatches | Once
    accept: Callable[[Stats], bool]

    @property
    def steps(self) -> int:
        """Those of the inner strategy."""
        return self.inner.steps

    def split(self, batch: Batch, key: int) -> Iterator[Batch]:
        """As the inner strategy does."""
        return self.inner.split(batch, key)

    def step(self, learner: Stepper, minibatch: Batch, objective: Objective) -> Stats:
        """Gradient, then step or veto (`vetoed` 1)."""
        stats = learner.gradients(minibatch, objective)
        if self.accept(stats):
            return stats | learner.apply() | {"vetoed": 0.0}
        learner.discard()
        return stats | {"vetoed": 1.0}
