"""BNPO: Beta normalisation policy optimisation (Xiao et al. 2025, arXiv 2506.02864, section 3).

    J = 1/N sum_i sum_t min( rho_t A_i, clip(rho_t, 1 - eps_low, 1 + eps_high) A_i ),
    A_i = (r_i - p) / f_Beta(p; 1 + a/3, 1 + b/3),   p = mean(r in the group)

Beta(a, b) is fitted to the success rates of the batch's groups by mean and variance. Flat rates give REINFORCE with a baseline,
a = b = 1.5 gives GRPO. Not TRL's loss type of this name, which is an aggregation (MicroTokenMean).

Departs from the paper: its average of advantages over several rewards is not offered (clips 0.2 and 0.28, dual clip 10: code).
Source: paper, official code.
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import SequenceSum
from groupwise.objective.baselines import BetaDensity, GroupMean
from groupwise.objective.credit import Advantage, Reward
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.objective.trust import Clip


def bnpo(*, reward: str = "", clip_low: float = 0.2, clip_high: float = 0.28, dual: float = 10.0) -> Method:
    """`reward`: the component that is learned from (none: their sum); it lies between 0 and 1."""
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=GroupMean(), scale=BetaDensity(), signal=Reward(reward or None)),
            terms=(Policy(trust=Clip(clip_low, clip_high, dual=dual), aggregate=SequenceSum()),),
        ),
    )
