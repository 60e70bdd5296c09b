"""ReMax: REINFORCE with the greedy answer as its baseline (Li et al. 2023, arXiv 2310.10505, Eq. 4 and Algorithm 2).

    J = 1/N sum_i A_i sum_t log pi(o_(i,t)),      A_i = r_i - r(greedy answer to the same prompt)

One more rollout of every prompt takes the most likely token at each place. It is graded like the others, but neither trained on
nor in any statistic; its tokens are charged to `greedy`.

Departs from the paper: several sampled answers may share one greedy answer (the paper draws one; --group-size 1), and no KL
penalty in the reward.
Source: paper.
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import SequenceSum
from groupwise.objective.baselines import NoBaseline
from groupwise.objective.credit import Advantage, RewardMinusGreedy
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.objective.trust import LogProb
from groupwise.sampling.admission import greedy_there
from groupwise.sampling.intervention import GreedyBaseline


def remax() -> Method:
    """No ratio, no clip: one optimiser step per batch is assumed."""
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=NoBaseline(), signal=RewardMinusGreedy()),
            terms=(Policy(trust=LogProb(), aggregate=SequenceSum()),),
        ),
        intervene=(GreedyBaseline(),),
        admit=(greedy_there,),
    )
