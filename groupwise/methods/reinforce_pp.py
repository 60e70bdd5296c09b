"""REINFORCE++: PPO's clip without a critic, whitened over the batch (Hu et al. 2025, arXiv 2501.03262, Eq. 4 to 7).

    J = 1/sum_i|o_i| sum_i sum_t min( rho_t A_(i,t), clip(rho_t, 1 - eps, 1 + eps) A_(i,t) ),
    A = whiten( sum_(s >= t) gamma^(s-t) r_s ),   r_s = 1[s is last] r_i - beta (log pi_old - log pi_ref)

Groups play no part: the statistics are those of all tokens of the batch.

Departs from the paper: beta = 0 by default.
Source: official code (verl and OpenRLHF).
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.credit import Whiten
from groupwise.objective.objective import Objective
from groupwise.objective.returns import Returns
from groupwise.objective.terms import Policy
from groupwise.objective.trust import Clip


def reinforce_pp(*, clip_low: float = 0.2, clip_high: float = 0.2, gamma: float = 1.0, kl_in_reward: float = 0.0) -> Method:
    """`kl_in_reward` is beta; 0 trains without a reference model."""
    return Method(
        objective=Objective(
            credit_by=Returns(gamma, kl=kl_in_reward, whiten=Whiten()),
            terms=(Policy(trust=Clip(clip_low, clip_high), aggregate=TokenMean()),),
        ),
    )
