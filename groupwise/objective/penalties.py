"""Penalties: what a step may not change too much, as terms of their own with the policy term's weights.

Their gradients, u = log pi_ref - log pi on samples of the policy: k1 has none in expectation, k2 that of KL(pi || ref), k3 that
of KL(ref || pi).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from groupwise.errors import ObjectiveError
from groupwise.objective import levels
from groupwise.objective.batch import Batch
from groupwise.objective.gates import Sight, covariance
from groupwise.objective.latex import number
from groupwise.objective.terms import Live, Mask, PerToken, Reach, Shared, Term, WeightRule, base_logp


def k1(u: PerToken) -> PerToken:
    """-u: unbiased value; no gradient in expectation, so it belongs into the reward."""
    return -u


def k2(u: PerToken) -> PerToken:
    """u^2/2: its gradient on on-policy samples is an unbiased estimate of grad KL(pi || ref)."""
    return 0.5 * u * u


def k3(u: PerToken) -> PerToken:
    """e^u - u - 1: unbiased value; its gradient on on-policy samples is that of the forward KL(ref || pi)."""
    return torch.expm1(u) - u


def k3_held(u: PerToken) -> PerToken:
    """k3 with u held within 20 and the value within 10: no gradient outside (verl's low_var_kl)."""
    return k3(u.clamp(-20.0, 20.0)).clamp(-10.0, 10.0)


K3 = "e^{u} - u - 1"
"""In LaTeX."""
ESTIMATORS: dict[str, Callable[[PerToken], PerToken]] = {"k1": k1, "k2": k2, "k3": k3, "k3_held": k3_held, "abs": torch.abs}
GRADIENTS = {"k2": "KL(pi || ref)", "k3": "KL(ref || pi)", "k3_held": "KL(ref || pi) where |u| < 20",
             "abs": "no KL: the sign of u", "k3_weighted": "KL(pi || ref), off policy too",
             "straight_through": "KL(pi || ref), that of k2"}
"""Whose gradient an estimator in the loss follows, on samples of the policy."""


@dataclass(frozen=True, kw_only=True)
class Kl(Term):
    """L_t = k(u_t), u = log pi_ref - log pi: the KL penalty in the loss, with the policy term's weights.

    `estimator` "k3" is the GRPO paper's (arXiv 2402.03300, Eq. 4); "k2" has the reverse-KL gradient; "k3_weighted"
    multiplies k3 by the differentiable token ratio, the unbiased reverse-KL gradient off policy too (DeepSeek-V3.2).
    `straight_through` takes the value of the estimator and the gradient of k2 (verl's k3+). k1 is refused: its expected gradient
    in the loss is zero. Tokens without a log-prob in `against` (nan) have no loss.
    """

    name: str = "kl"
    estimator: str = "k3"
    against: str = "ref_logp"
    straight_through: bool = False
    aggregate: WeightRule = field(default_factory=Shared)
    needs: frozenset[str] = frozenset({"ref"})

    def __post_init__(self) -> None:
        if self.estimator == "k1" and not self.straight_through:
            raise ObjectiveError("KL estimator 'k1' in the loss has an expected gradient of zero: use 'k2' or 'k3', or put k1 "
                                 "into the reward")
        if self.estimator not in (*ESTIMATORS, "k3_weighted"):
            raise ObjectiveError(f"unknown KL estimator {self.estimator!r}; valid: {', '.join(ESTIMATORS)}, k3_weighted")
        if self.straight_through and self.estimator == "k3_weighted":
            raise ObjectiveError("k3_weighted has the gradient of KL(pi || ref) already: leave straight_through off")

    @property
    def gradient(self) -> str:
        """Whose gradient this is, on samples of the policy."""
        return GRADIENTS["straight_through" if self.straight_through else self.estimator]

    def losses(self, live: Live, batch: Batch, mask: Mask, correction: PerToken) -> PerToken:
        """[t] the estimator."""
        other = batch.columns[self.against]
        u = torch.where(mask & torch.isfinite(other), other - live.logp, 0.0)
        if self.straight_through:
            slope = k2(u)
            return slope - slope.detach() + ESTIMATORS[self.estimator](u).detach()
        if self.estimator != "k3_weighted":
            return ESTIMATORS[self.estimator](u)
        ratio = torch.where(mask, live.logp - base_logp(live, batch), 0.0).exp()
        return ratio * k3(u)

    def latex(self) -> str:
        """Its equation."""
        written = {"k1": "-u", "k2": r"\frac{1}{2} u^2", "k3": K3, "k3_held": rf"\min({K3},\ 10)", "abs": "|u|",
                   "k3_weighted": rf"\rho\, ({K3})"}[self.estimator]
        half = r"\frac{1}{2} u^2"
        return rf"\mathrm{{sg}}\left[{written} - {half}\right] + {half}" if self.straight_through else written

    def slope_latex(self) -> str:
        """Its dL/dl."""
        if self.straight_through:
            return "-u"
        return {"k2": "-u", "k3": "1 - e^{u}", "abs": r"-\mathrm{sign}(u)", "k3_weighted": r"-\rho\, u",
                "k3_held": rf"\begin{{cases}} 1 - e^{{u}} & |u| < 20,\ {K3} < 10 \\ 0 & \mathrm{{otherwise}} \end{{cases}}",
                }[self.estimator]


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
class LogRatio(Term):
    """L = (sum_t log pi - log mu)^2 / 2 over a token or a sequence: a pull towards what the ratio divides by. `half` False leaves
    the 1/2 out.

    At the token it is that of DRO (verl), at the sequence that of Kimi k1.5's mirror descent (arXiv 2501.12599, Eq. 3). `against`
    "engine_logp" pulls towards the sampler whatever the behaviour (prime-rl).
    """

    name: str = "log_ratio"
    against: str = "base"
    half: bool = True
    aggregate: WeightRule = field(default_factory=Shared)

    def __post_init__(self) -> None:
        if self.against not in ("base", "engine_logp") or self.unit not in ("token", "sequence"):
            raise ObjectiveError(f"log_ratio: against is 'base' or 'engine_logp' and the unit a token or sequence; got "
                                 f"{self.against!r} and {self.unit!r}")
        if self.unit == "sequence" and self.reach == "token":
            object.__setattr__(self, "reach", "sequence")

    def losses(self, live: Live, batch: Batch, mask: Mask, correction: PerToken) -> Float[Tensor, " n"]:
        """[units]."""
        other = base_logp(live, batch) if self.against == "base" else batch.columns[self.against]
        gap = torch.where(mask & torch.isfinite(other), live.logp - other, 0.0)
        if self.unit == "sequence":
            gap = levels.reduce(gap, batch.ids("token", "sequence"), batch.layout.size("sequence"), "sum")
        return 0.5 * gap * gap if self.half else gap * gap

    def latex(self) -> str:
        """Its equation."""
        gap = self._gap()
        whole = rf"\left( \sum_t ({gap}) \right)^2" if self.unit == "sequence" else rf"({gap})^2"
        return rf"\frac{{1}}{{2}} {whole}" if self.half else whole

    def slope_latex(self) -> str:
        """Its dL/dl."""
        gap = rf"\sum_t ({self._gap()})" if self.unit == "sequence" else self._gap()
        return gap if self.half else rf"2\, ({gap})"

    def _gap(self) -> str:
        other = r"\mu" if self.against == "base" else r"\mu_{\mathrm{eng}}"
        return rf"\log \pi_\theta - \log {other}"


@dataclass(frozen=True, kw_only=True)
class KlCov(Term):
    """L_t = |log pi - log mu| on the `share` of the step's tokens whose log-prob and advantage vary together most, at least one
    (KL-Cov, arXiv 2505.22617, Eq. 13); 0 on the others.
    """

    name: str = "kl_cov"
    share: float = 2e-4
    credit: str = "advantage"
    aggregate: WeightRule = field(default_factory=Shared)
    reach: Reach = "step"

    def losses(self, live: Live, batch: Batch, mask: Mask, correction: PerToken) -> PerToken:
        """[t]."""
        base, advantage = base_logp(live, batch), batch.column(self.credit)
        cov = covariance(Sight(batch, mask, live.logp.detach(), base, advantage, torch.zeros_like(mask)))
        many = max(1, int(self.share * int(mask.sum())))
        chosen = torch.where(mask, cov, -torch.inf).argsort(descending=True, stable=True)[:many]
        picked = torch.zeros_like(mask).index_fill(0, chosen, True) & mask
        return torch.where(picked, live.logp - base, 0.0).abs()

    def latex(self) -> str:
        """Its equation."""
        return self._chosen(r"|\log \pi_\theta - \log \mu|")

    def slope_latex(self) -> str:
        """Its dL/dl."""
        return self._chosen(r"\mathrm{sign}(\log \pi_\theta - \log \mu)")

    def _chosen(self, value: str) -> str:
        top = rf"\mathrm{{cov}}(A, \log \pi_\theta)\ \mathrm{{in\ the\ top}}\ {number(self.share)}"
        return rf"\begin{{cases}} {value} & {top} \\ 0 & \mathrm{{otherwise}} \end{{cases}}"
