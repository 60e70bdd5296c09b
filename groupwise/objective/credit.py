"""Credit: from rewards to named advantage columns, in numpy, pure and detached.

    A = whiten(transform((x - baseline) / scale))          over the cells of a unit or key

`x` is a signal with one value per unit; cells are groups unless another key is named. Rollouts that abstain are not here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from groupwise.errors import ObjectiveError
from groupwise.objective import levels
from groupwise.objective.baselines import Baseline, Cells, GroupMean, One, Scale
from groupwise.objective.batch import Column
from groupwise.objective.latex import bracketed, equation, number
from groupwise.objective.scored import Scored, Values


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
        """The reward."""
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
        """The reward of a turn."""
        return "r_{i,k}"


@dataclass(frozen=True)
class RewardMinusKl:
    """r - beta sum_t (log pi_old - log pi_ref): the reference penalty in the reward, k1, detached (TRL RLOO; OpenRLHF)."""

    beta: float
    unit: str = "episode"
    needs: frozenset[str] = frozenset({"old", "ref"})

    @property
    def penalises(self) -> bool:
        """Whether there is a penalty."""
        return self.beta != 0

    def __call__(self, table: Scored) -> Values:
        """[episodes]."""
        old, ref = (np.where(table.counted, table.needed[name], 0.0) for name in ("old_logp", "ref_logp"))
        gap = old - ref
        ids = table.layout.ids("token", "episode")
        return table.reward - self.beta * levels.reduce(gap, ids, table.layout.size("episode"), "sum")

    def latex(self) -> str:
        """The reward R_i less the penalty."""
        old, ref = (rf"\log \pi_{{\mathrm{{{name}}}}}(o_{{i,t}})" for name in ("old", "ref"))
        return rf"R_i - {number(self.beta)} \sum_t \left( {old} - {ref} \right)"


@dataclass(frozen=True)
class RewardMinusGreedy:
    """r - r(greedy): the reward less that of the group's greedy rollout (ReMax). nan for the greedy one itself, and for a group
    that lacks it.
    """

    role: str = "greedy"
    unit: str = "episode"
    needs: frozenset[str] = frozenset()

    def __call__(self, table: Scored) -> Values:
        """[episodes]."""
        ids, size = table.layout.ids("episode", "group"), table.layout.size("group")
        greedy = np.array([r.episode.role == self.role for r in table.rollouts], dtype=np.bool_)
        found = levels.reduce(greedy.astype(np.float64), ids, size, "sum", mask=greedy)[ids] > 0
        baseline = levels.reduce(table.reward, ids, size, "mean", mask=greedy)[ids]
        return np.where(found & ~greedy, table.reward - baseline, np.nan)

    def latex(self) -> str:
        """The reward R_i less that of the greedy rollout."""
        return rf"R_i - R_{{\mathrm{{{self.role}}}}}"


@dataclass(frozen=True)
class Whiten:
    """(A - mean) / std over the whole batch, each unit counted once, or as often as it has trained tokens (`over` "token").

    `eps` goes where its source puts it: added to the std (TRL) or the variance (verl), or as the least variance (OpenRLHF).
    `centre` False only scales.
    """

    over: Literal["unit", "token"] = "token"
    ddof: int = 1
    eps: float = 1e-8
    place: Literal["std", "variance", "floor"] = "variance"
    centre: bool = True

    def __post_init__(self) -> None:
        if self.over not in ("unit", "token") or self.place not in ("std", "variance", "floor"):
            raise ObjectiveError("whiten: over is 'unit' or 'token' and place 'std', 'variance' or 'floor'; got "
                                 f"{self.over!r} and {self.place!r}")

    def __call__(self, values: Values, unit: str, table: Scored) -> Values:
        """[n] of the same unit; nan stays nan and is in no statistic."""
        known = np.isfinite(values)
        weight = known.astype(np.float64)
        if self.over == "token":
            ids = table.layout.ids("token", unit)
            weight = weight * levels.reduce(table.counted.astype(np.float64), ids, len(values), "sum")
        held, total = np.where(known, values, 0.0), max(1.0, weight.sum())
        mean = (weight * held).sum() / total
        variance = (weight * (held - mean) ** 2).sum() / max(1.0, total - self.ddof)
        divisor = {"std": np.sqrt(variance) + self.eps, "variance": np.sqrt(variance + self.eps),
                   "floor": np.sqrt(max(variance, self.eps))}[self.place]
        return np.asarray((values - mean * self.centre) / divisor)

    def latex(self) -> str:
        """What it does to A."""
        over = r"\text{tokens}" if self.over == "token" else r"\text{units}"
        return rf"\mathrm{{whiten}}_{{{over}}}"


@dataclass(frozen=True)
class Advantage:
    """A = whiten(transform((x - baseline) / scale)) over the cells of `key`, one value per unit of the signal.

    A cell whose values are all equal gets exactly 0 when the baseline is its mean. Abstentions (nan) are out of every
    statistic and get `nan`: no gradient.
    """

    baseline: Baseline = field(default_factory=GroupMean)
    scale: Scale = field(default_factory=One)
    signal: Reward | TurnReward | RewardMinusKl | RewardMinusGreedy = field(default_factory=Reward)
    key: str = "group"
    transform: Callable[[Values], Values] | None = None
    whiten: Whiten | None = None
    name: str = "advantage"

    @property
    def needs(self) -> frozenset[str]:
        """What the signal asks for."""
        return self.signal.needs

    def __call__(self, table: Scored, state: Any) -> dict[str, Column]:
        """One column at the signal's unit."""
        x, unit = self.signal(table), self.signal.unit
        mask = np.isfinite(x)
        cells = Cells(np.where(mask, x, 0.0), table.layout.ids(unit, self.key), table.layout.size(self.key), mask, unit, table)
        centred, scale = cells.x - self.baseline(cells), self.scale(cells)
        if self.baseline.within_cells:
            centred = np.where(cells.reduce("max") == cells.reduce("min"), 0.0, centred)
            centred = self._singletons(centred, cells)
        value = centred / scale
        if self.transform is not None:
            value = self.transform(value)
        if self.whiten is not None:
            value = self.whiten(np.where(mask, value, np.nan), unit, table)
        value = value * table.weight[table.layout.ids(unit, "episode")]
        return {self.name: Column(unit, np.where(mask, value, np.nan))}

    def _singletons(self, centred: Values, cells: Cells) -> Values:
        rule, alone = self.baseline.singleton, cells.alone
        if rule == "refuse" and alone.any():
            raise ObjectiveError(f"{int(alone.sum())} cell(s) of {self.key!r} hold one rollout, but {self.baseline} needs "
                                 "siblings: raise group_size, or choose the singleton rule 'zero', 'raw' or 'drop'")
        instead = cells.x if rule == "raw" else np.full_like(cells.x, np.nan if rule == "drop" else 0.0)
        return np.where(alone, instead, centred)

    def latex(self) -> str:
        """Its equation, of the signal r."""
        baseline, scale = equation(self.baseline, "(r)"), equation(self.scale, "(r)")
        centred = "r_i" if baseline == "0" else f"r_i - {bracketed(baseline)}"
        value = centred if scale == "1" else rf"\frac{{{centred}}}{{{scale}}}"
        if self.transform is not None:
            value = equation(self.transform, rf"\left( {value} \right)")
        return value if self.whiten is None else rf"{equation(self.whiten)}\left( {value} \right)"


