"""GSPO: Group Sequence Policy Optimisation (Zheng et al. 2025, arXiv 2507.18071, Eq. 5-7).

    J = 1/G sum_i min( s_i A_i, clip(s_i, 1 - eps_low, 1 + eps_high) A_i ),   s_i = (pi(o_i) / pi_old(o_i))^(1/|o_i|),
    A_i = (r_i - mean(r)) / std(r),   eps_low = 3e-4, eps_high = 4e-4

Departs from the paper: nothing (std has ddof 1 and + 1e-6).
Source: paper.
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import SequenceMean
from groupwise.objective.baselines import GroupMean, GroupStd
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.ratio import SequenceRatio
from groupwise.objective.terms import Policy
from groupwise.objective.trust import Clip


def gspo(*, clip_low: float = 3e-4, clip_high: float = 4e-4) -> Method:
    """Clips are offsets from 1 of a sequence ratio: a thousand times smaller than those of a token ratio."""
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=GroupMean(), scale=GroupStd()),
            terms=(Policy(ratio=SequenceRatio(), trust=Clip(clip_low, clip_high), aggregate=SequenceMean()),),
        ),
    )
