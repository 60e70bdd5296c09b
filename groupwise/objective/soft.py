"""Trust without a hard edge: soft gates, weights and shaping in place of a clip, and tokens dropped by a divergence."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from groupwise.errors import ObjectiveError
from groupwise.objective.latex import number
from groupwise.objective.trust import PerToken, Unstopped


@dataclass(frozen=True)
class Sigmoid(Unstopped):
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

    def latex(self) -> str:
        """Its equation."""
        gates = [rf"{number(4 / tau)}\, \sigma({_times(tau)}(\rho - 1))\, A" for tau in (self.positive, self.negative)]
        return rf"\begin{{cases}} {gates[0]} & A > 0 \\ {gates[1]} & A \le 0 \end{{cases}}"

    def slope_latex(self) -> str:
        """Its df/dl."""
        both = [rf"4\, \sigma({_times(tau)}(\rho - 1))\, \sigma({_times(tau)}(1 - \rho))\, \rho A"
                for tau in (self.positive, self.negative)]
        return rf"\begin{{cases}} {both[0]} & A > 0 \\ {both[1]} & A \le 0 \end{{cases}}"


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

    def latex(self) -> str:
        """Its equation."""
        weight = self._weight()
        return self._kept(rf"\mathrm{{sg}}[{weight}]\, A \log \pi_\theta" if self.detach else rf"{weight}\, A")

    def slope_latex(self) -> str:
        """Its df/dl."""
        if self.detach or self.cap is None:
            return self._kept(rf"{self._weight()}\, A")
        return self._kept(r"\rho A", rf" 0 & \rho > {number(self.cap)} \\")

    def _weight(self) -> str:
        return r"\rho" if self.cap is None else rf"\min(\rho, {number(self.cap)})"

    def _kept(self, value: str, more: str = "") -> str:
        """A value where the token is kept, else 0."""
        if self.measure == "tv":
            far = (rf"0 & A > 0,\ \pi_\theta - \mu > {number(self.high)} \\ "
                   rf"0 & A \le 0,\ \pi_\theta - \mu < -{number(self.low)} \\")
        else:
            far = (rf"0 & A > 0,\ \pi_\theta > \mu,\ \mathrm{{kl}}(\mu, \pi_\theta) > {number(self.high)} \\ "
                   rf"0 & A \le 0,\ \pi_\theta < \mu,\ \mathrm{{kl}}(\mu, \pi_\theta) > {number(self.high)} \\")
        return rf"\begin{{cases}} {far}{more} {value} & \mathrm{{otherwise}} \end{{cases}}"


@dataclass(frozen=True)
class GammaWeight(Unstopped):
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

    def latex(self) -> str:
        """Its equation."""
        pairs = (self.k_positive, self.lambda_positive), (self.k_negative, self.lambda_negative)
        up, down = (rf"\mathrm{{sg}}[\rho^{{{number(k)}}} e^{{{number(rate)} (1 - \rho)}}]\, A \log \pi_\theta"
                    for k, rate in pairs)
        return rf"\begin{{cases}} {up} & A \ge 0 \\ {down} & A < 0 \end{{cases}}"

    def slope_latex(self) -> str:
        """Its df/dl."""
        return self.latex().replace(r" \log \pi_\theta", "")


@dataclass(frozen=True)
class Shaped(Unstopped):
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

    def latex(self) -> str:
        """Its equation."""
        return rf"\frac{{\rho}}{{\rho + {number(self.gamma)}}} A"

    def slope_latex(self) -> str:
        """Its df/dl."""
        return rf"\frac{{{number(self.gamma)} \rho}}{{(\rho + {number(self.gamma)})^2}} A"


def _by_sign(up: Bool[Tensor, " t"], one: float, other: float, like: PerToken) -> PerToken:
    """Two numbers by a condition, in the format of `like` (bare numbers would be rounded to fp32 first)."""
    return torch.where(up, like.new_tensor(one), like.new_tensor(other))


def _times(factor: float) -> str:
    """A factor before a bracket; nothing where it is 1."""
    return "" if factor == 1 else rf"{number(factor)} "
