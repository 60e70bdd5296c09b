"""MaxRL: the gradient of log likelihood of success (Tajwar et al. 2026, arXiv 2602.02710; prime-rl's `max_rl`).

    J = 1/sum_i|o_i| sum_i sum_t min( rho_t A_i, clip(rho_t, 1 - eps, 1 + eps) A_i ),      A_i = (r_i - mean(r)) / mean(r)

Dividing by the mean turns the gradient of the success rate p into that of log p: hard prompts weigh more.

Departs from the paper: clip and token mean around it are those of DAPO without its other tricks.
Source: secondary (prime-rl) for the estimator.
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.baselines import CellMean, GroupMean
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.objective.trust import Clip


def max_rl(*, clip_low: float = 0.2, clip_high: float = 0.2) -> Method:
    """Rewards are not negative."""
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=GroupMean(), scale=CellMean()),
            terms=(Policy(trust=Clip(clip_low, clip_high), aggregate=TokenMean()),),
        ),
    )
