"""Baselines and scales: what is subtracted from a signal, and what it is divided by, over the cells of a unit or key."""

from dataclasses import dataclass
from math import exp, lgamma
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from groupwise.errors import ObjectiveError
from groupwise.objective import levels
from groupwise.objective.latex import number
from groupwise.objective.levels import How
from groupwise.objective.scored import Ids, Scored, Values

Singleton = Literal["zero", "raw", "drop", "refuse"]


@dataclass(frozen=True)
class Cells:
    """A signal `x` [n] of a unit, the cell of each, and which entries count: abstentions (False in `mask`) hold 0."""

    x: Values
    ids: Ids
    size: int
    mask: Bool[np.ndarray, " n"]
    unit: str
    table: Scored

    def reduce(self, how: How, x: Values | None = None, ddof: int = 1) -> Values:
        """[n] a statistic of each entry's cell, of the signal or of other values."""
        return levels.reduce(self.x if x is None else x, self.ids, self.size, how, mask=self.mask, ddof=ddof)[self.ids]

    @property
    def alone(self) -> Bool[np.ndarray, " n"]:
        """Which entries have a cell to themselves."""
        return self.reduce("sum", np.ones_like(self.x)) == 1

    @property
    def lengths(self) -> Values:
        """[n] trained tokens of each unit."""
        ids = self.table.layout.ids("token", self.unit)
        return levels.reduce(self.table.counted.astype(np.float64), ids, len(self.x), "sum")


@runtime_checkable
class Baseline(Protocol):
    """What is subtracted; `within_cells`: it looks at the unit's own cell only, and is its value where all are equal."""

    @property
    def singleton(self) -> Singleton:
        """What a cell of one gets."""
        ...

    @property
    def within_cells(self) -> bool:
        """Whether a cell of equal values gets exactly 0, and a cell of one needs a rule."""
        ...

    def __call__(self, cells: Cells) -> Values:
        """[n] one value per unit."""
        ...


@dataclass(frozen=True)
class NoBaseline:
    """0."""

    singleton: Singleton = "raw"
    within_cells: bool = False

    def __call__(self, cells: Cells) -> Values:
        """Zeros."""
        return np.zeros_like(cells.x)

    def latex(self) -> str:
        """Nothing."""
        return "0"


@dataclass(frozen=True)
class GroupMean:
    """The mean of the cell (GRPO, Dr. GRPO, DAPO)."""

    singleton: Singleton = "zero"
    within_cells: bool = True

    def __call__(self, cells: Cells) -> Values:
        """The cell's mean at each unit."""
        return cells.reduce("mean")

    def latex(self) -> str:
        """The mean."""
        return r"\bar r_g"


@dataclass(frozen=True)
class LeaveOneOut:
    """The mean of the others of the cell (RLOO, arXiv 2402.14740)."""

    singleton: Singleton = "zero"
    within_cells: bool = True

    def __call__(self, cells: Cells) -> Values:
        """(sum - x) / (n - 1)."""
        others = cells.reduce("sum", np.ones_like(cells.x)) - 1
        return (cells.reduce("sum") - cells.x) / np.maximum(others, 1)

    def latex(self) -> str:
        """The mean of the others."""
        return r"\frac{1}{G-1}\sum_{j \ne i} r_j"


@dataclass(frozen=True)
class LengthMean:
    """The mean of the cell, each unit weighed by its length (OPO, arXiv 2505.23585, Eq. 6)."""

    singleton: Singleton = "zero"
    within_cells: bool = True

    def __call__(self, cells: Cells) -> Values:
        """Sum |o| x / sum |o|."""
        n = cells.lengths
        return cells.reduce("sum", n * cells.x) / np.maximum(cells.reduce("sum", n), 1.0)

    def latex(self) -> str:
        """The mean by length."""
        return r"\frac{\sum_j |o_j|\, r_j}{\sum_j |o_j|}"


@dataclass(frozen=True)
class SecondBest:
    """The second largest value of the cell for the largest, its own value for all others: only the best keeps an advantage.

    Of a tie for the first place nobody does (GRPO-passk of verl, after arXiv 2503.19595).
    """

    singleton: Singleton = "zero"
    within_cells: bool = True

    def __call__(self, cells: Cells) -> Values:
        """[n]."""
        order = levels.rank(np.where(cells.mask, cells.x, -np.inf), cells.ids, cells.size)
        last = levels.reduce(order.astype(np.float64), cells.ids, cells.size, "max")[cells.ids]
        second = levels.reduce(cells.x, cells.ids, cells.size, "max", mask=cells.mask & (order < last))[cells.ids]
        return np.where(order == last, second, cells.x)

    def latex(self) -> str:
        """The second best."""
        return r"\begin{cases} r_{(2)} & r_i = r_{(1)} \\ r_i & \text{else} \end{cases}"


@dataclass(frozen=True)
class BatchMean:
    """The mean of everything in the batch (REINFORCE with a batch baseline)."""

    singleton: Singleton = "raw"
    within_cells: bool = False

    def __call__(self, cells: Cells) -> Values:
        """One number, everywhere."""
        return np.full_like(cells.x, cells.x[cells.mask].mean() if cells.mask.any() else 0.0)

    def latex(self) -> str:
        """The mean of the batch."""
        return r"\bar r"


