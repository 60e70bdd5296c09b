"""Trust: how far an update may go. f(rho, A) is what is maximised; `stopped` marks tokens whose gradient it takes away.

`clip_low` and `clip_high` are offsets from 1 of a ratio.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from groupwise.errors import ObjectiveError

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


@dataclass(frozen=True)
class LogProb:
    """f = A log pi: REINFORCE; no ratio."""

    def __call__(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> PerToken:
        """A log pi."""
        return advantage * logp

    def stopped(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> Bool[Tensor, " t"]:
        """Nowhere."""
        return torch.zeros_like(ratio, dtype=torch.bool)


@dataclass(frozen=True)
class Unclipped:
    """f = rho A: the importance-weighted policy gradient."""

    def __call__(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> PerToken:
        """The weighted advantage."""
        return ratio * advantage

    def stopped(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> Bool[Tensor, " t"]:
        """Nowhere."""
        return torch.zeros_like(ratio, dtype=torch.bool)


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


@dataclass(frozen=True)
class DetachClip:
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

    def stopped(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> Bool[Tensor, " t"]:
        """Nowhere."""
        return torch.zeros_like(ratio, dtype=torch.bool)


@dataclass(frozen=True)
class DetachCap:
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

    def stopped(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> Bool[Tensor, " t"]:
        """Nowhere."""
        return torch.zeros_like(ratio, dtype=torch.bool)


@dataclass(frozen=True)
class Sigmoid:
    """f = 4/tau sigmoid(tau (rho - 1)) A, tau by the sign of A (SAPO, arXiv 2511.20347, Eq. 6): a soft gate in place of a clip.

    Its slope in log pi is 4 s (1 - s) rho A: A at rho = 1, falling smoothly on both sides.
    """

    positive: float = 1.0
    negative: float = 1.05

    def __post_init__(self) -> None:
        if self.positive <= 0 or self.negative <= 0:
            raise ObjectiveError(f"sigmoid: temperatures are positive; got {self.positive} and {self.negative}")

    def __call__(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> PerToken:
        """The gated advantage."""
        tau = _by_sign(advantage > 0, self.positive, self.negative, ratio)
        return 4 / tau * torch.sigmoid(tau * (ratio - 1)) * advantage

    def stopped(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> Bool[Tensor, " t"]:
        """Nowhere."""
        return torch.zeros_like(ratio, dtype=torch.bool)


@dataclass(frozen=True)
class Divergence:
    """f = keep sg[min(rho, cap)] A log pi, where keep drops tokens that moved too far from the sampler (DPPO, arXiv 2602.04879).

    `measure` "tv": kept while pi - mu <= high for A > 0, and >= -low for A <= 0; "kl": dropped where the divergence of the two
    coins (y_t or not) is above high and the step goes further away. `cap` None with `detach` False is prime-rl's f = keep rho A.
    The behaviour should be the sampler's (`recorded`).
    """

    measure: str = "tv"
    low: float = 0.15
    high: float = 0.15
    cap: float | None = 20.0
    detach: bool = True

    def __post_init__(self) -> None:
        if self.measure not in ("tv", "kl") or self.low < 0 or self.high < 0:
            raise ObjectiveError(f"divergence: measure is 'tv' or 'kl' and its bounds are not negative; got {self}")

    def __call__(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> PerToken:
        """The advantage of kept tokens."""
        weight = ratio if self.cap is None else ratio.clamp(max=self.cap)
        f = weight.detach() * advantage * logp if self.detach else weight * advantage
        return torch.where(self.far(ratio, advantage, logp), 0.0, f)

    def far(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> Bool[Tensor, " t"]:
        """Where a token is dropped, whatever its advantage."""
        here = logp.detach().exp()
        there = here / ratio.detach()
        if self.measure == "tv":
            return torch.where(advantage > 0, here - there > self.high, here - there < -self.low)
        small = torch.finfo(here.dtype).tiny
        others = (1 - there).clamp(min=0.0), (1 - here).clamp(min=0.0)
        distance = there * (there.clamp(min=small).log() - here.clamp(min=small).log())
        distance = distance + others[0] * (others[0].clamp(min=small).log() - others[1].clamp(min=small).log())
        away = torch.where(advantage > 0, here > there, here < there)
        return (distance > self.high) & away

    def stopped(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> Bool[Tensor, " t"]:
        """The dropped ones that have an advantage."""
        return self.far(ratio, advantage, logp) & (advantage != 0)


@dataclass(frozen=True)
class GammaWeight:
    """f = sg[phi(rho)] A log pi, phi(w) = e^lambda w^k e^(-lambda w), so that phi(1) = 1 (VESPO, TRL 1.16).

    (k, lambda) go by the sign of A. With a sequence ratio (the product over tokens) this is VESPO's objective; the ratio is held
    between `least` and `most`.
    """

    k_positive: float = 2.0
    lambda_positive: float = 3.0
    k_negative: float = 3.0
    lambda_negative: float = 2.0
    least: float = 1e-8
    most: float = 485165195.40978
    """e^20."""

    def __call__(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> PerToken:
        """The weighted REINFORCE term."""
        w = ratio.detach().clamp(self.least, self.most)
        up = advantage >= 0
        k, rate = _by_sign(up, self.k_positive, self.k_negative, w), _by_sign(up, self.lambda_positive, self.lambda_negative, w)
        return (rate + k * w.log() - rate * w).exp() * advantage * logp

    def stopped(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> Bool[Tensor, " t"]:
        """Nowhere."""
        return torch.zeros_like(ratio, dtype=torch.bool)


@dataclass(frozen=True)
class Shaped:
    """f = p / (p + gamma) A for tokens of unknown behaviour, whose ratio p = pi divides by 1 (LUFFY, arXiv 2504.14945, Eq. 7).

    It keeps learning from what the policy finds unlikely: the slope at small p is 1/gamma of that without shaping.
    """

    gamma: float = 0.1

    def __post_init__(self) -> None:
        if self.gamma <= 0:
            raise ObjectiveError(f"shaped: gamma is positive; got {self.gamma}")

    def __call__(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> PerToken:
        """The shaped advantage."""
        return ratio / (ratio + self.gamma) * advantage

    def stopped(self, ratio: PerToken, advantage: PerToken, logp: PerToken) -> Bool[Tensor, " t"]:
        """Nowhere."""
        return torch.zeros_like(ratio, dtype=torch.bool)


def _by_sign(up: Bool[Tensor, " t"], one: float, other: float, like: PerToken) -> PerToken:
    """Two numbers by a condition, in the format of `like` (bare numbers would be rounded to fp32 first)."""
    return torch.where(up, like.new_tensor(one), like.new_tensor(other))
