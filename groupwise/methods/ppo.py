"""PPO with a critic (Schulman et al. 2017, "Proximal policy optimization algorithms", arXiv 1707.06347, Eq. 7 and 9), its
advantages by GAE (Schulman et al. 2015, arXiv 1506.02438, Eq. 16).

    J = 1/T sum_t { min( rho_t A_t, clip(rho_t, 1 - eps, 1 + eps) A_t ) - c1 L_V + c2 H_t },
    A_t = delta_t + gamma lambda A_(t+1),   delta_t = r_t + gamma V_(t+1) - V_t,   r_t = 1[t last] r - beta log(pi_old / pi_ref),
    L_V = 1/2 max( (V - R_t)^2, (clip(V, V_old - eps_V, V_old + eps_V) - R_t)^2 ),   R_t = A_t + V_old

The critic is a linear head on the policy's last hidden state, trained along with it; groups play no part in the credit.

Departs from the paper: a clipped value loss and whitened advantages, as in OpenAI's code and the RLHF ones since; gamma = lambda
= 1 (an answer is rewarded once, at its end). One trunk for both is the paper's sharing of parameters (Eq. 9).
Source: paper, official code for the value loss and the whitening.
"""

from groupwise.methods.method import Method
from groupwise.methods.update import Minibatches, Once
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.credit import Whiten
from groupwise.objective.objective import Objective
from groupwise.objective.penalties import Entropy
from groupwise.objective.returns import Gae
from groupwise.objective.terms import Policy, Term, ValueLoss
from groupwise.objective.trust import Clip


def ppo(*, clip_low: float = 0.2, clip_high: float = 0.2, value_coef: float = 0.5, value_clip: float = 0.2, gamma: float = 1.0,
        lam: float = 1.0, whiten: bool = True, kl_in_reward: float = 0.0, entropy: float = 0.0, minibatches: int = 4,
        epochs: int = 1) -> Method:
    """`value_clip` 0: the plain squared error. `minibatches` x `epochs` optimiser steps per batch."""
    terms: tuple[Term, ...] = (Policy(trust=Clip(clip_low, clip_high), aggregate=TokenMean()),
                               ValueLoss(coef=value_coef, clip=value_clip or None))
    return Method(
        objective=Objective(
            credit_by=Gae(gamma, lam, kl=kl_in_reward, whiten=Whiten() if whiten else None),
            terms=(*terms, Entropy(coef=entropy)) if entropy else terms,
        ),
        update=Minibatches(minibatches, epochs) if minibatches * epochs > 1 else Once(),
    )