@runtime_checkable
class Scale(Protocol):
    """What the centred signal is divided by."""

    def __call__(self, cells: Cells) -> Values:
        """[n] one value per unit, not 0."""
        ...


@dataclass(frozen=True)
class One:
    """1 (Dr. GRPO, RLOO)."""

    def __call__(self, cells: Cells) -> Values:
        """Ones."""
        return np.ones_like(cells.x)

    def latex(self) -> str:
        """One."""
        return "1"


@dataclass(frozen=True)
class GroupStd:
    """std of the cell + eps (GRPO, DAPO). ddof 1 is what TRL, verl, oat and OpenRLHF do; the papers do not say.

    A cell of one has a std of 1 here: it shows only where the baseline keeps such a cell's raw value (verl).
    """

    eps: float = 1e-6
    ddof: int = 1

    def __call__(self, cells: Cells) -> Values:
        """The cell's std at each unit."""
        return np.where(cells.alone, 1.0, cells.reduce("std", ddof=self.ddof)) + self.eps

    def latex(self) -> str:
        """The std of the group."""
        return r"\mathrm{std}_g(r)" + (f" + {number(self.eps)}" if self.eps else "")


@dataclass(frozen=True)
class BatchStd:
    """std of the raw signal over the whole batch + eps (Lite-PPO, arXiv 2508.08221; TRL's scale_rewards="batch")."""

    eps: float = 1e-6
    ddof: int = 1

    def __call__(self, cells: Cells) -> Values:
        """One number, everywhere."""
        known = cells.x[cells.mask]
        return np.full_like(cells.x, (known.std(ddof=self.ddof) if len(known) > self.ddof else 0.0) + self.eps)

    def latex(self) -> str:
        """The std of the batch."""
        return r"\mathrm{std}(r)" + (f" + {number(self.eps)}" if self.eps else "")


@dataclass(frozen=True)
class CellMean:
    """The mean of the cell, where it is positive (MaxRL, arXiv 2602.02710): x / mean - 1 weighs hard prompts up.

    Where no unit of a cell has a positive signal, everything in it is equal for rewards of 0 and 1, and the advantage is 0.
    """

    def __call__(self, cells: Cells) -> Values:
        """The mean, or infinity where it is not positive."""
        mean = cells.reduce("mean")
        return np.where(mean > 0, mean, np.inf)

    def latex(self) -> str:
        """The mean."""
        return r"\bar r_g"


@dataclass(frozen=True)
class NonZeroShare:
    """f times the share of the batch whose signal is not 0 (GPG, arXiv 2504.02546, Eq. 8: its alpha is the inverse).

    The paper counts groups with a gradient, the official code and verl rewards that are not 0; this does as the code does.
    """

    f: float = 1.0

    def __call__(self, cells: Cells) -> Values:
        """One number, everywhere."""
        known = cells.x[cells.mask]
        share = max(1, int(np.count_nonzero(known))) / max(1, len(known))
        return np.full_like(cells.x, self.f * share)

    def latex(self) -> str:
        """The share of non-zero rewards."""
        return r"f\,\frac{\#\{r \ne 0\}}{N}"


@dataclass(frozen=True)
class BetaDensity:
    """The density of a Beta distribution at the cell's mean reward (BNPO, arXiv 2506.02864, section 3.3, and its code).

    The mean rewards of the batch's cells are taken for draws of a Beta(a, b), fitted by mean and sample variance; the scale is
    the density of Beta(1 + a/3, 1 + b/3). One cell, or all alike: 1. Rewards lie between 0 and 1.
    """

    most: float = 1e6

    def __call__(self, cells: Cells) -> Values:
        """The density at each unit's cell, at least 1/most."""
        if bool((cells.mask & ((cells.x < 0) | (cells.x > 1))).any()):
            raise ObjectiveError(f"beta_density takes rewards between 0 and 1 for chances; got {cells.x.min():g} to "
                                 f"{cells.x.max():g}: name a component that is (--method bnpo --method-args reward=correct)")
        rate = levels.reduce(cells.x, cells.ids, cells.size, "mean", mask=cells.mask)
        alpha, beta = self.shape(rate[np.unique(cells.ids[cells.mask])])
        with np.errstate(divide="ignore", invalid="ignore"):
            powers = np.where(rate > 0, rate, 0.0) ** (alpha - 1) * np.where(rate < 1, 1 - rate, 0.0) ** (beta - 1)
        density = powers * exp(lgamma(alpha + beta) - lgamma(alpha) - lgamma(beta))
        return np.maximum(density, 1 / self.most)[cells.ids]

    def shape(self, rates: Values) -> tuple[float, float]:
        """The parameters of the density from the mean rewards [cells]."""
        variance = float(rates.var(ddof=1)) if len(rates) > 1 else 0.0
        if variance == 0.0:
            return 1.0, 1.0
        mean = float(rates.mean())
        strength = mean * (1 - mean) / variance - 1
        return max(1.0, 1 + strength * mean / 3), max(1.0, 1 + strength * (1 - mean) / 3)

    def latex(self) -> str:
        """The density."""
        return r"\mathrm{Beta}\left(\bar r_g;\, 1 + \tfrac{a}{3},\, 1 + \tfrac{b}{3}\right)"
