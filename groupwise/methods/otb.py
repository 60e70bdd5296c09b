"""Optimal token baseline (Li et al. 2026, arXiv 2602.07078; verl's `optimal_token_baseline`).

    J = 1/sum_i|o_i| sum_i sum_t min( rho_t A_(i,t), clip(rho_t, 1 - eps, 1 + eps) A_(i,t) ),
    A_(i,t) = r_i - sum_j r_j W_(j,t) / sum_j W_(j,t),   W_(i,t) = sum_(s <= t) (1 - 2 pi_s + sum_v pi_v^2)

A baseline for every place in the answer, weighed by how much the score has varied up to there.

Departs from the paper: nothing known; `alone` "raw" gives the tail that only one answer reaches no baseline (verl's later
default).
Source: official code (verl).
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.objective import Objective
from groupwise.objective.returns import OptimalTokenBaseline
from groupwise.objective.terms import Policy
from groupwise.objective.trust import Clip


def otb(*, clip_low: float = 0.2, clip_high: float = 0.2, alone: str = "zero") -> Method:
    """`alone`: what a place gets that one answer of a group reaches."""
    return Method(
        objective=Objective(
            credit_by=OptimalTokenBaseline(alone),
            terms=(Policy(trust=Clip(clip_low, clip_high), aggregate=TokenMean()),),
        ),
    )
