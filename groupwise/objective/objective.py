"""An Objective: credit, terms and correction, and the three things a trainer does with it.

columns = objective.credit(groups, batch, needed, state)     the advantage, once per rollout batch
batch   = objective.weigh(minibatch, total)                  the weights, once per optimiser step, before any backward
loss    = objective.loss(live, microbatch)                   a plain weighted sum: micro-batches and ranks only add
"""

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from groupwise.core.rollout import Group
from groupwise.errors import ObjectiveError, nearest
from groupwise.objective import levels
from groupwise.objective.aggregate import Aggregate, live_units
from groupwise.objective.batch import Batch, Column, Weight
from groupwise.objective.correction import Correction, Rejected, Uncorrected
from groupwise.objective.credit import Credit, kl_in_reward
from groupwise.objective.penalties import Kl
from groupwise.objective.scored import scored
from groupwise.objective.terms import (
    OLD,
    REACHES,
    RECORDED,
    SELF,
    Joint,
    Live,
    Mask,
    PerToken,
    Policy,
    Reach,
    Shared,
    Term,
    base_logp,
)

Total = Callable[[Tensor], Tensor]
NO_FACTORS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Seen:
    """What one term looked at in one micro-batch, detached: for the one place that makes metrics. `value` is the weighted sum of
    its losses, before its own coefficient.
    """

    term: Term
    value: float
    mask: Mask
    losses: Tensor
    ratio: PerToken | None = None
    stopped: Mask | None = None


@dataclass(frozen=True)
class Loss:
    """The value to differentiate, and what was seen on the way: `base` is what the ratios divide by, in logs; `dropped` counts
    tokens left out for a non-finite log-prob.
    """

    value: Float[Tensor, ""]
    seen: tuple[Seen, ...]
    base: PerToken
    correction: PerToken
    dropped: int


