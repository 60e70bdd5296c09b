"""KL-Cov: a penalty on the few tokens that would cost the most entropy (Cui et al. 2025, arXiv 2505.22617, Eq. 13).

    J = 1/sum_i|o_i| sum_i sum_t { rho_t A_i - beta |log rho_t| 1[t is among the `share` of tokens with the largest
        (A - mean A)(log pi - mean log pi)] }

Departs from the paper: means and shares are those of the optimiser step (the code's: of a micro-batch).
Source: paper, official code.
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.baselines import GroupMean, GroupStd
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.penalties import KlCov
from groupwise.objective.terms import Policy
from groupwise.objective.trust import Unclipped


def kl_cov(*, share: float = 2e-4, beta: float = 1.0) -> Method:
    """`share` of the tokens of an optimiser step, at least one. There is no clip."""
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=GroupMean(), scale=GroupStd()),
            terms=(Policy(trust=Unclipped(), aggregate=TokenMean()), KlCov(coef=beta, share=share),),
        ),
    )
