"""What a case comes to: the credit, the weights, the loss and its gradient, by the functions that the loop calls."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groupwise.core.rollout import BEHAVIOURS, Group
from groupwise.errors import ObjectiveError
from groupwise.lab.fixture import Table
from groupwise.objective.batch import Batch, Column
from groupwise.objective.objective import Loss, Objective, Total
from groupwise.objective.terms import Live

NEEDS = {"old": "old_logp", "ref": "ref_logp", "values": "values", "sum_p2": "sum_p2"}
"""What a learner would score before credit, and the column that it becomes."""


class Counted(Objective):
    """An objective that counts how often it is asked: the proof of what a row of the report went through."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "calls", {"credit": 0, "weigh": 0, "loss": 0})

    @property
    def counts(self) -> dict[str, int]:
        """Calls so far."""
        found: dict[str, int] = self.__dict__["calls"]
        return found

    def credit(self, groups: Sequence[Group], batch: Batch, needed: Mapping[str, Tensor],
               state: object = None) -> dict[str, Column]:
        """`Objective.credit`."""
        self.counts["credit"] += 1
        return super().credit(groups, batch, needed, state)

    def weigh(self, batch: Batch, total: Total = lambda counts: counts, **more: Any) -> Batch:
        """`Objective.weigh`."""
        self.counts["weigh"] += 1
        return super().weigh(batch, total, **more)

    def loss(self, live: Live, batch: Batch) -> Loss:
        """`Objective.loss`."""
        self.counts["loss"] += 1
        return super().loss(live, batch)


def counted(objective: Objective) -> Counted:
    """The same objective, counting."""
    return Counted(**{f.name: getattr(objective, f.name) for f in fields(objective)})


@dataclass
class Outcome:
    """All that a vector can ask for, on the fixture's grid [rows, width] where it is per token."""

    table: Table
    objective: Counted
    weighed: list[Batch]
    losses: list[Loss]
    logp: Tensor
    values: Tensor

    def named(self, name: str) -> np.ndarray | float:
        """An output by its name: one of the methods below, or `column:NAME` for a credit column on the grid, `row:NAME` for one
        value per row.
        """
        kind, _, column = name.partition(":")
        if kind == "column":
            return self.grid(self._credit(column))
        if kind == "row":
            mask = self.table.mask
            return self.grid(self._credit(column))[np.arange(len(mask)), mask.argmax(axis=1)]
        found: np.ndarray | float = getattr(self, kind)()
        return found

    def loss(self) -> float:
        """The value of the loss, summed over micro-batches and ranks."""
        return float(sum(loss.value.detach() for loss in self.losses))

    def grad(self) -> np.ndarray:
        """Its gradient in the live log-probs."""
        return self._shaped(self.logp.grad)

    def value_grad(self) -> np.ndarray:
        """Its gradient in the critic's values."""
        return self._shaped(self.values.grad)

    def factor(self) -> np.ma.MaskedArray:
        """The correction; no number where a screen has taken the token out, which has none then."""
        values = self.grid([loss.correction for loss in self.losses])
        return np.ma.array(values, mask=self.table.mask & (self.counted_mask() == 0))

    def micro_losses(self) -> np.ndarray:
        """The loss of each micro-batch as its rank has it: ranks take the mean over each other."""
        return np.array([float(loss.value.detach()) * self.table.case.ranks for loss in self.losses])

    def counted_mask(self) -> np.ndarray:
        """1 for tokens of the denominators."""
        return self.grid([batch.counted.double() for batch in self.weighed])

    def loss_mask(self) -> np.ndarray:
        """1 for tokens of the numerators."""
        return self.grid([batch.loss_mask.double() for batch in self.weighed])

    def per_token(self) -> np.ndarray:
        """The losses of the first term, before weights."""
        return self.grid([torch.where(loss.seen[0].mask, loss.seen[0].losses, 0.0) for loss in self.losses])

    def tokens(self) -> float:
        """What the first term's weights divide by: the inverse of the largest of them."""
        name = self.objective.terms[0].name
        return float(1 / max(batch.weights[name].values.max() for batch in self.weighed))

    def grid(self, parts: Sequence[Tensor]) -> np.ndarray:
        """Per-token values of all batches at their places, 0 elsewhere."""
        out = np.zeros(self.table.mask.size)
        for batch, values in zip(self.weighed, parts, strict=True):
            own = self._own(batch)
            out[batch.tokens[own].numpy()] = values.detach()[own].double().numpy()
        return out.reshape(self.table.mask.shape)

    def _own(self, batch: Batch) -> Tensor:
        """Tokens of the fixture's rows: not of a greedy rollout."""
        return batch.behaviour != BEHAVIOURS.index("none")

    def _credit(self, name: str) -> list[Tensor]:
        return [batch.at(name, "token") for batch in self.weighed]

    def _shaped(self, grad: Tensor | None) -> np.ndarray:
        found = torch.zeros(self.table.mask.size, dtype=torch.float64) if grad is None else grad
        return found.numpy().reshape(self.table.mask.shape)


