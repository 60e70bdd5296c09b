"""Terms: the summands of an objective. Each has a loss function at a unit, a weight rule, and a reach.

    loss = sum_k coef_k * sum_u w_k[u] * L_k[u]

A new kind of loss is a subclass of `Term` with its own `losses`; everything else (weights, micro-batches, ranks, two
passes for a reach beyond the sequence) follows from what it declares.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from groupwise.core.rollout import BEHAVIOURS
from groupwise.errors import ObjectiveError
from groupwise.objective.aggregate import Aggregate, TokenMean
from groupwise.objective.batch import Batch
from groupwise.objective.latex import equation, number
from groupwise.objective.ratio import Ratio, TokenRatio
from groupwise.objective.trust import Clip, Trust

Mask = Bool[Tensor, " t"]
Reach = Literal["token", "sequence", "group", "step"]
REACHES: tuple[Reach, ...] = ("token", "sequence", "group", "step")
PerToken = Float[Tensor, " t"]

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

    `elsewhere` is the trust for tokens of unknown behaviour (teacher traces, whose ratio divides by 1); without it such
    tokens are refused.
    """

    name: str = "policy"
    ratio: Ratio = field(default_factory=TokenRatio)
    trust: Trust = field(default_factory=Clip)
    credit: str = "advantage"
    elsewhere: Trust | None = None
    corrected: Literal["outside", "inside", "none"] = "outside"
    vanishes: bool = True

    def __post_init__(self) -> None:
        if self.ratio.unit != "token" and REACHES.index(self.reach) < REACHES.index("sequence"):
            object.__setattr__(self, "reach", "group" if self.ratio.unit in ("episode", "group") else "sequence")

    def losses(self, live: Live, batch: Batch, mask: Mask, correction: PerToken) -> PerToken:
        """[t] -c f(rho, A)."""
        ratio, advantage = self.ratios(live, batch, mask), batch.column(self.credit)
        f = self.trust(ratio, advantage, live.logp)
        unknown = mask & (batch.behaviour == UNKNOWN)
        if bool(unknown.any()):
            if self.elsewhere is None:
                raise ObjectiveError(f"{int(unknown.sum())} tokens have behaviour 'unknown' (their ratio divides by 1), but the "
                                     "policy term has no trust rule for them: give `elsewhere`")
            own = torch.where(unknown, live.logp, 0.0)  # before exp: what overflows elsewhere would leave nan gradients
            f = torch.where(unknown, self.elsewhere(own.exp(), advantage, own), f)
        return -correction * f

    def ratios(self, live: Live, batch: Batch, mask: Mask) -> PerToken:
        """[t] the ratio at the method's unit."""
        known = mask & (batch.behaviour != UNKNOWN)  # a ratio to 1 has no place in the ratio of a sequence
        log_ratio = torch.where(known, live.logp - base_logp(live, batch), 0.0)
        return self.ratio(log_ratio, known, batch)

    def latex(self) -> str:
        """Its equation; c is the mismatch correction."""
        return r"-c\, " + equation(self.trust, r"(\rho, A)")


def k2(u: PerToken) -> PerToken:
    """u^2/2: its gradient on on-policy samples is an unbiased estimate of grad KL(pi || ref)."""
    return 0.5 * u * u


def k3(u: PerToken) -> PerToken:
    """e^u - u - 1: unbiased value; its gradient on on-policy samples is that of the forward KL(ref || pi)."""
    return torch.expm1(u) - u


ESTIMATORS: dict[str, Callable[[PerToken], PerToken]] = {"k2": k2, "k3": k3}


@dataclass(frozen=True, kw_only=True)
class Kl(Term):
    """L_t = k(u_t), u = log pi_ref - log pi: the KL penalty in the loss, with the policy term's weights.

    `estimator` "k3" is the GRPO paper's (arXiv 2402.03300, Eq. 4); "k2" has the reverse-KL gradient; "k3_weighted"
    multiplies k3 by the differentiable token ratio, the unbiased reverse-KL gradient off policy too (DeepSeek-V3.2).
    k1 is refused: its expected gradient in the loss is zero. Tokens without a log-prob in `against` (nan) have no loss.
    """

    name: str = "kl"
    estimator: str = "k3"
    against: str = "ref_logp"
    aggregate: WeightRule = field(default_factory=Shared)
    needs: frozenset[str] = frozenset({"ref"})

    def __post_init__(self) -> None:
        if self.estimator == "k1":
            raise ObjectiveError("KL estimator 'k1' in the loss has an expected gradient of zero: use 'k2' or 'k3', or put k1 "
                                 "into the reward")
        if self.estimator not in (*ESTIMATORS, "k3_weighted"):
            raise ObjectiveError(f"unknown KL estimator {self.estimator!r}; valid: {', '.join(ESTIMATORS)}, k3_weighted")

    def losses(self, live: Live, batch: Batch, mask: Mask, correction: PerToken) -> PerToken:
        """[t] the estimator."""
        other = batch.columns[self.against]
        u = torch.where(mask & torch.isfinite(other), other - live.logp, 0.0)
        if self.estimator != "k3_weighted":
            return ESTIMATORS[self.estimator](u)
        ratio = torch.where(mask, live.logp - base_logp(live, batch), 0.0).exp()
        return ratio * k3(u)

    def latex(self) -> str:
        """Its equation."""
        k3 = "e^{u} - u - 1"
        return r"\frac{1}{2} u^2" if self.estimator == "k2" else k3 if self.estimator == "k3" else rf"\rho\, ({k3})"

    def slope_latex(self) -> str:
        """Its dL/dl."""
        if self.estimator == "k3_weighted":
            return r"-\rho\, u"
        return "-u" if self.estimator == "k2" else "1 - e^{u}"


@dataclass(frozen=True, kw_only=True)
class Entropy(Term):
    """L_t = -H_t: a bonus for the entropy of the next-token distribution (coef > 0 raises it)."""

    name: str = "entropy"
    aggregate: WeightRule = field(default_factory=Shared)
    needs: frozenset[str] = frozenset({"entropy"})

    def losses(self, live: Live, batch: Batch, mask: Mask, correction: PerToken) -> PerToken:
        """[t] minus the entropy."""
        assert live.entropy is not None
        return -live.entropy

    def latex(self) -> str:
        """Its equation."""
        return "-H"

    def slope_latex(self) -> str:
        """Its dL/dl: through the whole distribution."""
        return r"-\frac{\partial H}{\partial \ell}"


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
        returns, before = batch.column("returns"), batch.columns["values"]
        error = (live.values - returns) ** 2
        if self.clip is None:
            return 0.5 * error
        held = before + (live.values - before).clamp(-self.clip, self.clip)
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


