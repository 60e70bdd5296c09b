"""Correction of the mismatch between the engine that sampled and the learner that scores: a detached factor on the policy term.

`log_factor` [t] is the learner's log-prob at the engine's weights minus the engine's; it is 0 for tokens whose behaviour is
`recorded` (their ratio already divides by the engine) or that no engine sampled. A factor of 0 takes a token out of the
numerator; `Objective.screen` takes it out of the denominators too.
"""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from groupwise.errors import ObjectiveError
from groupwise.objective import levels
from groupwise.objective.batch import Batch

PerToken = Float[Tensor, " t"]
Mask = Bool[Tensor, " t"]


@runtime_checkable
class Correction(Protocol):
    """A detached factor per token; `active` False means that no factor is asked for; `reach` is how far it looks."""

    @property
    def active(self) -> bool:
        """Whether there is anything to compute."""
        ...

    @property
    def reach(self) -> str:
        """Token, sequence or step."""
        ...

    def __call__(self, log_factor: PerToken, mask: Mask, batch: Batch) -> PerToken:
        """The factor."""
        ...


@dataclass(frozen=True)
class Uncorrected:
    """Factor 1: the engine is taken to be the learner."""

    active: bool = False
    reach: str = "token"

    def __call__(self, log_factor: PerToken, mask: Mask, batch: Batch) -> PerToken:
        """Ones."""
        return torch.ones_like(log_factor)

    def latex(self) -> str:
        """One."""
        return "1"


@dataclass(frozen=True)
class Truncated:
    """min(c, cap), c at a token or as the product over a sequence (TIS); `floor` bounds it from below as well (TRL, OpenRLHF).

    `mean` takes the geometric mean over the sequence in place of the product.
    """

    cap: float = 2.0
    unit: str = "token"
    floor: float | None = None
    mean: bool = False
    active: bool = True
    reach: str = "sequence"

    def __post_init__(self) -> None:
        _check(self.unit)

    def __call__(self, log_factor: PerToken, mask: Mask, batch: Batch) -> PerToken:
        """The bounded factor."""
        return _at(log_factor, mask, batch, self.unit, self.mean).exp().clamp(self.floor, self.cap)

    def latex(self) -> str:
        """The bound."""
        return rf"\min(c,\, {self.cap:g})" if self.floor is None else rf"\mathrm{{clip}}(c,\, {self.floor:g},\, {self.cap:g})"


@dataclass(frozen=True)
class Masked:
    """c where low <= c <= high, else 0, c at a token or as the product over a sequence (masked importance sampling, IcePop)."""

    low: float = 0.5
    high: float = 5.0
    unit: str = "token"
    active: bool = True
    reach: str = "sequence"

    def __post_init__(self) -> None:
        _check(self.unit)

    def __call__(self, log_factor: PerToken, mask: Mask, batch: Batch) -> PerToken:
        """The factor, or 0 outside the band."""
        factor = _at(log_factor, mask, batch, self.unit).exp()
        return factor * ((factor >= self.low) & (factor <= self.high))

    def latex(self) -> str:
        """The band."""
        return rf"c\,\mathbb{{1}}[{self.low:g} \le c \le {self.high:g}]"


STATISTICS = ("ratio", "inverse", "k2", "k3")


@dataclass(frozen=True)
class Rejected:
    """1 where a statistic of the mismatch lies in [low, high], else 0; times `weight`, if there is one (rejection sampling).

    statistic   "ratio" c, "inverse" 1/c (verl's k1), "k2" (log c)^2 / 2, "k3" c - log c - 1
    over        "token", or what is taken over a sequence: "sum" (of logs: the product), "mean" (geometric), "max", "min"
    `low` None or `high` None: no bound on that side.
    """

    statistic: str = "ratio"
    over: str = "mean"
    low: float | None = 0.999
    high: float | None = 1.001
    weight: Truncated | Masked | None = None
    active: bool = True
    reach: str = "sequence"

    def __post_init__(self) -> None:
        if self.statistic not in STATISTICS or self.over not in ("token", "sum", "mean", "max", "min"):
            raise ObjectiveError(f"rejected: the statistic is one of {', '.join(STATISTICS)}, over token, sum, mean, max or min; "
                                 f"got {self.statistic!r} over {self.over!r}")

    def __call__(self, log_factor: PerToken, mask: Mask, batch: Batch) -> PerToken:
        """The weight of what is kept."""
        kept = self.keeps(log_factor, mask, batch)
        weight = torch.ones_like(log_factor) if self.weight is None else self.weight(log_factor, mask, batch)
        return torch.where(kept, weight, 0.0)

    def keeps(self, log_factor: PerToken, mask: Mask, batch: Batch) -> Mask:
        """[t] True: kept."""
        logs = self.statistic in ("ratio", "inverse")
        each = {"ratio": log_factor, "inverse": -log_factor, "k2": 0.5 * log_factor**2,
                "k3": torch.expm1(log_factor) - log_factor}[self.statistic]
        if self.over != "token":
            ids, size = batch.ids("token", "sequence"), batch.layout.size("sequence")
            each = levels.reduce(each, ids, size, self.over, mask=mask)[ids]  # type: ignore[arg-type]
        value = each.exp() if logs else each
        kept = torch.ones_like(mask)
        if self.low is not None:
            kept &= value >= self.low
        if self.high is not None:
            kept &= value <= self.high
        return kept | ~mask

    def latex(self) -> str:
        """The band."""
        name = {"ratio": "c", "inverse": "1/c", "k2": r"\tfrac12 \log^2 c", "k3": r"c - \log c - 1"}[self.statistic]
        whole = name if self.over == "token" else rf"\mathrm{{{self.over}}}_t\,({name})"
        low, high = ("" if self.low is None else rf"{self.low:g} \le ", "" if self.high is None else rf" \le {self.high:g}")
        return rf"\mathbb{{1}}[{low}{whole}{high}]" + ("" if self.weight is None else rf"\,{self.weight.latex()}")


@dataclass(frozen=True)
class Normalised:
    """Another factor over its mean in the step (verl's rollout_is_batch_normalize): its bound is no longer one of c."""

    inner: Truncated | Masked | Rejected = field(default_factory=Truncated)
    active: bool = True
    reach: str = "step"

    def __call__(self, log_factor: PerToken, mask: Mask, batch: Batch) -> PerToken:
        """The factor over its mean: by tokens, or by sequences where it is one number for a sequence."""
        factor = self.inner(log_factor, mask, batch)
        if getattr(self.inner, "unit", "token") == "token":
            known = factor[mask]
        else:
            ids, size = batch.ids("token", "sequence"), batch.layout.size("sequence")
            known = levels.reduce(factor, ids, size, "mean", mask=mask)[levels.reduce(mask.double(), ids, size, "sum") > 0]
        return factor / known.mean().clamp(min=torch.finfo(factor.dtype).tiny) if len(known) else factor

    def latex(self) -> str:
        """The quotient."""
        return rf"\frac{{{self.inner.latex()}}}{{\overline{{\,\cdot\,}}}}"


def _check(unit: str) -> None:
    if unit not in ("token", "segment", "sequence"):  # a micro-batch may hold a part of anything larger
        raise ObjectiveError(f"a correction is taken at a token, segment or sequence, not at {unit!r}")


def _at(log_factor: PerToken, mask: Mask, batch: Batch, unit: str, mean: bool = False) -> PerToken:
    if unit == "token":
        return log_factor
    ids = batch.ids("token", unit)
    whole = levels.reduce(log_factor, ids, batch.layout.size(unit), "mean" if mean else "sum", mask=mask)
    return levels.broadcast(whole, ids)
