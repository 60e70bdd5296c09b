"""GDPO: several rewards, each normalised by itself (2026, "Group reward-decoupled normalization", arXiv 2601.05242, Eq. 4 to 6).

    J = 1/sum_i|o_i| sum_i sum_t min( rho_t A_i, clip(rho_t, 1 - eps, 1 + eps) A_i ),
    A = whiten( sum_k w_k (r_(k,i) - mean(r_k)) / std(r_k) )

Summing first would let rewards that vary more drown the others. The whitening counts rollouts (TRL) or tokens (verl).

Departs from the paper: nothing known.
Source: TRL and verl.
"""

from collections.abc import Mapping

from groupwise.core.verdict import weight_of
from groupwise.errors import ConfigError
from groupwise.methods.method import Method
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.baselines import GroupStd
from groupwise.objective.credit import Advantage, Blend, Reward, Whiten
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.objective.trust import Clip


def gdpo(*, rewards: str = "", weights: str = "", clip_low: float = 0.2, clip_high: float = 0.2, over: str = "unit",
         reward_weights: Mapping[str, float] | None = None) -> Method:
    """`rewards`: names of reward components, with commas (none: the whole reward); `weights`: as many numbers (none: those of the
    run's `reward_weights`).
    """
    names = [name.strip() or None for name in rewards.split(",")]
    if weights and reward_weights:
        raise ConfigError(f"gdpo: weights={weights!r} and --reward-weights: both are the w_k of the normalised rewards; give one")
    factors = ([float(weight) for weight in weights.split(",")] if weights else
               [1.0 if name is None else weight_of(name, reward_weights or {}) for name in names])
    if len(names) != len(factors):
        raise ConfigError(f"gdpo: {len(names)} rewards ({rewards!r}) and {len(factors)} weights ({weights!r}): give one for each")
    parts = tuple((factor, Advantage(scale=GroupStd(1e-4), signal=Reward(name)))
                  for factor, name in zip(factors, names, strict=True))
    whiten = Whiten(over="unit", eps=1e-4, place="std") if over == "unit" else Whiten()
    return Method(
        objective=Objective(
            credit_by=Blend(parts, whiten=whiten),
            terms=(Policy(trust=Clip(clip_low, clip_high), aggregate=TokenMean()),),
        ),
    )
