"""Correction of the mismatch between the engine that sampled and the learner that scores: a detached factor on the policy term.

`log_factor` [t] is the learner's log-prob at the engine's weights minus the engine's; it is 0 for tokens whose behaviour is
`recorded` (their ratio already divides by the engine) or that no engine sampled.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from groupwise.errors import ObjectiveError
from groupwise.objective import levels
from groupwise.objective.batch import Batch
from groupwise.objective.latex import number

PerToken = Float[Tensor, " t"]


@runtime_checkable
class Correction(Protocol):
    """A detached factor per token; `active` False means that no factor is asked for."""

    @property
    def active(self) -> bool:
        """Whether there is anything to compute."""
        ...

    def __call__(self, log_factor: PerToken, mask: Bool[Tensor, " t"], batch: Batch) -> PerToken:
        """The factor."""
        ...


@dataclass(frozen=True)
class Uncorrected:
    """Factor 1: the engine is taken to be the learner."""

    active: bool = False

    def __call__(self, log_factor: PerToken, mask: Bool[Tensor, " t"], batch: Batch) -> PerToken:
        """Ones."""
        return torch.ones_like(log_factor)

    def latex(self) -> str:
        """Its equation."""
        return "1"


@dataclass(frozen=True)
class Truncated:
    """min(c, cap), c at a token or as the product over a sequence (truncated importance sampling)."""

    cap: float = 2.0
    unit: str = "token"
    active: bool = True

    def __post_init__(self) -> None:
        _check(self.unit)

    def __call__(self, log_factor: PerToken, mask: Bool[Tensor, " t"], batch: Batch) -> PerToken:
        """The bounded factor."""
        return _at(log_factor, mask, batch, self.unit).exp().clamp(max=self.cap)

    def latex(self) -> str:
        """Its equation."""
        return rf"\min({_latex(self.unit)},\ {number(self.cap)})"


@dataclass(frozen=True)
class Masked:
    """c where low <= c <= high, else 0, c at a token or as the product over a sequence (masked importance sampling, IcePop)."""

    low: float = 0.5
    high: float = 5.0
    unit: str = "token"
    active: bool = True

    def __post_init__(self) -> None:
        _check(self.unit)

    def __call__(self, log_factor: PerToken, mask: Bool[Tensor, " t"], batch: Batch) -> PerToken:
        """The factor, or 0 outside the band."""
        factor = _at(log_factor, mask, batch, self.unit).exp()
        return factor * ((factor >= self.low) & (factor <= self.high))

    def latex(self) -> str:
        """Its equation."""
        factor = _latex(self.unit)
        return (rf"\begin{{cases}} {factor} & {number(self.low)} \le {factor} \le {number(self.high)} \\ "
                r"0 & \mathrm{otherwise} \end{cases}")


def _check(unit: str) -> None:
    if unit not in ("token", "segment", "sequence"):  # a micro-batch may hold a part of anything larger
        raise ObjectiveError(f"a correction is taken at a token, segment or sequence, not at {unit!r}")


def _latex(unit: str) -> str:
    """The factor before it is bounded; pi_old is the learner, mu_eng the engine, at the weights that sampled."""
    if unit == "token":
        return r"\frac{\pi_{\mathrm{old}}(o_{i,t})}{\mu_{\mathrm{eng}}(o_{i,t})}"
    return rf"\prod_{{s \in \mathrm{{{unit}}}}} \frac{{\pi_{{\mathrm{{old}}}}(o_{{i,s}})}}{{\mu_{{\mathrm{{eng}}}}(o_{{i,s}})}}"


def _at(log_factor: PerToken, mask: Bool[Tensor, " t"], batch: Batch, unit: str) -> PerToken:
    if unit == "token":
        return log_factor
    ids = batch.ids("token", unit)
    return levels.broadcast(levels.reduce(log_factor, ids, batch.layout.size(unit), "sum", mask=mask), ids)
