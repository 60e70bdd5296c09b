"""GSPO-token: the token-wise form of GSPO (Zheng et al. 2025, arXiv 2507.18071, Eq. 13-14).

    J = 1/G sum_i 1/|o_i| sum_t min( s_(i,t) A_(i,t), clip(s_(i,t), 1 - eps_low, 1 + eps_high) A_(i,t) ),
    s_(i,t) = sg[s_i] pi(o_(i,t)) / sg[pi(o_(i,t))]

Same value and gradient as GSPO while the advantage is the same for all tokens of a completion; it differs for per-token
advantages, which is what it is for.

Departs from the paper: nothing (std has ddof 1 and + 1e-6).
Source: paper.
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import SequenceMean
from groupwise.objective.baselines import GroupMean, GroupStd
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.ratio import SequenceTokenRatio
from groupwise.objective.terms import Policy
from groupwise.objective.trust import Clip


def gspo_token(*, clip_low: float = 3e-4, clip_high: float = 4e-4) -> Method:
    """Clips as in GSPO."""
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=GroupMean(), scale=GroupStd()),
            terms=(Policy(ratio=SequenceTokenRatio(), trust=Clip(clip_low, clip_high), aggregate=SequenceMean()),),
        ),
    )
