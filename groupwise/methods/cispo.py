"""CISPO: Clipped IS-weight Policy Optimisation (MiniMax-M1, 2025, arXiv 2506.13585, Eq. 4-5).

    J = 1/sum_i|o_i| sum_i sum_t sg[ clip(rho_t, 1 - eps_low, 1 + eps_high) ] A_i log pi(o_(i,t)),
    A_i = (r_i - mean(r)) / std(r)

The weight is clipped, never the gradient: every token keeps learning. No lower bound (the paper makes eps_low large).

Departs from the paper: 1/sum|o_i| runs over the optimiser step; eps_high = 4, the absolute cap of 5 that ScaleRL (arXiv
2510.13786) uses: the paper does not state its value.
Source: paper for the equation, secondary for eps_high.
"""

from groupwise.errors import ConfigError
from groupwise.methods.method import Method
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.baselines import GroupMean, GroupStd
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.objective.trust import DetachClip


def cispo(*, clip_high: float = 4.0, clip_low: float = -1.0, cap: float = 0.0) -> Method:
    """`clip_high` is an offset from 1; `cap`, in its place, is the same bound as a ratio (5 for an offset of 4). `clip_low` below
    0: no lower bound.
    """
    if cap:
        if cap <= 1:
            raise ConfigError(f"cispo: {cap=} as a bound on the ratio would shrink the weight of every token to that, as "
                              f"ratios lie around 1; as an offset from 1 it is clip_high={cap}")
        if clip_high != 4.0:
            raise ConfigError(f"cispo: {cap=} and {clip_high=} both bound the ratio from above: give one of them")
        clip_high = cap - 1
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=GroupMean(), scale=GroupStd()),
            terms=(Policy(trust=DetachClip(None if clip_low < 0 else clip_low, clip_high), aggregate=TokenMean()),),
        ),
    )
