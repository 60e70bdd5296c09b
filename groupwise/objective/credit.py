"""Credit: from rewards to named advantage columns, in numpy, pure and detached.

    A = transform((x - baseline) / scale)          over the cells of a unit or key

`x` is a signal with one value per unit; cells are groups unless another key is named. Rollouts that abstain are not here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from groupwise.errors import ObjectiveError
from groupwise.objective import levels
from groupwise.objective.batch import Column
from groupwise.objective.latex import bracketed, equation, number
from groupwise.objective.scored import Ids, Scored, Values

Singleton = Literal["zero", "raw", "drop", "refuse"]


@runtime_checkable
class Credit(Protocol):
    """Named columns from a scored table and the method's state; `needs` names per-token values (old, ref, values)."""

    @property
    def needs(self) -> frozenset[str]:
        """What must be scored before."""
        ...

    def __call__(self, table: Scored, state: Any) -> dict[str, Column]:
        """The columns, `advantage` among them."""
        ...


@dataclass(frozen=True)
class Reward:
    """The episode's reward, or one of its components."""

    component: str | None = None
    unit: str = "episode"
    needs: frozenset[str] = frozenset()

    def __call__(self, table: Scored) -> Values:
        """[episodes]; nan where it abstains."""
        if self.component is None:
            return table.reward
        if self.component not in table.components:
            raise ObjectiveError(f"no reward component {self.component!r}; there are {sorted(table.components)}")
        return table.components[self.component]

    def latex(self) -> str:
        """Its equation."""
        return "r_i" if self.component is None else rf"r_i^{{\mathrm{{{self.component}}}}}"


@dataclass(frozen=True)
class TurnReward:
    """The reward that a turn earned by itself (components that target turns or spans)."""

    unit: str = "segment"
    needs: frozenset[str] = frozenset()

    def __call__(self, table: Scored) -> Values:
        """[segments]."""
        return table.turn_reward

    def latex(self) -> str:
        """Its equation."""
        return "r_{i,k}"


@dataclass(frozen=True)
class RewardMinusKl:
    """r - beta sum_t (log pi_old - log pi_ref): the reference penalty in the reward, k1, detached (TRL RLOO; OpenRLHF)."""

    beta: float
    unit: str = "episode"
    needs: frozenset[str] = frozenset({"old", "ref"})

    def __call__(self, table: Scored) -> Values:
        """[episodes]."""
        old, ref = (np.where(table.counted, table.needed[name], 0.0) for name in ("old_logp", "ref_logp"))
        gap = old - ref
        ids = table.layout.ids("token", "episode")
        return table.reward - self.beta * levels.reduce(gap, ids, table.layout.size("episode"), "sum")

    def latex(self) -> str:
        """Its equation."""
        old, ref = (rf"\log \pi_{{\mathrm{{{name}}}}}(o_{{i,t}})" for name in ("old", "ref"))
        return rf"r_i - {number(self.beta)} \sum_t \left( {old} - {ref} \right)"


@runtime_checkable
class Baseline(Protocol):
    """What is subtracted."""

    @property
    def singleton(self) -> Singleton:
        """What a cell of one gets."""
        ...

    def __call__(self, x: Values, ids: Ids, size: int, mask: Bool[np.ndarray, " n"]) -> Values:
        """One value per unit."""
        ...


@dataclass(frozen=True)
class NoBaseline:
    """0."""

    singleton: Singleton = "raw"

    def __call__(self, x: Values, ids: Ids, size: int, mask: Bool[np.ndarray, " n"]) -> Values:
        """Zeros."""
        return np.zeros_like(x)

    def latex(self) -> str:
        """Its equation."""
        return "0"


@dataclass(frozen=True)
class GroupMean:
    """The mean of the cell (GRPO, Dr. GRPO, DAPO)."""

    singleton: Singleton = "zero"

    def __call__(self, x: Values, ids: Ids, size: int, mask: Bool[np.ndarray, " n"]) -> Values:
        """The cell's mean at each unit."""
        return levels.broadcast(levels.reduce(x, ids, size, "mean", mask=mask), ids)

    def latex(self) -> str:
        """Its equation."""
        return r"\mathrm{mean}_g(x)"


