"""Terms: the summands of an objective. Each has a loss function at a unit, a weight rule, and a reach.

    loss = sum_k coef_k * sum_u w_k[u] * L_k[u]

A new kind of loss is a subclass of `Term` with its own `losses`; everything else (weights, micro-batches, ranks, two
passes for a reach beyond the sequence) follows from what it declares.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from groupwise.core.rollout import BEHAVIOURS
from groupwise.errors import ObjectiveError
from groupwise.objective.aggregate import Aggregate, TokenMean
from groupwise.objective.batch import Batch
from groupwise.objective.gates import Gate, Sight
from groupwise.objective.latex import equation, number
from groupwise.objective.ratio import Ratio, TokenRatio
from groupwise.objective.trust import Clip, Trust

Mask = Bool[Tensor, " t"]
Reach = Literal["token", "sequence", "group", "step"]
REACHES: tuple[Reach, ...] = ("token", "sequence", "group", "step")
PerToken = Float[Tensor, " t"]

LEAST = 1e-30
"""What a correction of 0 counts for inside a ratio, so that its logarithm is finite."""
SELF, OLD, RECORDED, UNKNOWN = (BEHAVIOURS.index(b) for b in ("self", "old", "recorded", "unknown"))


@dataclass(frozen=True)
class Live:
    """What the current forward gives, per token, with gradient; entries outside the mask are 0. `base` is `base_logp` of it,
    once that is known.
    """

    logp: PerToken
    entropy: PerToken | None = None
    sum_p2: PerToken | None = None
    values: PerToken | None = None
    hidden: Float[Tensor, "t h"] | None = None
    base: PerToken | None = None


@dataclass(frozen=True)
class Shared:
    """A weight rule: the weights of another term."""

    term: str = "policy"


@dataclass(frozen=True)
class Joint:
    """A weight rule: an aggregation whose denominators count this term's tokens and those of other terms together."""

    aggregate: Aggregate
    terms: tuple[str, ...]


WeightRule = Aggregate | Shared | Joint


@dataclass(frozen=True, kw_only=True)
class Term:
    """One summand. `reach` is how far one loss looks: at its token, its sequence, its group, or the whole optimiser step.

    `corrected`: the mismatch correction multiplies the loss (outside), is read by the loss itself (inside), or not (none).
    `vanishes`: the loss has no gradient where the advantage is 0. `of_behaviour` limits the term to tokens of these behaviours.
    """

    name: str
    unit: str = "token"
    coef: float = 1.0
    aggregate: WeightRule = field(default_factory=TokenMean)
    reach: Reach = "token"
    corrected: Literal["outside", "inside", "none"] = "none"
    vanishes: bool = False
    needs: frozenset[str] = frozenset()
    of_behaviour: tuple[str, ...] = ()

    def mask(self, batch: Batch) -> Mask:
        """The term's tokens, dropped ones included."""
        if not self.of_behaviour:
            return batch.counted
        wanted = torch.tensor([BEHAVIOURS.index(b) for b in self.of_behaviour], device=batch.tokens.device)
        return batch.counted & torch.isin(batch.behaviour, wanted)

    def losses(self, live: Live, batch: Batch, mask: Mask, correction: PerToken) -> Float[Tensor, " n"]:
        """One loss per unit; `mask` holds the tokens that may be looked at, `correction` is detached."""
        raise ObjectiveError(f"the term {self.name!r} does not say what its losses are: write `losses` in your subclass")


def base_logp(live: Live, batch: Batch) -> PerToken:
    """[t] log of what each token's ratio divides by, detached."""
    if live.base is not None:
        return live.base
    base = live.logp.detach()
    if "old_logp" in batch.columns:
        base = torch.where(batch.behaviour == OLD, batch.columns["old_logp"], base)
    elif bool((batch.counted & (batch.behaviour == OLD)).any()):
        raise ObjectiveError("the batch has tokens of behaviour 'old' but no old_logp: score them before the first update")
    base = torch.where(batch.behaviour == RECORDED, batch.columns["engine_logp"], base)
    return torch.where(batch.behaviour == UNKNOWN, torch.zeros_like(base), base)


