"""Clip-Cov: no gradient for a few tokens that would cost the most entropy (Cui et al. 2025, arXiv 2505.22617, Eq. 11 and 12).

    J = 1/sum_i|o_i| sum_i sum_t keep_t min( rho_t A_i, clip(rho_t, 1 - eps, 1 + eps) A_i ),
    keep_t = 0 for a random `share` of the tokens with low < (A - mean A)(log pi - mean log pi) < high

Departs from the paper: means and shares are those of the optimiser step (the code's: of a micro-batch); the choice is keyed, so a
step can be repeated.
Source: paper, official code.
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.baselines import GroupMean, GroupStd
from groupwise.objective.credit import Advantage
from groupwise.objective.gates import ClipCov
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.objective.trust import Clip


def clip_cov(*, clip_low: float = 0.2, clip_high: float = 0.2, share: float = 2e-4, low: float = 1.0,
             high: float = 5.0) -> Method:
    """`share` of the tokens of an optimiser step, at least one."""
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=GroupMean(), scale=GroupStd()),
            terms=(Policy(trust=Clip(clip_low, clip_high), gates=(ClipCov(share, low, high),), aggregate=TokenMean()),),
        ),
    )