@dataclass(frozen=True)
class LeaveOneOut:
    """The mean of the others of the cell (RLOO, arXiv 2402.14740)."""

    singleton: Singleton = "zero"

    def __call__(self, x: Values, ids: Ids, size: int, mask: Bool[np.ndarray, " n"]) -> Values:
        """(sum - x) / (n - 1)."""
        total = levels.reduce(x, ids, size, "sum", mask=mask)[ids]
        others = levels.reduce(np.ones_like(x), ids, size, "sum", mask=mask)[ids] - 1
        return (total - np.where(mask, x, 0.0)) / np.maximum(others, 1)

    def latex(self) -> str:
        """Its equation."""
        return r"\frac{1}{G-1} \sum_{j \ne i} x_j"


@dataclass(frozen=True)
class BatchMean:
    """The mean of everything in the batch (REINFORCE with a batch baseline)."""

    singleton: Singleton = "raw"

    def __call__(self, x: Values, ids: Ids, size: int, mask: Bool[np.ndarray, " n"]) -> Values:
        """One number, everywhere."""
        return np.full_like(x, x[mask].mean() if mask.any() else 0.0)

    def latex(self) -> str:
        """Its equation."""
        return r"\mathrm{mean}_{\mathrm{batch}}(x)"


@runtime_checkable
class Scale(Protocol):
    """What the centred signal is divided by."""

    def __call__(self, x: Values, ids: Ids, size: int, mask: Bool[np.ndarray, " n"]) -> Values:
        """One value per unit."""
        ...


@dataclass(frozen=True)
class One:
    """1 (Dr. GRPO, RLOO)."""

    def __call__(self, x: Values, ids: Ids, size: int, mask: Bool[np.ndarray, " n"]) -> Values:
        """Ones."""
        return np.ones_like(x)

    def latex(self) -> str:
        """Its equation."""
        return "1"


@dataclass(frozen=True)
class GroupStd:
    """std of the cell + eps (GRPO, DAPO). ddof 1 is what TRL, verl, oat and OpenRLHF do; the papers do not say."""

    eps: float = 1e-6
    ddof: int = 1

    def __call__(self, x: Values, ids: Ids, size: int, mask: Bool[np.ndarray, " n"]) -> Values:
        """The cell's std at each unit."""
        return levels.broadcast(levels.reduce(x, ids, size, "std", mask=mask, ddof=self.ddof), ids) + self.eps

    def latex(self) -> str:
        """Its equation."""
        return r"\mathrm{std}_g(x)" + (f" + {number(self.eps)}" if self.eps else "")


@dataclass(frozen=True)
class Advantage:
    """A = transform((x - baseline) / scale) over the cells of `key`, one value per unit of the signal.

    A cell whose values are all equal gets exactly 0 when the baseline is its mean. Abstentions (nan) are out of every
    statistic and get `nan`: no gradient.
    """

    baseline: Baseline = field(default_factory=GroupMean)
    scale: Scale = field(default_factory=One)
    signal: Reward | TurnReward | RewardMinusKl = field(default_factory=Reward)
    key: str = "group"
    transform: Callable[[Values], Values] | None = None
    name: str = "advantage"

    @property
    def needs(self) -> frozenset[str]:
        """What the signal asks for."""
        return self.signal.needs

    def __call__(self, table: Scored, state: Any) -> dict[str, Column]:
        """One column at the signal's unit."""
        x, unit = self.signal(table), self.signal.unit
        ids, size = table.layout.ids(unit, self.key), table.layout.size(self.key)
        mask = np.isfinite(x)
        x = np.where(mask, x, 0.0)
        centred = x - self.baseline(x, ids, size, mask)
        if not isinstance(self.baseline, NoBaseline | BatchMean):
            flat = levels.reduce(x, ids, size, "max", mask=mask) == levels.reduce(x, ids, size, "min", mask=mask)
            centred = np.where(flat[ids], 0.0, centred)
        value = centred / self.scale(x, ids, size, mask)
        value = self._singletons(value, x, ids, size, mask)
        if self.transform is not None:
            value = self.transform(value)
        value = value * table.weight[table.layout.ids(unit, "episode")]
        return {self.name: Column(unit, np.where(mask, value, np.nan))}

    def _singletons(self, value: Values, x: Values, ids: Ids, size: int, mask: Bool[np.ndarray, " n"]) -> Values:
        alone = (levels.reduce(np.ones_like(x), ids, size, "sum", mask=mask) == 1)[ids]
        rule = self.baseline.singleton
        if not alone.any() or (rule == "raw" and isinstance(self.baseline, NoBaseline | BatchMean)):
            return value
        if rule == "refuse":
            raise ObjectiveError(f"{int(alone.sum())} cell(s) of {self.key!r} hold one rollout, but {self.baseline} needs "
                                 "siblings: raise group_size, or choose the singleton rule 'zero', 'raw' or 'drop'")
        return np.where(alone, x if rule == "raw" else 0.0 if rule == "zero" else np.nan, value)

    def latex(self) -> str:
        """Its equation."""
        baseline, scale = equation(self.baseline, "(x)"), equation(self.scale, "(x)")
        centred = "x_i" if baseline == "0" else f"x_i - {bracketed(baseline)}"
        value = centred if scale == "1" else rf"\frac{{{centred}}}{{{scale}}}"
        return value if self.transform is None else equation(self.transform, rf"\left( {value} \right)")


