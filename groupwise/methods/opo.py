"""OPO: on-policy REINFORCE with the optimal baseline for lengths (Hao et al. 2025, arXiv 2505.23585, Eq. 6).

    J = 1/N sum_i A_i sum_t log pi(o_(i,t)),      A_i = r_i - sum_j |o_j| r_j / sum_j |o_j|

The baseline with the least variance if the squared score of an answer grows with its length. No clip, no KL: strictly on-policy.

Departs from the paper: the estimator is the paper's; the sum over tokens and mean over answers is our reading.
Source: official code (verl) for the estimator.
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import SequenceSum
from groupwise.objective.baselines import LengthMean
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.objective.trust import LogProb


def opo() -> Method:
    """No ratio, no clip: one optimiser step per batch is assumed."""
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=LengthMean()),
            terms=(Policy(trust=LogProb(), aggregate=SequenceSum()),),
        ),
    )
