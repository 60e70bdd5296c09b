"""The learner's own way to a gradient, with a table of values for a model: micro-batches, shares of a team, two passes, and
several optimiser steps.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groupwise.core.keyed import generator
from groupwise.errors import ConfigError
from groupwise.lab.samples import LIVE, Sample
from groupwise.lab.trials import Found, Slopes, Subject, apart, compared, gradient, leaves, live, prepared, weighed, worst
from groupwise.learner.budget import Budget
from groupwise.learner.learner import Learner
from groupwise.learner.settings import Settings
from groupwise.learner.work import AnyScorer, Outcome, Task
from groupwise.methods.update import Minibatches
from groupwise.models.head import Want
from groupwise.objective.batch import Batch
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Live


class TableScorer:
    """Values from a table, cut into micro-batches of so many sequences in a random order."""

    def __init__(self, values: Tensor, size: int, key: int) -> None:
        self.values, self.size, self.key = values, size, key

    def __call__(self, batch: Batch, want: Want) -> Live:
        """[t] of a micro-batch; entries that are not trained on are 0."""
        own = live(self.values, batch)
        shown = {name: torch.where(batch.counted, getattr(own, name), 0.0) for name in LIVE}
        return replace(own, **shown)

    def plan(self, batch: Batch, chosen: Sequence[int] | np.ndarray, micro_tokens: int) -> list[np.ndarray]:
        """Micro-batches of the chosen sequences."""
        order = generator(self.key, "cut").permutation(np.asarray(chosen, dtype=np.int64))
        return [order[i:i + self.size] for i in range(0, len(order), self.size)]

    def routed(self) -> None:
        """There are no experts."""

    def finish(self) -> None:
        """Nothing is left to do."""

    def rest(self) -> None:
        """There is no working memory."""

    def refresh(self) -> None:
        """Nothing is kept."""


class Shares:
    """A team in one process: each task works on a batch of its own sequences, as another process would."""

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, tasks: Sequence[Task], own: Callable[[Task], Outcome]) -> list[Outcome]:
        """One after the other."""
        return [own(task.alone()) for task in tasks if len(task.parts)]


class TableLearner(Learner):
    """A learner whose parameters are the table itself; `taken` keeps what each optimiser step was made of."""

    def __init__(self, values: Tensor, *, size: int = 2, key: int = 0, shares: int = 1) -> None:
        self.settings, self.team, self.policy_id = Settings(), Shares(shares), "policy"
        self.values, self.device, self.parameters = values, values.device, {"values": values}
        self.budget = Budget(self.settings.micro_tokens, self.settings.logit_chunk)
        self.scorer: AnyScorer = TableScorer(values, size, key)
        self.frozen: dict[str, AnyScorer] = {}
        self.seen: list[Batch] = []
        self.taken: list[tuple[list[Batch], Tensor, Tensor]] = []

    def gradients(self, batch: Batch, objective: Objective) -> dict[str, float]:
        """As the learner does, and remember the batch."""
        self.seen.append(batch)
        return super().gradients(batch, objective)

    def apply(self) -> dict[str, float]:
        """A small step of plain descent."""
        slope = torch.zeros_like(self.values) if self.values.grad is None else self.values.grad.clone()
        self.taken.append((self.seen, slope, self.values.detach().clone()))
        with torch.no_grad():
            self.values -= 0.01 * slope
        self.discard()
        return {"grad_norm": float(slope.norm())}

    def discard(self) -> None:
        """Clear the gradients and what they were of."""
        self.values.grad, self.seen = None, []

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the table."""
        return {"values": self.values.detach().clone()}

    @torch.no_grad()
    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take it back."""
        self.values.copy_(snapshot["values"])


def _by_learner(batch: Batch, objective: Objective, sample: Sample, size: int, shares: int) -> Slopes:
    learner = TableLearner(leaves(sample), size=size, shares=shares)
    learner.gradients(batch, objective)
    return torch.zeros_like(learner.values) if learner.values.grad is None else learner.values.grad


def micro_batches(subject: Subject, sample: Sample) -> Found:
    """Any cut into micro-batches, by any number of processes that share the work, gives the same gradient."""
    batch = weighed(subject, sample)
    one = gradient(subject.objective, [batch], leaves(sample))
    found = [compared(one, _by_learner(batch, subject.objective, sample, size, shares),
                      f"micro-batches of {size} sequence{'s' * (size > 1)}" + f", dealt to {shares} processes" * (shares > 1)
                      + " give another gradient than the whole step at once", ("whole", "cut"))
             for size, shares in ((100, 1), (1, 1), (2, 1), (1, 2))]
    bad = worst(found)
    if not subject.objective.depends_on_microbatches or bad.error > 1e-9:
        return bad
    return Found(note="declares depends_on_microbatches: its weights depend on how the step is cut, as published")


def steps(subject: Subject, sample: Sample) -> Found:
    """Each optimiser step has the weights of its own tokens, and is made of whole groups."""
    method = subject.method
    if method.update.steps > 1:
        return _steps(subject, replace(sample, default="old"))
    found = [_steps(subject, sample)]
    with contextlib.suppress(ConfigError):  # a term without a ratio takes one step only
        twice = replace(method, update=Minibatches(2))
        found.append(_steps(replace(subject, method=twice), replace(sample, default="old")))
    return worst(found)


def _steps(subject: Subject, sample: Sample) -> Found:
    method, batch = subject.method, prepared(subject, sample)
    learner = TableLearner(leaves(sample))
    for minibatch in method.update.split(batch, 1):  # as the loop does
        weighed = method.objective.weigh(minibatch)
        method.update.step(learner, weighed, method.objective)
    found, of_token = [Found()], batch.layout.ids("token", "sequence")
    group = batch.layout.ids("sequence", "group")
    for n, (seen, slope, values) in enumerate(learner.taken, 1):
        step, ids = f"optimiser step {n} of {len(learner.taken)}", torch.cat([b.tokens for b in seen])
        rows = np.unique(of_token[torch.isin(batch.tokens, ids).numpy()])
        if len(rows) < int(np.isin(group, np.unique(group[rows])).sum()):
            return Found(1.0, f"{step} holds a part of a group: a batch is cut by whole groups")
        fresh = method.objective.weigh(replace(batch.take(rows), weights={}))
        own = gradient(method.objective, [fresh], values.requires_grad_())
        found.append(compared(own, slope, f"{step} was not weighed by its own tokens: its gradient is {_times(own, slope)} that "
                              "of its tokens weighed by themselves", ("own weights", "taken")))
    return worst(found)


def _times(right: Tensor, wrong: Tensor) -> str:
    """How many times `right` the other is, if it is a multiple."""
    at = int(right.abs().argmax())
    factor = float(wrong.flatten()[at] / right.flatten()[at]) if float(right.abs().max()) else float("nan")
    return f"{factor:.3g} times" if apart(right * factor, wrong) < 1e-6 else "not"
