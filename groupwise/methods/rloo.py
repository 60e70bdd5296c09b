"""RLOO: REINFORCE leave-one-out (Ahmadian et al. 2024, "Back to basics", arXiv 2402.14740).

    J = 1/N sum_i A_i sum_t log pi(o_(i,t)),      A_i = r_i - 1/(G-1) sum_(j != i) r_j

The expected gradient is exactly the policy gradient. `kl_in_reward` beta subtracts beta sum_t (log pi_old - log pi_ref) from r_i
before the baseline, as the paper trains.

Departs from the paper: beta is 0 by default.
Source: paper.
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import SequenceSum
from groupwise.objective.baselines import LeaveOneOut
from groupwise.objective.credit import Advantage, Reward, RewardMinusKl
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.objective.trust import LogProb


def rloo(*, kl_in_reward: float = 0.0) -> Method:
    """No ratio, no clip: one optimiser step per batch is assumed."""
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=LeaveOneOut(), signal=RewardMinusKl(kl_in_reward) if kl_in_reward else Reward()),
            terms=(Policy(trust=LogProb(), aggregate=SequenceSum()),),
        ),
    )
