"""GRPO on the tokens where the policy is undecided (Wang et al. 2025, "Beyond the 80/20 rule", arXiv 2506.01939, Eq. 5).

    J = 1/sum_i|o_i| sum_i sum_t 1[ H_t >= quantile(1 - share) ] min( rho_t A_i, clip(rho_t, 1 - eps_low, 1 + eps_high) A_i )

The quantile is that of all tokens of the optimiser step; the others stay in the denominator.

Departs from the paper: DAPO's dynamic sampling and overlong punishment around it are left out.
Source: paper, TRL's top_entropy_quantile.
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.baselines import GroupMean, GroupStd
from groupwise.objective.credit import Advantage
from groupwise.objective.gates import TopEntropy
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.objective.trust import Clip


def high_entropy(*, share: float = 0.2, clip_low: float = 0.2, clip_high: float = 0.28) -> Method:
    """`share` of the tokens that are trained on."""
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=GroupMean(), scale=GroupStd()),
            terms=(Policy(trust=Clip(clip_low, clip_high), gates=(TopEntropy(share),), aggregate=TokenMean()),),
        ),
    )
