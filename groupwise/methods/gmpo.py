"""GMPO: the geometric mean of token ratios (Zhao et al. 2025, arXiv 2507.20673, Eq. 4).

    J = 1/G sum_i A_i ( prod_t held(rho_t) )^(1/|o_i|),
    held: log rho_t at most log_clip where A_i > 0, at least -log_clip where A_i < 0

A token beyond its bound still counts with that bound, but has no gradient.

Departs from the paper: nothing (log_clip = 0.4, group std with ddof 1 and + 1e-6).
Source: paper, TRL and verl.
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import SequenceMean
from groupwise.objective.baselines import GroupMean, GroupStd
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.ratio import HeldSequenceRatio
from groupwise.objective.terms import Policy
from groupwise.objective.trust import Unclipped


def gmpo(*, log_clip: float = 0.4) -> Method:
    """`log_clip` is a distance in log space: 0.4 bounds a ratio by e^0.4 = 1.49."""
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=GroupMean(), scale=GroupStd()),
            terms=(Policy(ratio=HeldSequenceRatio(log_clip, log_clip), trust=Unclipped(), aggregate=SequenceMean()),),
        ),
    )
