"""Lite PPO: two tricks on PPO without a critic (Liu et al. 2025, "Part I: Tricks or traps?", arXiv 2508.08221, section 5).

    J = 1/sum_i|o_i| sum_i sum_t min( rho_t A_i, clip(rho_t, 1 - eps, 1 + eps) A_i ),
    A_i = (r_i - mean(r in the group)) / std(r in the batch)

The mean is that of the group, the std that of the whole batch: a group that is nearly all right or wrong is not blown up.

Departs from the paper: the std is that of the raw rewards with ddof 1 and + 1e-6 (TRL's scale_rewards="batch"); eps = 0.2.
Source: secondary.
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.baselines import BatchStd, GroupMean
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.objective.trust import Clip


def lite_ppo(*, clip_low: float = 0.2, clip_high: float = 0.2) -> Method:
    """Clips are offsets from 1 of a token ratio."""
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=GroupMean(), scale=BatchStd()),
            terms=(Policy(trust=Clip(clip_low, clip_high), aggregate=TokenMean()),),
        ),
    )
