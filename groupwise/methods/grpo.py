"""GRPO: Group Relative Policy Optimisation (Shao et al. 2024, DeepSeekMath, arXiv 2402.03300, Eq. 3 and 4).

    J = 1/G sum_i 1/|o_i| sum_t { min( rho_t A_i, clip(rho_t, 1 - eps, 1 + eps) A_i ) - beta KL_t },
    A_i = (r_i - mean(r)) / std(r),   KL_t = pi_ref/pi - log(pi_ref/pi) - 1,   beta = 0.04

`kl_in_reward` puts the reference penalty into the reward instead (k1, summed over the completion); both at once are refused.

Departs from the paper: std has ddof 1 and + 1e-6 (the paper does not say); eps = 0.2 (the paper does not state it).
Source: paper.
"""

from groupwise.errors import ConfigError
from groupwise.methods.entropy import bonus, state
from groupwise.methods.method import Method
from groupwise.objective.aggregate import SequenceMean
from groupwise.objective.baselines import GroupMean, GroupStd
from groupwise.objective.credit import Advantage, Reward, RewardMinusKl
from groupwise.objective.objective import Objective
from groupwise.objective.penalties import Kl
from groupwise.objective.terms import Policy, Term
from groupwise.objective.trust import Clip


def grpo(*, clip_low: float = 0.2, clip_high: float = 0.2, kl: float = 0.04, kl_estimator: str = "k3",
         kl_in_reward: float = 0.0, entropy: float = 0.0, entropy_target: float = 0.0) -> Method:
    """`kl` is beta; 0 trains without a reference model. `entropy` is the coefficient of an entropy bonus; with `entropy_target`
    (nats a token) it is where an adaptive one starts.
    """
    if kl and kl_in_reward:
        raise ConfigError(f"grpo: the reference KL is either in the loss ({kl=}) or in the reward ({kl_in_reward=}): "
                          "set one of them to 0")
    terms: tuple[Term, ...] = (Policy(trust=Clip(clip_low, clip_high), aggregate=SequenceMean()),)
    if kl:
        terms += (Kl(coef=kl, estimator=kl_estimator),)
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=GroupMean(), scale=GroupStd(),
                                signal=RewardMinusKl(kl_in_reward) if kl_in_reward else Reward()),
            terms=(*terms, *bonus(entropy, entropy_target)),
        ),
        state=state(entropy, entropy_target),
    )