@dataclass(frozen=True)
class Objective:
    """A sum of terms over one credit. Two objectives are the same equation iff their `hash` is equal.

    `screen` takes tokens out of every sum and every denominator of an optimiser step before it is weighed (verl's rejection
    sampling); it looks at log-probs of the weights that sampled, which then are scored before (`old`).
    """

    credit_by: Credit
    terms: tuple[Term, ...]
    correction: Correction = field(default_factory=Uncorrected)
    screen: tuple[Rejected, ...] = ()

    def __post_init__(self) -> None:
        names = [term.name for term in self.terms]
        if not names or len(set(names)) < len(names):
            raise ObjectiveError(f"an objective needs terms with different names; got {names}")
        for term in self.terms:
            rule = term.aggregate
            others = (rule.term,) if isinstance(rule, Shared) else rule.terms if isinstance(rule, Joint) else ()
            for other in others:
                if other not in names:
                    raise ObjectiveError(f"the weights of {term.name!r} refer to a term {other!r}; {nearest(other, names)}")
                lender = self.terms[names.index(other)]
                if isinstance(rule, Shared) and (lender.unit != term.unit or isinstance(lender.aggregate, Shared)):
                    raise ObjectiveError(f"{term.name!r} ({term.unit} losses) cannot share the weights of {other!r} "
                                         f"({lender.unit} losses): name a term of the same unit that has weights of its own")
        self._refuse_double_counting()

    def _refuse_double_counting(self) -> None:
        penalties = [term for term in self.terms if isinstance(term, Kl) and term.coef]
        for i, term in enumerate(penalties):
            if term.against in [other.against for other in penalties[:i]]:
                raise ObjectiveError(f"two KL terms against {term.against!r} ({', '.join(t.name for t in penalties)}) penalise "
                                     "the same distance twice: keep one of them")
            if term.against == "ref_logp" and kl_in_reward(self.credit_by):
                raise ObjectiveError("the KL to the reference is a penalty in the reward and in the loss (the term "
                                     f"{term.name!r}, coef {term.coef}): it would be counted twice, so set one to 0")
        for own in self.terms:
            if self.correction.active and own.corrected != "none" and own.of_behaviour == ("recorded",):
                raise ObjectiveError(f"the term {own.name!r} sees tokens of behaviour 'recorded', whose ratio divides by the "
                                     f"engine already; the correction {describe(self.correction)} would count the mismatch "
                                     "twice: take Uncorrected()")

    @property
    def needs(self) -> frozenset[str]:
        """What must be scored besides the live log-probs."""
        return self.credit_by.needs.union(*(term.needs for term in self.terms), {"old"} if self.screen else ())

    @property
    def scored_before(self) -> frozenset[str]:
        """What must be scored before credit; the terms' own needs of the live distribution come with the live forward."""
        before = frozenset(n for n in self.needs if n.partition(":")[0] in ("old", "ref", "values", "teacher"))
        return self.credit_by.needs | before

    @property
    def reach(self) -> Reach:
        """The farthest reach of the terms: beyond `sequence`, the gradient takes two passes."""
        of_correction: Reach = getattr(self.correction, "reach", "sequence") if self.correction.active else "token"
        return max((of_correction, *(term.reach for term in self.terms)), key=REACHES.index)

    @property
    def depends_on_microbatches(self) -> bool:
        """Whether the gradient depends on how a step is cut: then `weigh` needs a batch that knows its parts."""
        return any(getattr(_rule(term), "depends_on_microbatches", False) for term in self.terms)

    @property
    def hash(self) -> str:
        """A name of the equation: a hash of the composition with all its numbers."""
        return hashlib.blake2b(describe(self).encode(), digest_size=8).hexdigest()

    def credit(self, groups: Sequence[Group], batch: Batch, needed: Mapping[str, Tensor], state: Any = None) -> dict[str, Column]:
        """The named columns of a packed batch. A critic's values enter as the column `values`."""
        arrays = {name: x.detach().cpu().numpy().astype(np.float64) for name, x in {**batch.columns, **needed}.items()}
        return self.credit_by(scored(groups, batch, arrays), state)

    def weigh(self, batch: Batch, total: Total = lambda counts: counts, *, factors: Mapping[str, float] = NO_FACTORS) -> Batch:
        """The weights of one optimiser step, from that step's tokens over all ranks (`total` adds counts over ranks).

        `factors` multiply the coefficients of the terms that they name, in this step.
        """
        for part in self.screen:
            batch = self._screened(part, batch)
        weights: dict[str, Weight] = {}
        for term in sorted(self.terms, key=lambda t: isinstance(t.aggregate, Shared)):
            if isinstance(term.aggregate, Shared):
                weights[term.name] = weights[term.aggregate.term]
                continue
            pool = term.mask(batch)
            if isinstance(term.aggregate, Joint):
                rule: Aggregate = term.aggregate.aggregate
                for other in self.terms:
                    pool = pool | other.mask(batch) if other.name in term.aggregate.terms else pool
            else:
                rule = term.aggregate
            values = rule.weights(batch, term.unit, pool, total(rule.counts(batch, term.unit, pool)))
            live = live_units(batch, term.unit, term.mask(batch) & batch.loss_mask)
            values = torch.where(live, values, 0.0)
            weights[term.name] = Weight(term.unit, values.to(batch.columns["engine_logp"].dtype))
        for name, factor in factors.items():
            if name not in weights:
                raise ObjectiveError(f"a coefficient is given for a term {name!r}; {nearest(name, weights)}")
            weights[name] = replace(weights[name], values=weights[name].values * factor)
        return replace(batch, weights=weights)

    def loss(self, live: Live, batch: Batch) -> Loss:
        """The weighted sum over a weighed batch, or any part of one that keeps what its reach needs together."""
        if not batch.weights:
            raise ObjectiveError("the batch was not weighed: call objective.weigh on the whole optimiser step first")
        base = base_logp(live, batch)
        finite = torch.isfinite(live.logp) & torch.isfinite(base)
        for name in ("ref_logp",) if "ref" in self.needs else ():
            finite &= torch.isfinite(batch.columns[name])
        clean = replace(live, logp=torch.where(finite, live.logp, 0.0), base=torch.where(finite, base, 0.0))
        correction = self._factor(clean, batch, finite)
        value, seen = live.logp.new_zeros(()), []
        for term in self.terms:
            mask = term.mask(batch) & batch.loss_mask
            mask &= finite if term.reach == "token" else _whole_rows(finite | ~mask, batch)
            factor = correction if term.corrected != "none" else torch.ones_like(correction)
            losses = term.losses(clean, batch, mask, factor)
            alive = live_units(batch, term.unit, mask)
            own = (batch.weights[term.name].values * torch.where(alive, losses, 0.0)).sum()
            value = value + term.coef * own
            seen.append(_seen(term, float(own.detach()), mask, losses, clean, batch))
        return Loss(value, tuple(seen), base, correction, int((~finite & batch.loss_mask).sum()))

    def idle(self, batch: Batch) -> Bool[np.ndarray, " s"]:
        """[sequences] those that cannot have a gradient: the advantage is 0 on all their tokens and every term vanishes there."""
        if not all(term.vanishes and isinstance(term, Policy) and term.reach in ("token", "sequence") for term in self.terms):
            return np.zeros(batch.layout.size("sequence"), dtype=np.bool_)
        acting = batch.loss_mask & torch.stack([batch.column(t.credit) != 0 for t in self.terms if isinstance(t, Policy)]).any(0)
        return ~live_units(batch, "sequence", acting).cpu().numpy()

    def _factor(self, live: Live, batch: Batch, finite: Mask) -> PerToken:
        """The correction: learner over engine, at the weights that sampled; 1 where there is nothing to correct."""
        here = live.logp.detach()
        if not self.correction.active:
            return torch.ones_like(here)
        if "old_logp" in batch.columns:
            here = torch.where(batch.behaviour == OLD, batch.columns["old_logp"], here)
        log_factor, mask = _mismatch(here, batch, finite)
        return self.correction(log_factor, mask, batch).detach()

    def _screened(self, part: Rejected, batch: Batch) -> Batch:
        """The batch without the tokens that a part of the screen rejects."""
        old = batch.columns["old_logp"]
        recorded = batch.loss_mask & (batch.behaviour == RECORDED)
        log_factor, mask = _mismatch(old, batch, torch.isfinite(old), recorded)
        kept = part.keeps(log_factor, mask, batch)
        return replace(batch, counted=batch.counted & kept, loss_mask=batch.loss_mask & kept)


