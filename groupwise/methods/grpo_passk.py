"""GRPO-passk: only the best of a group has an advantage (verl's `grpo_passk`, after Walder and Karkhanis 2025, arXiv 2505.15201).

    J = 1/sum_i|o_i| sum_i sum_t min( rho_t A_i, clip(rho_t, 1 - eps, 1 + eps) A_i ),
    A_i = (r_(1) - r_(2)) / std(r) for the best of the group, 0 for all others

With rewards of 0 and 1 a group teaches only where one answer of it is right.

Departs from the paper: verl's estimator is a variant of the paper's idea, not one of its equations.
Source: official code (verl).
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.baselines import GroupStd, SecondBest
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.objective.trust import Clip


def grpo_passk(*, clip_low: float = 0.2, clip_high: float = 0.2) -> Method:
    """Clips are offsets from 1 of a token ratio."""
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=SecondBest(), scale=GroupStd()),
            terms=(Policy(trust=Clip(clip_low, clip_high), aggregate=TokenMean()),),
        ),
    )
