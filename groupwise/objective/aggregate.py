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

    `within="group"` is DAPO's Eq. 8 read literally: 1/(P M_g), the token mean of each group, averaged over P groups. `counted`
    "live" leaves tokens that a mask dropped out of M too (TRL's dapo with masked truncations; verl's local counts).
    """

    within: str = "step"
    counted: str = "all"

    def __post_init__(self) -> None:
        if self.within not in ("step", "group"):
            raise ObjectiveError(f"token_mean is taken within the 'step' or within each 'group', not {self.within!r}")
        _check_counted("token_mean", self.counted)

    def counts(self, batch: Batch, unit: str, mask: Mask) -> Totals:
        """[tokens] or, within groups, [groups]."""
        known = mask & batch.loss_mask if self.counted == "live" else mask
        return _vector(batch, int(known.sum()) if self.within == "step" else batch.layout.groups)

    def weights(self, batch: Batch, unit: str, mask: Mask, totals: Totals) -> Float[Tensor, " n"]:
        """The same weight for all tokens (of a group)."""
        _only("token_mean", unit, ("token",))
        if self.within == "step":
            return mask.double() / totals[0].clamp(min=1)
        group = batch.ids("token", "group")
        tokens = levels.reduce(mask.double(), group, batch.layout.groups, "sum").clamp(min=1)
        return mask.double() / (tokens[group] * totals[0].clamp(min=1))

    def latex(self) -> str:
        """The weight."""
        tokens = "M" if self.counted == "all" else "M_{+}"
        return rf"\frac{{1}}{{{tokens}}}" if self.within == "step" else rf"\frac{{1}}{{P\, {tokens}^{{(g)}}}}"


@dataclass(frozen=True)
class MicroTokenMean:
    """w = 1/(K M_k): the mean over the K micro-batches of the step of their own token means.

    TRL's `bnpo`, and verl's legacy FSDP actor, which DAPO's own run used. A variant: the gradient depends on how the step is cut,
    which is why the cut has to be known before (`Batch.with_parts`).
    """

    depends_on_microbatches: bool = True

    def counts(self, batch: Batch, unit: str, mask: Mask) -> Totals:
        """[micro-batches]."""
        if "micro" not in batch.layout.keys:
            raise ObjectiveError("micro_token_mean depends on the micro-batches, and this batch does not know them: give the "
                                 "plan of the step with batch.with_parts before objective.weigh")
        return _vector(batch, batch.layout.size("micro"))

    def weights(self, batch: Batch, unit: str, mask: Mask, totals: Totals) -> Float[Tensor, " n"]:
        """One weight for all tokens of a micro-batch."""
        _only("micro_token_mean", unit, ("token",))
        ids = batch.ids("token", "micro")
        tokens = levels.reduce(mask.double(), ids, batch.layout.size("micro"), "sum").clamp(min=1)
        return mask.double() / (tokens[ids] * totals[0].clamp(min=1))

    def latex(self) -> str:
        """The weight."""
        return r"\frac{1}{K M_k}"


@dataclass(frozen=True)
class TokenSum:
    """w = 1/divisor: the sum over all tokens, divided by nothing that depends on the batch.

    verl's `token-sum`; with a divisor its earlier `seq-mean-token-sum-norm`, whose value grows with the batch.
    """

    divisor: float = 1.0

    def __post_init__(self) -> None:
        if self.divisor <= 0:
            raise ObjectiveError(f"token_sum: the divisor is positive; got {self.divisor}")

    def counts(self, batch: Batch, unit: str, mask: Mask) -> Totals:
        """Nothing has to be counted."""
        return _vector(batch, 0)

    def weights(self, batch: Batch, unit: str, mask: Mask, totals: Totals) -> Float[Tensor, " n"]:
        """1/divisor for every unit."""
        return torch.full((batch.layout.size(unit),), 1.0 / self.divisor, dtype=torch.float64, device=mask.device)

    def latex(self) -> str:
        """The weight."""
        return "1" if self.divisor == 1 else rf"\frac{{1}}{{{self.divisor:g}}}"


@dataclass(frozen=True)
class SequenceMean:
    """w = 1/(N |o_i|): the mean over each episode's tokens, then over N episodes (GRPO, DeepSeekMath Eq. 3; TRL `grpo`).

    `counted` "all" counts every episode of the step, masked or not (TRL; verl with global counts); "live" only those that a mask
    left a token of (verl's local counts, OpenRLHF).
    """

    counted: str = "all"

    def __post_init__(self) -> None:
        _check_counted("sequence_mean", self.counted)

    def counts(self, batch: Batch, unit: str, mask: Mask) -> Totals:
        """[episodes]."""
        if self.counted == "live":
            return _vector(batch, int(live_units(batch, "episode", mask & batch.loss_mask).sum()))
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
        """The weight, for losses of a unit."""
        inside = r"\, |o_i|" if unit == "token" else "" if unit == "episode" else r"\, n_i"
        return rf"\frac{{1}}{{{'N' if self.counted == 'all' else 'N_{+}'}{inside}}}"


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
        """The weight."""
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
        """The weight."""
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
        """The weight."""
        return r"\frac{1}{n}"


def live_units(batch: Batch, unit: str, mask: Mask) -> Bool[Tensor, " n"]:
    """Which units hold a token of the mask."""
    if unit == "token":
        return mask
    held = levels.reduce(mask.double(), batch.ids("token", unit), batch.layout.size(unit), "sum")
    return held > 0


def _vector(batch: Batch, *values: int) -> Totals:
    return torch.tensor(values, dtype=torch.float64, device=batch.tokens.device)


def _check_counted(name: str, counted: str) -> None:
    if counted not in ("all", "live"):
        raise ObjectiveError(f"{name} counts 'all' that is trained on or what is 'live' after masks, not {counted!r}")


def _only(name: str, unit: str, allowed: tuple[str, ...]) -> None:
    if unit not in allowed:
        raise ObjectiveError(f"{name} weighs {' or '.join(allowed)} losses, not {unit} losses; use unit_mean or sequence_mean")
