"""GPG: group policy gradient (Chu et al. 2025, arXiv 2504.02546, Eq. 8).

    J = 1/sum_i|o_i| sum_i sum_t A_i log pi(o_(i,t)),      A_i = alpha (r_i - mean(r)) / f,   alpha = N / #{r != 0}

No ratio, no clip, no KL; alpha makes up for rollouts that teach nothing.

Departs from the paper: alpha counts rewards that are not 0, as the official code and verl do; the paper counts groups with a
gradient. With rewards of -1 and 1 alpha is 1.
Source: official code.
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.baselines import GroupMean, NonZeroShare
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.objective.trust import LogProb


def gpg(*, f_norm: float = 1.0) -> Method:
    """`f_norm` is f."""
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=GroupMean(), scale=NonZeroShare(f_norm)),
            terms=(Policy(trust=LogProb(), aggregate=TokenMean()),),
        ),
    )