@dataclass(frozen=True, kw_only=True)
class Policy(Term):
    """L_t = -c_t f(rho_t, A_t): the policy-gradient term, from a ratio and a trust rule.

    `gates` leave tokens out of the numerator. `elsewhere` is the trust for tokens of unknown behaviour (teacher traces, whose
    ratio divides by 1); without it such tokens are refused. With `corrected` "inside" the correction is part of the ratio.
    """

    name: str = "policy"
    ratio: Ratio = field(default_factory=TokenRatio)
    trust: Trust = field(default_factory=Clip)
    credit: str = "advantage"
    gates: tuple[Gate, ...] = ()
    elsewhere: Trust | None = None
    corrected: Literal["outside", "inside", "none"] = "outside"
    vanishes: bool = True

    def __post_init__(self) -> None:
        of_ratio = "token" if self.ratio.unit == "token" else "group" if self.ratio.unit in ("episode", "group") else "sequence"
        reaches = (self.reach, of_ratio, *(gate.reach for gate in self.gates))
        object.__setattr__(self, "reach", max(reaches, key=REACHES.index))
        object.__setattr__(self, "needs", self.needs.union(*(gate.needs for gate in self.gates)))

    def losses(self, live: Live, batch: Batch, mask: Mask, correction: PerToken) -> PerToken:
        """[t] -c f(rho, A)."""
        inside = correction if self.corrected == "inside" else None
        ratio, advantage = self.ratios(live, batch, mask, inside), batch.column(self.credit)
        f = self.trust(ratio, advantage, live.logp)
        unknown = mask & (batch.behaviour == UNKNOWN)
        if bool(unknown.any()):
            if self.elsewhere is None:
                raise ObjectiveError(f"{int(unknown.sum())} tokens have behaviour 'unknown' (their ratio divides by 1), but the "
                                     "policy term has no trust rule for them: give `elsewhere`")
            own = torch.where(unknown, live.logp, 0.0)  # before exp: what overflows elsewhere would leave nan gradients
            f = torch.where(unknown, self.elsewhere(own.exp(), advantage, own), f)
        if self.gates:
            f = torch.where(self.open(live, batch, mask, ratio), f, 0.0)
        return -f if inside is not None else -correction * f

    def ratios(self, live: Live, batch: Batch, mask: Mask, inside: PerToken | None = None) -> PerToken:
        """[t] the ratio at the method's unit; `inside` is a correction that is part of it."""
        known = mask & (batch.behaviour != UNKNOWN)  # a ratio to 1 has no place in the ratio of a sequence
        log_ratio = torch.where(known, live.logp - base_logp(live, batch), 0.0)
        if inside is not None:
            log_ratio = log_ratio + torch.where(known, inside, 1.0).clamp(min=LEAST).log()
        return self.ratio(log_ratio, known, batch)

    def open(self, live: Live, batch: Batch, mask: Mask, ratio: PerToken) -> Mask:
        """[t] the tokens that all gates keep."""
        advantage, logp, here = batch.column(self.credit), live.logp.detach(), ratio.detach()
        sight = Sight(batch, mask, logp, base_logp(live, batch), advantage, self.trust.stopped(here, advantage, logp),
                      None if live.entropy is None else live.entropy.detach())
        kept = torch.ones_like(mask)
        for gate in self.gates:
            kept &= gate(sight)
        return kept

    def latex(self) -> str:
        """Its equation: C is the mismatch correction, k the product of the gates."""
        gated = r"k\, " if self.gates else ""
        outside = r"C\, " if self.corrected == "outside" else ""
        return "-" + outside + gated + equation(self.trust, r"(\rho, A)")


@dataclass(frozen=True, kw_only=True)
class ValueLoss(Term):
    """L_t = max((V - R)^2, (clip(V, V_old +- clip) - R)^2) / 2 (PPO's clipped value loss; `clip` None: plain).

    R is the credit's `returns`, V_old the values before the update.
    """

    name: str = "value"
    clip: float | None = 0.2
    needs: frozenset[str] = frozenset({"values"})

    def losses(self, live: Live, batch: Batch, mask: Mask, correction: PerToken) -> PerToken:
        """[t] squared errors, halved."""
        assert live.values is not None
        # Values outside the mask may be anything: 0 times nan would be nan in the gradient.
        of_batch = batch.column("returns"), batch.columns["values"]
        now, returns, before = (torch.where(mask, x, 0.0) for x in (live.values, *of_batch))
        error = (now - returns) ** 2
        if self.clip is None:
            return 0.5 * error
        held = before + (now - before).clamp(-self.clip, self.clip)
        return 0.5 * torch.maximum(error, (held - returns) ** 2)

    def latex(self) -> str:
        """Its equation."""
        if self.clip is None:
            return r"\frac{1}{2} (V - R)^2"
        near = number(self.clip)
        held = rf"\mathrm{{clip}}(V, V_{{\mathrm{{old}}}} - {near}, V_{{\mathrm{{old}}}} + {near})"
        return rf"\frac{{1}}{{2}} \max((V - R)^2,\ ({held} - R)^2)"

    def slope_latex(self) -> str:
        """Its dL/dl: the values alone have a gradient."""
        return "0"


@dataclass(frozen=True, kw_only=True)
class Supervised(Term):
    """L_t = -log pi: imitation of tokens that somebody else wrote (of behaviour `unknown` unless said otherwise)."""

    name: str = "supervised"
    of_behaviour: tuple[str, ...] = ("unknown",)

    def losses(self, live: Live, batch: Batch, mask: Mask, correction: PerToken) -> PerToken:
        """[t] minus the log-prob."""
        return -live.logp

    def latex(self) -> str:
        """Its equation."""
        return r"-\log \pi_\theta"

    def slope_latex(self) -> str:
        """Its dL/dl."""
        return "-1"


