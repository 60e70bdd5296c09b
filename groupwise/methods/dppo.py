"""DPPO: trust in probabilities instead of ratios (2026, "Divergence PPO", arXiv 2602.04879; verl's `dppo_tv` and `dppo_kl`).

    J = 1/sum_i|o_i| sum_i sum_t keep_t sg[ min(rho_t, C) ] A_i log pi(o_(i,t)),   rho_t = pi / mu, mu the sampler,
    tv: keep while pi - mu <= delta (A > 0) or >= -delta (A <= 0);   kl: drop where D(mu, pi) > delta and the step goes on away

A ratio says little where probabilities are small; their difference does.

Departs from the paper: nothing known (C = 20; delta = 0.15 for tv, 0.05 for kl).
Source: official code (verl).
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.baselines import GroupMean, GroupStd
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.soft import Divergence
from groupwise.objective.terms import Policy


def dppo(*, measure: str = "tv", delta: float = -1.0, cap: float = 20.0) -> Method:
    """`measure` is tv or kl; `delta` -1: 0.15 for tv, 0.05 for kl."""
    bound = delta if delta >= 0 else 0.15 if measure == "tv" else 0.05
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=GroupMean(), scale=GroupStd()),
            terms=(Policy(trust=Divergence(measure, bound, bound, cap), aggregate=TokenMean()),),
        ),
        behaviour="recorded",
    )
