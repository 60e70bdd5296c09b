"""A method as a user would write it, with a memory that its credit reads: it comes back on resume, or the numbers change."""

import sys
from dataclasses import dataclass

import numpy as np

from groupwise.core.services import MethodState
from groupwise.methods.method import Method
from groupwise.methods.update import Minibatches
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.batch import Column
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.penalties import Entropy
from groupwise.objective.returns import Gae
from groupwise.objective.terms import Policy, ValueLoss


class Remembering(MethodState):
    """A running mean of the rewards; `fail_at` makes the update of that step fail once."""

    fail_at = -1

    def __init__(self) -> None:
        self.mean, self.steps = 0.0, 0

    def observe(self, groups):
        self.mean = 0.9 * self.mean + 0.1 * float(np.mean([group.rewards.mean() for group in groups]))

    def after_update(self, services):
        services.store("notes")["steps"] = self.steps = self.steps + 1
        if self.steps == Remembering.fail_at:
            Remembering.fail_at = -1
            raise KeyboardInterrupt

    def state_dict(self):
        return {"mean": self.mean, "steps": self.steps}

    def load_state_dict(self, state):
        self.mean, self.steps = state["mean"], state["steps"]


@dataclass(frozen=True)
class AgainstMemory:
    """The reward less the running mean."""

    needs: frozenset[str] = frozenset()

    def __call__(self, table, state):
        return {"advantage": Column("episode", table.reward - state.mean)}


def remembering() -> Method:
    """Credit from a state."""
    return Method(Objective(AgainstMemory(), (Policy(aggregate=TokenMean()),)), state=Remembering)


def reaching() -> Method:
    """Losses that reach over the whole optimiser step, and a rule that cannot be pickled."""
    terms = (Policy(aggregate=TokenMean(), reach="step"), Entropy(coef=0.1))
    return Method(Objective(Advantage(), terms), admit=(lambda group: None,))


class Scarce(Objective):
    """An objective for which processes that help have no memory beyond so many tokens at a time."""

    def loss(self, live, batch):
        if sys.argv[0].endswith("worker.py") and len(batch.tokens) > 30:
            raise MemoryError("none left")
        return super().loss(live, batch)


def scarce() -> Method:
    """Token mean, where the others run out of memory."""
    return Method(Scarce(Advantage(), (Policy(aggregate=TokenMean()),)))


def critic() -> Method:
    """A value head that is trained along, by several optimiser steps."""
    return Method(Objective(Gae(), (Policy(aggregate=TokenMean()), ValueLoss(coef=0.5))), update=Minibatches(2))