@dataclass(frozen=True)
class Blend:
    """A weighted sum of advantages: of several rewards (GDPO), or at different units or keys (GiGPO: episode and anchor state).

    It is at the unit of the parts where they have one in common, else at the token. A part that abstains (nan) is left out of the
    sum, as in TRL (`nansum`); where all do, so does the sum.
    """

    parts: tuple[tuple[float, Advantage], ...]
    whiten: Whiten | None = None
    name: str = "advantage"

    @property
    def needs(self) -> frozenset[str]:
        """What the parts ask for."""
        return frozenset().union(*(part.needs for _, part in self.parts))

    def __call__(self, table: Scored, state: Any) -> dict[str, Column]:
        """One column."""
        columns = [(weight, column) for weight, part in self.parts for column in part(table, state).values()]
        units = {column.unit for _, column in columns}
        unit = units.pop() if len(units) == 1 else "token"
        spread = [(weight, column.values[table.layout.ids(unit, column.unit)]) for weight, column in columns]
        total = np.zeros(table.layout.size(unit))
        for weight, values in spread:
            total = total + weight * np.where(np.isnan(values), 0.0, values)
        total = np.where(np.all([np.isnan(values) for _, values in spread], axis=0), np.nan, total)
        return {self.name: Column(unit, total if self.whiten is None else self.whiten(total, unit, table))}

    def latex(self) -> str:
        """The sum; each part's r is its own signal."""
        total = " + ".join(rf"{number(weight)} \cdot {bracketed(equation(part))}" for weight, part in self.parts)
        return total if self.whiten is None else rf"{equation(self.whiten)}\left( {total} \right)"


def kl_in_reward(credit: Any) -> bool:
    """Whether a credit, in any of its parts, takes a KL penalty off the reward: parts that do say `penalises`."""
    if isinstance(credit, tuple | list):
        return any(map(kl_in_reward, credit))
    if not is_dataclass(credit):
        return False
    return bool(getattr(credit, "penalises", False)) or any(kl_in_reward(getattr(credit, f.name)) for f in fields(credit))