def _mismatch(logp: PerToken, batch: Batch, finite: Mask, besides: Mask | None = None) -> tuple[PerToken, Mask]:
    """Log-probs of the weights that sampled, less the engine's, and where there is something to compare."""
    engine = batch.columns["engine_logp"]
    mask = batch.loss_mask & ((batch.behaviour == SELF) | (batch.behaviour == OLD))
    mask = (mask if besides is None else mask | besides) & torch.isfinite(engine) & finite
    return torch.where(mask, logp - engine, 0.0), mask


def _rule(term: Term) -> Any:
    """A term's own weight rule."""
    return term.aggregate.aggregate if isinstance(term.aggregate, Joint) else term.aggregate


def _whole_rows(good: Mask, batch: Batch) -> Mask:
    """Tokens of the sequences in which every token is good."""
    ids = batch.ids("token", "sequence")
    bad = levels.reduce((~good).double(), ids, batch.layout.size("sequence"), "sum")
    return (bad == 0)[ids]


def _seen(term: Term, value: float, mask: Mask, losses: Tensor, live: Live, batch: Batch) -> Seen:
    if not isinstance(term, Policy):
        return Seen(term, value, mask, losses.detach())
    with torch.no_grad():
        ratio = term.ratios(live, batch, mask)
        stopped = term.trust.stopped(ratio, batch.column(term.credit), live.logp) & mask
    return Seen(term, value, mask, losses.detach(), ratio.detach(), stopped)


def describe(part: Any) -> str:
    """The composition as text, every field written out: `Clip(low=0.2, high=0.28, dual=None)`. Its hash names the equation."""
    if is_dataclass(part) and not isinstance(part, type):
        inside = ", ".join(f"{f.name}={describe(getattr(part, f.name))}" for f in fields(part))
        return f"{type(part).__name__}({inside})"
    if isinstance(part, tuple | list):
        return f"({', '.join(describe(p) for p in part)})"
    if isinstance(part, frozenset | set):
        return f"{{{', '.join(sorted(describe(p) for p in part))}}}"
    if isinstance(part, int | float) and not isinstance(part, bool):
        return repr(int(part) if float(part).is_integer() else float(part))  # 4 and 4.0 are the same number
    if isinstance(part, partial):
        return f"partial({describe(part.func)}, {describe(part.args)}, {describe(sorted(part.keywords.items()))})"
    if callable(part):
        module, name = getattr(part, "__module__", None), getattr(part, "__qualname__", "")
        if module not in sys.modules or vars(sys.modules[module]).get(name) is not part:  # two could not be told apart
            raise ObjectiveError(f"{part!r} has no name that stands for what it computes: write it as a function of a module, "
                                 "or as a frozen dataclass with __call__")
        return f"{module}.{name}"
    return repr(part)
