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

    def stopped(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> Bool[Tensor, " t"]:
        """Where the gradient is zero although the advantage is not."""
        ...


class Unstopped:
    """A trust rule that never takes the whole gradient away."""

    def stopped(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> Bool[Tensor, " t"]:
        """Nowhere."""
        return torch.zeros_like(ratio, dtype=torch.bool)


@dataclass(frozen=True)
class LogProb(Unstopped):
    """f = A log pi: REINFORCE; no ratio."""

    def __call__(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> PerToken:
        """A log pi."""
        return advantage * logp

    def latex(self) -> str:
        """Its equation."""
        return r"A \log \pi_\theta"

    def slope_latex(self) -> str:
        """Its df/dl."""
        return "A"


@dataclass(frozen=True)
class Unclipped(Unstopped):
    """f = rho A: the importance-weighted policy gradient."""

    def __call__(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> PerToken:
        """The weighted advantage."""
        return ratio * advantage

    def latex(self) -> str:
        """Its equation."""
        return r"\rho A"

    def slope_latex(self) -> str:
        """Its df/dl."""
        return r"\rho A"


@dataclass(frozen=True)
class Clip:
    """f = min(rho A, clip(rho, 1 - low, 1 + high) A) (PPO, arXiv 1707.06347, Eq. 7; DAPO's clip-higher: high > low).

    `dual` c > 1 bounds f from below by c A where A < 0 (dual clip, arXiv 1912.09729): no gradient for rho > c. `cap` bounds the
    ratio of the first branch by itself (two-sided clip of INTELLECT-2, arXiv 2505.07291, Eq. 2; TRL's delta): the same for A < 0,
    and for A > 0 nothing while the cap is above 1 + high.
    """

    low: float = 0.2
    high: float = 0.2
    dual: float | None = None
    cap: float | None = None

    def __post_init__(self) -> None:
        if self.low < 0 or self.high < 0:
            raise ObjectiveError(f"clip: low and high are offsets from 1 and not negative; got {self.low} and {self.high}")
        if self.dual is not None and self.dual <= 1:
            raise ObjectiveError(f"clip: the dual bound is a ratio above 1; got {self.dual}")
        if self.cap is not None and self.cap <= 1 + self.high:
            raise ObjectiveError(f"clip: the cap is a ratio above 1 + high = {1 + self.high:g}; got {self.cap}")

    def __call__(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> PerToken:
        """The pessimistic of the two."""
        free = ratio if self.cap is None else ratio.clamp(max=self.cap)
        f = torch.minimum(free * advantage, ratio.clamp(1 - self.low, 1 + self.high) * advantage)
        if self.dual is None:
            return f
        return torch.where(advantage < 0, torch.maximum(f, self.dual * advantage), f)

    def stopped(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> Bool[Tensor, " t"]:
        """Above the band with A > 0, below it with A < 0 (or above the dual bound)."""
        out = ((advantage > 0) & (ratio > 1 + self.high)) | ((advantage < 0) & (ratio < 1 - self.low))
        most = min((bound for bound in (self.dual, self.cap) if bound is not None), default=None)
        return out if most is None else out | ((advantage < 0) & (ratio > most))

    def latex(self) -> str:
        """Its equation."""
        low, high = number(1 - self.low), number(1 + self.high)
        free = r"\rho A" if self.cap is None else rf"\min(\rho, {number(self.cap)})\, A"
        clipped = rf"\min({free},\ \mathrm{{clip}}(\rho, {low}, {high})\, A)"
        if self.dual is None:
            return clipped
        return (rf"\begin{{cases}} \max({clipped},\ {number(self.dual)}\, A) & A < 0 \\ "
                rf"{clipped} & A \ge 0 \end{{cases}}")

    def slope_latex(self) -> str:
        """Its df/dl."""
        low, high = number(1 - self.low), number(1 + self.high)
        most = min((bound for bound in (self.dual, self.cap) if bound is not None), default=None)
        far = "" if most is None else rf" 0 & A < 0,\ \rho > {number(most)} \\"
        return (rf"\begin{{cases}} 0 & A > 0,\ \rho > {high} \\ 0 & A < 0,\ \rho < {low} \\{far} "
                r"\rho A & \mathrm{otherwise} \end{cases}")


@dataclass(frozen=True)
class DetachClip(Unstopped):
    """f = sg[clip(rho, 1 - low, 1 + high)] A log pi: every token keeps its gradient (CISPO, arXiv 2506.13585, Eq. 4-5).

    `low` None: no lower bound (as the paper trains).
    """

    low: float | None = None
    high: float = 4.0

    def __post_init__(self) -> None:
        if self.high < 0 or (self.low is not None and self.low < 0):
            raise ObjectiveError(f"detach_clip: low and high are offsets from 1 (a cap of 5 is high=4); got {self.low} and "
                                 f"{self.high}: a cap below 1 would shrink the weight of every token")

    def __call__(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> PerToken:
        """The bounded ratio weighs REINFORCE."""
        low = None if self.low is None else 1 - self.low
        return ratio.clamp(low, 1 + self.high).detach() * advantage * logp

    def latex(self) -> str:
        """Its equation."""
        return rf"{self.slope_latex()} \log \pi_\theta"

    def slope_latex(self) -> str:
        """Its df/dl."""
        cap = number(1 + self.high)
        bounded = rf"\min(\rho, {cap})" if self.low is None else rf"\mathrm{{clip}}(\rho, {number(1 - self.low)}, {cap})"
        return rf"\mathrm{{sg}}[{bounded}]\, A"


@dataclass(frozen=True)
class DetachCap(Unstopped):
    """f = sg[min(rho, cap)] A log pi: DetachClip whose bound is a ratio itself (TRL's `epsilon_high` of cispo; ScaleRL: 5).

    A cap below 1 shrinks every weight and is most likely an offset given by mistake: `below_one` has to say that it is meant.
    """

    cap: float = 5.0
    below_one: bool = False

    def __post_init__(self) -> None:
        if self.cap <= 0 or (self.cap < 1 and not self.below_one):
            raise ObjectiveError(f"detach_cap: the cap is a ratio, got {self.cap}: for an offset from 1 take DetachClip(high="
                                 f"{self.cap}); if every weight is to be shrunk, say below_one=True")

    def __call__(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> PerToken:
        """The bounded ratio weighs REINFORCE."""
        return ratio.clamp(max=self.cap).detach() * advantage * logp

    def latex(self) -> str:
        """Its equation."""
        return rf"{self.slope_latex()} \log \pi_\theta"

    def slope_latex(self) -> str:
        """Its df/dl."""
        return rf"\mathrm{{sg}}[\min(\rho, {number(self.cap)})]\, A"
