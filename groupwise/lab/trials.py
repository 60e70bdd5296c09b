"""One trial: a method on a toy batch, through the functions that the loop calls, and the comparison of two gradients."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from groupwise.lab.samples import LIVE, Sample, Wishes, groups
from groupwise.methods.method import Method
from groupwise.objective.batch import Batch, pack
from groupwise.objective.objective import Loss, Objective
from groupwise.objective.terms import Live, Policy, Shared

Slopes = Float[Tensor, "n k"]
"""Gradient by the live values: one row per token id, one column per name in `LIVE`."""


@dataclass(frozen=True)
class Subject:
    """What is checked. `source` is how another process can make it again: its name and arguments."""

    name: str
    method: Method
    source: tuple[str, dict[str, Any]] | None = None

    @property
    def objective(self) -> Objective:
        """The method's."""
        return self.method.objective

    @cached_property
    def parts(self) -> tuple[Any, ...]:
        """Every part that the objective is composed of."""
        return tuple(walk(self.objective))

    def declares(self, name: str) -> list[Any]:
        """What the parts say under a name, those that say anything."""
        return [said for part in self.parts if (said := getattr(part, name, None)) is not None]

    @cached_property
    def wishes(self) -> Wishes:
        """What its samples must have."""
        named = [n for n in self.declares("component") if isinstance(n, str)]
        for several in self.declares("components"):
            named += [n if isinstance(n, str) else n[0] for n in several] if isinstance(several, tuple | list) else []
        foreign = any("unknown" in t.of_behaviour or getattr(t, "elsewhere", None) for t in self.objective.terms)
        refused = any(isinstance(t, Policy) and t.elsewhere is None and not t.of_behaviour for t in self.objective.terms)
        needs = self.method.needs | self.objective.needs
        return Wishes(least=2 if "refuse" in self.declares("singleton") else 1, names=tuple(dict.fromkeys(named)) or ("reward",),
                      turn_rewards=any(type(part).__name__ == "TurnReward" for part in self.parts),
                      foreign=foreign and not refused, role=next((n for n in self.declares("role") if isinstance(n, str)), ""),
                      columns=tuple(sorted(n for n in needs if n.startswith("teacher:"))))

    def with_objective(self, objective: Objective) -> "Subject":
        """The same around another objective."""
        return Subject(self.name, replace(self.method, objective=objective))


def walk(part: Any) -> Iterator[Any]:
    """A part and all parts within it."""
    if is_dataclass(part) and not isinstance(part, type):
        yield part
        for one in fields(part):
            yield from walk(getattr(part, one.name))
    elif isinstance(part, tuple | list):
        for one in part:
            yield from walk(one)


def prepared(subject: Subject, sample: Sample) -> Batch:
    """Packed, scored and credited, in float64: what the loop hands to the update strategy."""
    method, collected = subject.method, groups(sample)
    state = method.state()
    state.observe(collected)
    batch = pack(collected, default=sample.default, dtype=torch.float64)
    batch = replace(batch, columns={**batch.columns, "engine_logp": sample.table["engine_logp"][batch.tokens]})
    needed = _needed(method.needs | ({"old"} if sample.default == "old" else set()), sample, batch)
    batch = batch.with_columns(needed, method.objective.credit(collected, batch, needed, state)).written_by("policy")
    if not method.objective.depends_on_microbatches:
        return batch
    # What depends on the cut is checked under one that moves with its tokens: a micro-batch for each group.
    group = batch.layout.ids("sequence", "group")
    return batch.with_parts([np.flatnonzero(group == g) for g in range(batch.layout.groups)])


def _needed(needs: frozenset[str], sample: Sample, batch: Batch) -> dict[str, Tensor]:
    """The columns that a learner would have scored."""
    found = {"old": ("old_logp", "old_logp"), "ref": ("ref_logp", "ref_logp"), "values": ("values", "old_values"),
             "entropy": ("entropy", "entropy"), "sum_p2": ("sum_p2", "sum_p2")}
    pairs = [found[n] for n in sorted(needs) if n in found] + [(n, n) for n in sorted(needs) if n.startswith("teacher:")]
    return {name: sample.table[column][batch.tokens] for name, column in pairs}


def weighed(subject: Subject, sample: Sample) -> Batch:
    """The sample as one optimiser step."""
    return subject.objective.weigh(prepared(subject, sample))


def leaves(sample: Sample) -> Tensor:
    """[ids, names] the live values, to be differentiated by."""
    return torch.stack([sample.table[name] for name in LIVE], 1).requires_grad_()


def live(values: Tensor, batch: Batch) -> Live:
    """What the forward gives for a batch."""
    own = values[batch.tokens]
    return Live(**{name: own[:, i] for i, name in enumerate(LIVE)}, hidden=own.detach()[:, :2])


def losses(subject: Subject, sample: Sample, batch: Batch) -> Loss:
    """What the objective says of a weighed batch."""
    return subject.objective.loss(live(leaves(sample), batch), batch)


def gradient(objective: Objective, batches: Sequence[Batch], values: Tensor) -> Slopes:
    """d(sum of losses)/d(live values) of weighed batches."""
    total = values.new_zeros(values.shape)
    for batch in batches:
        value = objective.loss(live(values, batch), batch).value
        if value.requires_grad:
            total = total + torch.autograd.grad(value, values)[0]
    return total


def whole(subject: Subject, sample: Sample) -> Slopes:
    """The gradient of the sample as one optimiser step and one micro-batch."""
    return gradient(subject.objective, [weighed(subject, sample)], leaves(sample))


def at_ids(batch: Batch, values: Tensor, ids: int) -> Tensor:
    """[ids, 1] values of the batch's tokens at their ids."""
    return values.new_zeros(ids, 1).index_put((batch.tokens,), values[:, None])


def policy_only(subject: Subject) -> Subject | None:
    """The subject with the terms that vanish without advantage; None if there are none or they cannot stand alone."""
    kept = tuple(t for t in subject.objective.terms if t.vanishes)
    names = {t.name for t in kept}
    if not kept or any(isinstance(t.aggregate, Shared) and t.aggregate.term not in names for t in kept):
        return None
    return subject.with_objective(replace(subject.objective, terms=kept))


# ---- comparison ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What one trial of a check came to. `error` is relative to the largest entry; nan counts as infinite.

    `before` and `after` are the two gradients, if gradients were compared, under the names in `labels`; `skipped` says why
    the check does not apply; `note` is something to tell although nothing is wrong; `sample` is a batch that the check made
    itself.
    """

    error: float = 0.0
    message: str = ""
    before: Tensor | None = None
    after: Tensor | None = None
    labels: tuple[str, str] = ("gradient", "changed")
    skipped: str = ""
    note: str = ""
    sample: Sample | None = None


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest entry of either; inf if anything is not finite."""
    if not bool(torch.isfinite(a).all() & torch.isfinite(b).all()):
        return float("inf")
    if a.numel() == 0:
        return 0.0
    scale = max(float(a.abs().max()), float(b.abs().max()))
    return float((a - b).abs().max()) / scale if scale > 1e-12 else 0.0


def compared(before: Tensor, after: Tensor, message: str, labels: tuple[str, str] = ("gradient", "changed")) -> Found:
    """Two gradients that ought to be equal."""
    return Found(apart(before, after), message, before, after, labels)


def worst(found: Sequence[Found]) -> Found:
    """The worst of several trials; skipped only if all were."""
    done = [one for one in found if not one.skipped]
    return max(done, key=lambda one: one.error) if done else (found[0] if found else Found(skipped="nothing to look at"))


Test = Callable[[Subject, Sample], Found]
