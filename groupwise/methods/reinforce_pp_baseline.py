"""REINFORCE++-baseline: the group's mean off the reward, then whitened over the batch (Hu et al. 2025, arXiv 2501.03262).

    J = 1/sum_i|o_i| sum_i sum_t min( rho_t A_i, clip(rho_t, 1 - eps, 1 + eps) A_i ),
    A = whiten( r_i - mean(r in the group) ) over all tokens of the batch

Departs from the paper: nothing (variance with ddof 1 and + 1e-8, as in verl).
Source: official code (verl and OpenRLHF).
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.baselines import GroupMean
from groupwise.objective.credit import Advantage, Whiten
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.objective.trust import Clip


def reinforce_pp_baseline(*, clip_low: float = 0.2, clip_high: float = 0.2) -> Method:
    """Clips are offsets from 1 of a token ratio."""
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=GroupMean(), whiten=Whiten()),
            terms=(Policy(trust=Clip(clip_low, clip_high), aggregate=TokenMean()),),
        ),
    )
