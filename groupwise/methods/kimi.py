"""Kimi k1.5's mirror descent (2025, arXiv 2501.12599, Eq. 3).

    L = 1/N sum_i { - A_i log pi(o_i) + tau/2 ( log pi(o_i) - log pi_old(o_i) )^2 },      A_i = r_i - mean(r)

pi_old is the policy at the start of the iteration, which is also what is pulled back to. No clip.

Departs from the paper: its curriculum, sampling and length reward are not part of this.
Source: secondary.
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import SequenceMean, SequenceSum
from groupwise.objective.baselines import GroupMean
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.penalties import LogRatio
from groupwise.objective.terms import Policy
from groupwise.objective.trust import LogProb


def kimi(*, tau: float = 0.1) -> Method:
    """`tau` is the strength of the pull."""
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=GroupMean()),
            terms=(Policy(trust=LogProb(), aggregate=SequenceSum()),
                   LogRatio(coef=tau, unit="sequence", aggregate=SequenceMean())),
        ),
    )
