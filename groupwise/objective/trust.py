"""Trust: how far an update may go. f(rho, A) is what is maximised; `stopped` marks tokens whose gradient it takes away.

`clip_low` and `clip_high` are offsets from 1 of a ratio.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from groupwise.errors import ObjectiveError
from groupwise.objective.latex import number

PerToken = Float[Tensor, " t"]


@runtime_checkable
class Trust(Protocol):
    """f(rho, A, logp), per token."""

    def __call__(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> PerToken:
        """What is maximised."""
        ...

    def stopped(self, ratio: PerToken, advantage: PerToken) -> Bool[Tensor, " t"]:
        """Where the gradient is zero although the advantage is not."""
        ...


@dataclass(frozen=True)
class LogProb:
    """f = A log pi: REINFORCE; no ratio."""

    def __call__(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> PerToken:
        """A log pi."""
        return advantage * logp

    def stopped(self, ratio: PerToken, advantage: PerToken) -> Bool[Tensor, " t"]:
        """Nowhere."""
        return torch.zeros_like(ratio, dtype=torch.bool)

    def latex(self) -> str:
        """Its equation."""
        return r"A \log \pi_\theta"

    def slope_latex(self) -> str:
        """Its df/dl."""
        return "A"


@dataclass(frozen=True)
class Unclipped:
    """f = rho A: the importance-weighted policy gradient."""

    def __call__(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> PerToken:
        """The weighted advantage."""
        return ratio * advantage

    def stopped(self, ratio: PerToken, advantage: PerToken) -> Bool[Tensor, " t"]:
        """Nowhere."""
        return torch.zeros_like(ratio, dtype=torch.bool)

    def latex(self) -> str:
        """Its equation."""
        return r"\rho A"

    def slope_latex(self) -> str:
        """Its df/dl."""
        return r"\rho A"


@dataclass(frozen=True)
class Clip:
    """f = min(rho A, clip(rho, 1 - low, 1 + high) A) (PPO, arXiv 1707.06347, Eq. 7; DAPO's clip-higher: high > low).

    `dual` c > 1 bounds f from below by c A where A < 0 (dual clip, arXiv 1912.09729): no gradient for rho > c.
    """

    low: float = 0.2
    high: float = 0.2
    dual: float | None = None

    def __post_init__(self) -> None:
        if self.low < 0 or self.high < 0:
            raise ObjectiveError(f"clip: low and high are offsets from 1 and not negative; got {self.low} and {self.high}")
        if self.dual is not None and self.dual <= 1:
            raise ObjectiveError(f"clip: the dual bound is a ratio above 1; got {self.dual}")

    def __call__(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> PerToken:
        """The pessimistic of the two."""
        f = torch.minimum(ratio * advantage, ratio.clamp(1 - self.low, 1 + self.high) * advantage)
        if self.dual is None:
            return f
        return torch.where(advantage < 0, torch.maximum(f, self.dual * advantage), f)

    def stopped(self, ratio: PerToken, advantage: PerToken) -> Bool[Tensor, " t"]:
        """Above the band with A > 0, below it with A < 0 (or above the dual bound)."""
        out = ((advantage > 0) & (ratio > 1 + self.high)) | ((advantage < 0) & (ratio < 1 - self.low))
        return out if self.dual is None else out | ((advantage < 0) & (ratio > self.dual))

    def latex(self) -> str:
        """Its equation."""
        low, high = number(1 - self.low), number(1 + self.high)
        clipped = rf"\min(\rho A,\ \mathrm{{clip}}(\rho, {low}, {high})\, A)"
        if self.dual is None:
            return clipped
        bounded = rf"\max({clipped},\ {number(self.dual)}\, A)"
        return rf"\begin{{cases}} {bounded} & A < 0 \\ {clipped} & A \ge 0 \end{{cases}}"

    def slope_latex(self) -> str:
        """Its df/dl."""
        dual = "" if self.dual is None else rf" 0 & A < 0,\ \rho > {number(self.dual)} \\"
        low, high = number(1 - self.low), number(1 + self.high)
        return (rf"\begin{{cases}} 0 & A > 0,\ \rho > {high} \\ 0 & A < 0,\ \rho < {low} \\{dual} "
                r"\rho A & \mathrm{otherwise} \end{cases}")


@dataclass(frozen=True)
class DetachClip:
    """f = sg[clip(rho, 1 - low, 1 + high)] A log pi: every token keeps its gradient (CISPO, arXiv 2506.13585, Eq. 4-5).

    `low` None: no lower bound (as the paper trains).
    """

    low: float | None = None
    high: float = 4.0

    def __post_init__(self) -> None:
        if self.high < 0 or (self.low is not None and self.low < 0):
            raise ObjectiveError(f"detach_clip: low and high are offsets from 1 (a cap of 5 is high=4); "
                                 f"got {self.low} and {self.high}")

    def __call__(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> PerToken:
        """The bounded ratio weighs REINFORCE."""
        low = None if self.low is None else 1 - self.low
        return ratio.clamp(low, 1 + self.high).detach() * advantage * logp

    def stopped(self, ratio: PerToken, advantage: PerToken) -> Bool[Tensor, " t"]:
        """Nowhere."""
        return torch.zeros_like(ratio, dtype=torch.bool)

    def latex(self) -> str:
        """Its equation."""
        return rf"{self._factor_latex()}\, A \log \pi_\theta"

    def slope_latex(self) -> str:
        """Its df/dl."""
        return rf"{self._factor_latex()}\, A"

    def _factor_latex(self) -> str:
        cap = number(1 + self.high)
        bounded = rf"\min(\rho, {cap})" if self.low is None else rf"\mathrm{{clip}}(\rho, {number(1 - self.low)}, {cap})"
        return rf"\mathrm{{sg}}[{bounded}]"