def outcome(table: Table) -> Outcome:
    """Run a case: pack, credit, weigh every rank's share with the counts of all, loss and backward per micro-batch."""
    case, objective = table.case, counted(table.case.objective)
    groups = table.groups()
    batch = table.batch(groups)
    needed = {NEEDS[name]: table.column(NEEDS[name])[batch.tokens] for name in sorted(objective.needs & set(NEEDS))}
    needed |= {"old_logp": table.column("old_logp")[batch.tokens]} if case.behaviour == "old" else {}
    batch = batch.with_columns(needed, objective.credit(groups, batch, needed)).written_by("policy")
    shares = _shares(batch, case.parts, case.ranks, table.mask.shape[1])
    weighed = weigh_ranks(objective, [share for share, _ in shares])
    logp, values = table.column("logp"), table.column("live_values")
    for leaf in (logp, values):
        leaf.requires_grad_()
    entropy = table.column("entropy")
    micro, losses = [], []
    for share, (_, parts) in zip(weighed, shares, strict=True):
        for part in parts:
            one = share.take(part) if len(parts) > 1 else share
            loss = objective.loss(Live(logp=logp[one.tokens], values=values[one.tokens], entropy=entropy[one.tokens]), one)
            if loss.value.requires_grad:
                torch.autograd.backward(loss.value)
            micro.append(one)
            losses.append(loss)
    return Outcome(table, objective, micro, losses, logp, values)


def weigh_ranks(objective: Objective, shares: Sequence[Batch]) -> list[Batch]:
    """Every rank's share weighed with the counts of all: first what each counts, then the sums."""
    counts: list[list[Tensor]] = []
    for share in shares:
        counts.append([])
        objective.weigh(share, partial(_noted, counts[-1]))
    totals = [torch.stack(terms).sum(0) for terms in zip(*counts, strict=True)]
    return [objective.weigh(share, partial(_next, iter(totals))) for share in shares]


def _noted(counts: list[Tensor], own: Tensor) -> Tensor:
    counts.append(own)
    return own


def _next(totals: Iterator[Tensor], own: Tensor) -> Tensor:
    return next(totals)


def _shares(batch: Batch, parts: Sequence[Sequence[int]], ranks: int, width: int) -> list[tuple[Batch, list[list[int]]]]:
    """Each rank's part of the batch, which knows its micro-batches, and these; `parts` name the fixture's rows."""
    if not parts:
        everything = list(range(batch.layout.size("sequence")))
        return [(batch.with_parts([everything]), [everything])]
    if len(parts) % ranks:
        raise ObjectiveError(f"{len(parts)} micro-batches cannot be shared by {ranks} ranks")
    first = batch.layout.first_token("sequence")[:-1]
    sequence = {int(batch.tokens[t]) // width: s for s, t in enumerate(first)}
    out = []
    for held in np.array_split(np.arange(len(parts)), ranks):
        rows = [sequence[row] for k in held for row in parts[k]]
        places = {row: i for i, row in enumerate(rows)}
        own = [[places[sequence[row]] for row in parts[k]] for k in held]
        out.append((batch.take(rows).with_parts(own), own))
    return out