@dataclass(frozen=True)
class Blend:
    """A weighted sum of advantages at different units or keys, at the token (GiGPO: episode plus anchor state)."""

    parts: tuple[tuple[float, Advantage], ...]
    name: str = "advantage"

    @property
    def needs(self) -> frozenset[str]:
        """What the parts ask for."""
        return frozenset().union(*(part.needs for _, part in self.parts))

    def __call__(self, table: Scored, state: Any) -> dict[str, Column]:
        """One column at the token."""
        total = np.zeros(table.layout.size("token"))
        for weight, part in self.parts:
            for column in part(table, state).values():
                total = total + weight * column.values[table.layout.ids("token", column.unit)]
        return {self.name: Column("token", total)}

    def latex(self) -> str:
        """Its equation."""
        return " + ".join(rf"{number(weight)} \cdot {bracketed(equation(part))}" for weight, part in self.parts)


@dataclass(frozen=True)
class Gae:
    """Generalised advantage estimation with a critic (arXiv 1506.02438, Eq. 16): delta_t = r_t + gamma V_(t+1) - V_t,
    A_t = delta_t + gamma lambda A_(t+1) over the trained tokens of an episode; the reward comes at its last trained token.

    Columns `advantage` and `returns` (A + V), at the token.
    """

    gamma: float = 1.0
    lam: float = 1.0
    needs: frozenset[str] = frozenset({"values"})

    def __call__(self, table: Scored, state: Any) -> dict[str, Column]:
        """Both columns."""
        ids, size = table.layout.ids("token", "episode"), table.layout.size("episode")
        mask, ones = table.counted, np.ones(len(table.counted))
        values = np.where(mask, table.needed["values"], 0.0)
        left = levels.scan(ones * mask, ids, size, "suffix")
        reward = np.where(mask & (left == 1), table.reward[ids], 0.0)
        # V at the next trained token: what the suffix sum loses between this token and the one after it.
        after = levels.scan(values, ids, size, "suffix", mask=mask, window=2) - values
        delta = np.where(mask, reward + self.gamma * after - values, 0.0)
        advantage = levels.scan(delta, ids, size, "suffix", mask=mask, gamma=self.gamma * self.lam)
        return {"advantage": Column("token", advantage), "returns": Column("token", advantage + values)}

    def latex(self) -> str:
        """Its equation."""
        decay = number(self.gamma * self.lam)
        ahead = "" if self.gamma == 1 else number(self.gamma) + r"\, "
        return (rf"\sum_{{s \ge t}} {decay}^{{s-t}} \delta_s,\quad \delta_t = r_t + {ahead}V_{{t+1}} - V_t" if decay != "1" else
                rf"\sum_{{s \ge t}} \delta_s,\quad \delta_t = r_t + {ahead}V_{{t+1}} - V_t")
