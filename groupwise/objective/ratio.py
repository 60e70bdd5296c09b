"""Ratios: pi over the behaviour, per token, at the unit that the method says.

`log_ratio` [t] is the live log-prob minus the behaviour's, 0 outside the mask. Every ratio is returned per token.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from groupwise.errors import ObjectiveError
from groupwise.objective import levels
from groupwise.objective.batch import Batch
from groupwise.objective.latex import number


@runtime_checkable
class Ratio(Protocol):
    """rho from log-ratios; `unit` is the unit at which it is one number."""

    @property
    def unit(self) -> str:
        """The unit of one ratio."""
        ...

    def __call__(self, log_ratio: Float[Tensor, " t"], mask: Bool[Tensor, " t"], batch: Batch) -> Float[Tensor, " t"]:
        """One value per token."""
        ...


@dataclass(frozen=True)
class TokenRatio:
    """rho_t = pi(y_t) / mu(y_t) (PPO, GRPO, DAPO)."""

    unit: str = "token"

    def __call__(self, log_ratio: Float[Tensor, " t"], mask: Bool[Tensor, " t"], batch: Batch) -> Float[Tensor, " t"]:
        """Exp of the log-ratio."""
        return _exp(log_ratio)

    def latex(self) -> str:
        """Its equation."""
        return r"\frac{\pi_\theta(o_{i,t})}{\mu(o_{i,t})}"

    def slope_latex(self) -> str:
        """Its dlog(rho)/dl."""
        return "1"


@dataclass(frozen=True)
class SequenceRatio:
    """s_i = (pi(y_i) / mu(y_i))^(1/|y_i|): the length-normalised likelihood ratio (GSPO, arXiv 2507.18071, Eq. 7).

    `mean=False` is the plain likelihood ratio, the product over tokens.
    """

    mean: bool = True
    unit: str = "sequence"

    def __call__(self, log_ratio: Float[Tensor, " t"], mask: Bool[Tensor, " t"], batch: Batch) -> Float[Tensor, " t"]:
        """The unit's ratio at each of its tokens; the gradient goes through all of them."""
        ids = batch.ids("token", self.unit)
        total = levels.reduce(log_ratio, ids, batch.layout.size(self.unit), "mean" if self.mean else "sum", mask=mask)
        return levels.broadcast(_exp(total), ids)

    def latex(self) -> str:
        """Its equation."""
        product = r"\prod_{s} \frac{\pi_\theta(o_{i,s})}{\mu(o_{i,s})}"
        return rf"\left( {product} \right)^{{1/|o_i|}}" if self.mean else product

    def slope_latex(self) -> str:
        """Its dlog(rho)/dl, through every token of the unit."""
        return r"\frac{1}{|o_i|}" if self.mean else "1"


@dataclass(frozen=True)
class SequenceTokenRatio:
    """s_(i,t) = sg[s_i] pi(y_t) / sg[pi(y_t)]: the sequence ratio's value, the token's gradient (GSPO-token, Eq. 14)."""

    unit: str = "sequence"

    def __call__(self, log_ratio: Float[Tensor, " t"], mask: Bool[Tensor, " t"], batch: Batch) -> Float[Tensor, " t"]:
        """The unit's ratio at each token, detached, times a token factor of value 1."""
        whole = SequenceRatio(unit=self.unit)(log_ratio.detach(), mask, batch)
        return whole * (log_ratio - log_ratio.detach()).exp()

    def latex(self) -> str:
        """Its equation."""
        own = r"\frac{\pi_\theta(o_{i,t})}{\mathrm{sg}[\pi_\theta(o_{i,t})]}"
        return rf"\mathrm{{sg}}\left[{SequenceRatio(unit=self.unit).latex()}\right] \cdot {own}"

    def slope_latex(self) -> str:
        """Its dlog(rho)/dl: the token's own."""
        return "1"


@dataclass(frozen=True)
class HeldSequenceRatio:
    """(prod_t of token ratios, each held on the side where the advantage pushes)^(1/|y|) (GMPO, arXiv 2507.20673, Eq. 4).

    Log-ratios are held below `log_high` where A > 0 and above -`log_low` where A < 0: a held token has no gradient.
    """

    log_low: float = 0.4
    log_high: float = 0.4
    credit: str = "advantage"
    unit: str = "sequence"

    def __post_init__(self) -> None:
        if self.log_low <= 0 or self.log_high <= 0:
            raise ObjectiveError("held_sequence_ratio: log_low and log_high are positive distances in log space; got "
                                 f"{self.log_low} and {self.log_high}")

    def __call__(self, log_ratio: Float[Tensor, " t"], mask: Bool[Tensor, " t"], batch: Batch) -> Float[Tensor, " t"]:
        """The unit's ratio at each of its tokens."""
        advantage = batch.column(self.credit)
        held = log_ratio.where(advantage <= 0, log_ratio.clamp(max=self.log_high))
        held = held.where(advantage >= 0, held.clamp(min=-self.log_low))
        return SequenceRatio(unit=self.unit)(held, mask, batch)

    def latex(self) -> str:
        """Its equation."""
        low, high = rf"e^{{-{number(self.log_low)}}}", rf"e^{{{number(self.log_high)}}}"
        held = rf"\begin{{cases}} \min(\rho_s, {high}) & A > 0 \\ \max(\rho_s, {low}) & A < 0 \end{{cases}}"
        return (rf"\left( \prod_s {held} \right)^{{1/|o_i|}},\quad "
                r"\rho_s = \frac{\pi_\theta(o_{i,s})}{\mu(o_{i,s})}")

    def slope_latex(self) -> str:
        """Its dlog(rho)/dl, through every token of the unit."""
        return r"\frac{1}{|o_i|} \mathbb{1}[o_{i,t}\ \mathrm{not\ held}]"


def _exp(log_ratio: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The ratio, held below the overflow of fp32: inf times an advantage of 0 would make the whole step nan."""
    return log_ratio.clamp(max=80.0).exp()
