"""REINFORCE with a batch baseline (Williams 1992, "Simple statistical gradient-following algorithms", section 4).

    J = 1/N sum_i A_i sum_t log pi(o_(i,t)),      A_i = r_i - mean(r_1..r_N)

The baseline is the mean reward of the whole batch. It contains r_i itself, so the expected gradient is (N-1)/N of the policy
gradient's.

Departs from the paper: a batch mean in place of a reinforcement baseline that is learnt along the way.
Source: paper.
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import SequenceSum
from groupwise.objective.baselines import BatchMean
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.objective.trust import LogProb


def reinforce() -> Method:
    """No ratio, no clip: one optimiser step per batch is assumed."""
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=BatchMean()),
            terms=(Policy(trust=LogProb(), aggregate=SequenceSum()),),
        ),
    )
