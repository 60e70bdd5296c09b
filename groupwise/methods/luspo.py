"""LUSPO: GSPO without its length bias (2026, "Length-unbiased sequence policy optimization", arXiv 2602.05261; TRL's `luspo`).

    J = 1/G sum_i |o_i| min( s_i A_i, clip(s_i, 1 - eps_low, 1 + eps_high) A_i ),   s_i = (pi(o_i) / pi_old(o_i))^(1/|o_i|)

Each answer's loss counts by its length, so that every token weighs the same again.

Departs from the paper: nothing (eps_low = 2e-3, eps_high = 2.5e-3).
Source: official code, TRL.
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import SequenceSum
from groupwise.objective.baselines import GroupMean, GroupStd
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.ratio import SequenceRatio
from groupwise.objective.terms import Policy
from groupwise.objective.trust import Clip


def luspo(*, clip_low: float = 2e-3, clip_high: float = 2.5e-3) -> Method:
    """Clips are offsets from 1 of a sequence ratio."""
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=GroupMean(), scale=GroupStd()),
            terms=(Policy(ratio=SequenceRatio(), trust=Clip(clip_low, clip_high), aggregate=SequenceSum()),),
        ),
    )
