"""Aggregation: a weight per unit, fixed for the whole optimiser step before any backward.

A rule works in two moves so that ranks only add: `counts` are sums over this rank's share of the step, `weights` is given
their totals over all ranks. Denominators count every trained token and every episode of the step, masked or not: a mask
takes a token out of the numerator only. An episode cut into several sequences counts once.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from groupwise.errors import ObjectiveError
from groupwise.objective import levels
from groupwise.objective.batch import Batch

Totals = Float[Tensor, " k"]
Mask = Bool[Tensor, " t"]


@runtime_checkable
class Aggregate(Protocol):
    """A weight rule. `mask` marks the term's tokens; counts add over ranks."""

    def counts(self, batch: Batch, unit: str, mask: Mask) -> Totals:
        """Sums over this rank, float64."""
        ...

    def weights(self, batch: Batch, unit: str, mask: Mask, totals: Totals) -> Float[Tensor, " n"]:
        """One weight per unit, float64."""
        ...


@dataclass(frozen=True)
class TokenMean:
    """w = 1/M, M the trained tokens of the optimiser step (DAPO's code; TRL `dapo`; verl `token-mean` with globals).

    `within="group"` is DAPO's Eq. 8 read literally: 1/(P M_g), the token mean of each group, averaged over P groups.
    """

    within: str = "step"

    def __post_init__(self) -> None:
        if self.within not in ("step", "group"):
            raise ObjectiveError(f"token_mean is taken within the 'step' or within each 'group', not {self.within!r}")

    def counts(self, batch: Batch, unit: str, mask: Mask) -> Totals:
        """[tokens] or, within groups, [groups]."""
        return _vector(batch, int(mask.sum()) if self.within == "step" else batch.layout.groups)

    def weights(self, batch: Batch, unit: str, mask: Mask, totals: Totals) -> Float[Tensor, " n"]:
        """The same weight for all tokens (of a group)."""
        _only("token_mean", unit, ("token",))
        if self.within == "step":
            return mask.double() / totals[0].clamp(min=1)
        group = batch.ids("token", "group")
        tokens = levels.reduce(mask.double(), group, batch.layout.groups, "sum").clamp(min=1)
        return mask.double() / (tokens[group] * totals[0].clamp(min=1))

    def latex(self) -> str:
        """Its equation."""
        return r"\frac{1}{M}" if self.within == "step" else r"\frac{1}{P\, M_g}"


@dataclass(frozen=True)
class SequenceMean:
    """w = 1/(N |o_i|): the mean over each episode's tokens, then over N episodes (GRPO, DeepSeekMath Eq. 3; TRL `grpo`)."""

    def counts(self, batch: Batch, unit: str, mask: Mask) -> Totals:
        """[episodes]."""
        return _vector(batch, batch.layout.size("episode"))

    def weights(self, batch: Batch, unit: str, mask: Mask, totals: Totals) -> Float[Tensor, " n"]:
        """1/(N |o_i|) per token; 1/N per episode, 1/(N s_i) for the s_i trained sequences or segments of an episode."""
        of_token = batch.ids("token", "episode")
        if unit == "token":
            live, ids = mask.double(), of_token
        else:
            ids = batch.ids(unit, "episode")
            live = live_units(batch, unit, mask).double()
        inside = levels.reduce(live, ids, batch.layout.size("episode"), "sum").clamp(min=1)
        return live / (inside[ids] * totals[0].clamp(min=1))

    def latex(self, unit: str = "token") -> str:
        """Its equation, for losses of a unit."""
        return r"\frac{1}{N\, |o_i|}" if unit == "token" else r"\frac{1}{N}" if unit == "episode" else r"\frac{1}{N\, n_i}"


@dataclass(frozen=True)
class SequenceSum:
    """w = 1/N: the sum over each episode's tokens, then the mean over N episodes (REINFORCE and RLOO theory)."""

    def counts(self, batch: Batch, unit: str, mask: Mask) -> Totals:
        """[episodes]."""
        return _vector(batch, batch.layout.size("episode"))

    def weights(self, batch: Batch, unit: str, mask: Mask, totals: Totals) -> Float[Tensor, " n"]:
        """1/N for every unit."""
        _only("sequence_sum", unit, ("token", "segment", "sequence", "episode"))
        return torch.full((batch.layout.size(unit),), 1.0, dtype=torch.float64, device=mask.device) / totals[0].clamp(min=1)

    def latex(self) -> str:
        """Its equation."""
        return r"\frac{1}{N}"


@dataclass(frozen=True)
class Constant:
    """w = 1/(N C), C a constant: the longest completion allowed (Dr. GRPO, arXiv 2503.20783, listing 1 and section 3.2)."""

    length: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ObjectiveError(f"constant: the length that sums are divided by must be at least 1, got {self.length}")

    def counts(self, batch: Batch, unit: str, mask: Mask) -> Totals:
        """[episodes]."""
        return _vector(batch, batch.layout.size("episode"))

    def weights(self, batch: Batch, unit: str, mask: Mask, totals: Totals) -> Float[Tensor, " n"]:
        """1/(N C) for every token."""
        return SequenceSum().weights(batch, unit, mask, totals) / self.length

    def latex(self) -> str:
        """Its equation."""
        return rf"\frac{{1}}{{N \cdot {self.length}}}"


@dataclass(frozen=True)
class UnitMean:
    """w = 1/n, n the units (or key cells) of the step that hold a trained token: for losses of a unit such as the group."""

    def counts(self, batch: Batch, unit: str, mask: Mask) -> Totals:
        """[live units]."""
        return _vector(batch, int(live_units(batch, unit, mask).sum()))

    def weights(self, batch: Batch, unit: str, mask: Mask, totals: Totals) -> Float[Tensor, " n"]:
        """1/n for every unit with a trained token."""
        return live_units(batch, unit, mask).double() / totals[0].clamp(min=1)

    def latex(self) -> str:
        """Its equation."""
        return r"\frac{1}{n}"


def live_units(batch: Batch, unit: str, mask: Mask) -> Bool[Tensor, " n"]:
    """Which units hold a token of the mask."""
    if unit == "token":
        return mask
    held = levels.reduce(mask.double(), batch.ids("token", unit), batch.layout.size(unit), "sum")
    return held > 0


def _vector(batch: Batch, *values: int) -> Totals:
    return torch.tensor(values, dtype=torch.float64, device=batch.tokens.device)


def _only(name: str, unit: str, allowed: tuple[str, ...]) -> None:
    if unit not in allowed:
        raise ObjectiveError(f"{name} weighs {' or '.join(allowed)} losses, not {unit} losses; use unit_mean or sequence_mean")
