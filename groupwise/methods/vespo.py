"""VESPO: variational sequence-level soft policy optimisation (Shen et al. 2026, arXiv 2602.10693; TRL's `vespo`).

    J = 1/sum_i|o_i| sum_i sg[ phi(w_i) ] A_i sum_t log pi(o_(i,t)),   w_i = prod_t rho_t,
    phi(w) = e^lambda w^k e^(-lambda w),   (k, lambda) = (2, 3) where A_i >= 0, else (3, 2)

A kernel on the whole sequence ratio, without a length in its exponent. A mismatch correction is part of w.

Departs from the paper: nothing known.
Source: TRL.
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.baselines import GroupMean, GroupStd
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.ratio import SequenceRatio
from groupwise.objective.soft import GammaWeight
from groupwise.objective.terms import Policy


def vespo(*, k_positive: float = 2.0, lambda_positive: float = 3.0, k_negative: float = 3.0,
          lambda_negative: float = 2.0) -> Method:
    """The kernel, by the sign of the advantage."""
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=GroupMean(), scale=GroupStd()),
            terms=(Policy(ratio=SequenceRatio(mean=False), corrected="inside", aggregate=TokenMean(),
                           trust=GammaWeight(k_positive, lambda_positive, k_negative, lambda_negative)),),
        ),
    )
