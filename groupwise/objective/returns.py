"""Credit at the token: returns that run backwards through an episode, and baselines that differ from token to token."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from groupwise.errors import ObjectiveError
from groupwise.objective import levels
from groupwise.objective.batch import Column
from groupwise.objective.credit import Whiten
from groupwise.objective.scored import Scored, Values


def token_rewards(table: Scored, kl: float = 0.0) -> Values:
    """[t] the episode's reward at its last trained token, less kl (log pi_old - log pi_ref) at every trained one."""
    ids, mask = table.layout.ids("token", "episode"), table.counted
    left = levels.scan(mask.astype(np.float64), ids, table.layout.size("episode"), "suffix")
    reward = np.where(mask & (left == 1), table.reward[ids], 0.0)
    if kl:
        reward = reward - kl * np.where(mask, table.needed["old_logp"] - table.needed["ref_logp"], 0.0)
    return reward


@dataclass(frozen=True)
class Returns:
    """A_t = sum_(s >= t) gamma^(s-t) r_s, whitened over the batch's tokens (REINFORCE++, arXiv 2501.03262, Eq. 4 to 6).

    `kl` puts the reference penalty (k1, per token) into r_s. Tokens that are not trained on neither add nor decay.
    """

    gamma: float = 1.0
    kl: float = 0.0
    whiten: Whiten | None = None
    name: str = "advantage"

    @property
    def penalises(self) -> bool:
        """Whether there is a penalty in the reward."""
        return self.kl != 0

    @property
    def needs(self) -> frozenset[str]:
        """Both log-probs of the penalty, if there is one."""
        return frozenset({"old", "ref"}) if self.kl else frozenset()

    def __call__(self, table: Scored, state: Any) -> dict[str, Column]:
        """One column at the token."""
        total = levels.scan(token_rewards(table, self.kl), table.layout.ids("token", "episode"), table.layout.size("episode"),
                            "suffix", mask=table.counted, gamma=self.gamma)
        value = np.where(table.counted, total, np.nan)
        value = value if self.whiten is None else self.whiten(value, "token", table)
        weight = table.weight[table.layout.ids("token", "episode")]
        return {self.name: Column("token", np.where(table.counted, value * weight, 0.0))}

    def latex(self) -> str:
        """The sum."""
        reward = r"r_s - \beta\,(\ell^{old}_s - \ell^{ref}_s)" if self.kl else "r_s"
        total = rf"\sum_{{s \ge t}} {self.gamma:g}^{{s-t}} ({reward})" if self.gamma != 1 else rf"\sum_{{s \ge t}} ({reward})"
        return f"{self.whiten.latex()}\\left({total}\\right)" if self.whiten else total


@dataclass(frozen=True)
class OptimalTokenBaseline:
    """A_t = R - B_t, B_t = sum_i R_i W_(i,t) / sum_i W_(i,t) over the rollouts of a group that reach t (arXiv 2602.07078).

    W_(i,t) = sum_(s <= t) (1 - 2 pi_s + sum_v pi_v^2) is the energy of the score up to t, taken from the policy that sampled. A
    token at a place that only one rollout reaches has itself for a baseline: `alone` "zero" keeps that, "raw" gives it none.
    """

    alone: str = "zero"
    eps: float = 1e-8
    name: str = "advantage"
    needs: frozenset[str] = frozenset({"old", "sum_p2"})

    def __post_init__(self) -> None:
        if self.alone not in ("zero", "raw"):
            raise ObjectiveError(f"optimal_token_baseline: alone is 'zero' or 'raw', got {self.alone!r}")

    def __call__(self, table: Scored, state: Any) -> dict[str, Column]:
        """One column at the token."""
        layout, mask = table.layout, table.counted
        episode, group = layout.ids("token", "episode"), layout.ids("token", "group")
        energy = np.where(mask, 1 - 2 * np.exp(np.where(mask, table.needed["old_logp"], 0.0)) + table.needed["sum_p2"], 0.0)
        weight = levels.scan(energy, episode, layout.size("episode"), "prefix")
        reward = table.reward[episode]
        mask = mask & np.isfinite(reward)
        reward = np.where(mask, reward, 0.0)
        place = levels.scan(mask.astype(np.int64), episode, layout.size("episode"), "prefix")
        cell, size = levels.pairs(group, place)
        total = levels.reduce(reward * weight, cell, size, "sum", mask=mask)
        base = total / (levels.reduce(weight, cell, size, "sum", mask=mask) + self.eps)
        here = levels.reduce(np.ones_like(reward), cell, size, "sum", mask=mask)[cell]
        siblings = levels.reduce(np.ones(layout.size("episode")), layout.ids("episode", "group"), layout.groups, "sum")[group]
        without = (siblings == 1) | (here == 1 if self.alone == "raw" else np.zeros_like(mask))
        value = (reward - np.where(without, 0.0, base[cell])) * table.weight[episode]
        return {self.name: Column("token", np.where(mask, value, np.nan))}

    def latex(self) -> str:
        """The difference."""
        return (r"r_i - \frac{\sum_j r_j W_{j,t}}{\sum_j W_{j,t}},\quad "
                r"W_{i,t} = \sum_{s \le t}\left(1 - 2\pi_{i,s} + \sum_v \pi_v^2\right)")


@dataclass(frozen=True)
class Gae:
    """Generalised advantage estimation with a critic (arXiv 1506.02438, Eq. 16): delta_t = r_t + gamma V_(t+1) - V_t,
    A_t = delta_t + gamma lambda A_(t+1) over the trained tokens of an episode; the reward comes at its last trained token.

    `kl` takes kl (log pi_old - log pi_ref) off each token's reward (k1, detached). Columns `advantage` (whitened if asked for)
    and `returns` (A + V, never whitened), at the token; nan in an episode that abstains.
    """

    gamma: float = 1.0
    lam: float = 1.0
    kl: float = 0.0
    whiten: Whiten | None = None

    @property
    def penalises(self) -> bool:
        """Whether there is a penalty in the reward."""
        return self.kl != 0

    @property
    def needs(self) -> frozenset[str]:
        """The critic's values, and what the penalty compares."""
        return frozenset({"values", "old", "ref"}) if self.kl else frozenset({"values"})

    def __call__(self, table: Scored, state: Any) -> dict[str, Column]:
        """Both columns."""
        ids, size = table.layout.ids("token", "episode"), table.layout.size("episode")
        mask = table.counted
        values = np.where(mask, table.needed["values"], 0.0)
        reward = token_rewards(table, self.kl)
        # V at the next trained token: what the suffix sum loses between this token and the one after it.
        after = levels.scan(values, ids, size, "suffix", mask=mask, window=2) - values
        delta = np.where(mask, reward + self.gamma * after - values, 0.0)
        advantage = levels.scan(delta, ids, size, "suffix", mask=mask, gamma=self.gamma * self.lam)
        returns = Column("token", advantage + values)
        if self.whiten is not None:
            advantage = np.where(mask, self.whiten(np.where(mask, advantage, np.nan), "token", table), 0.0)
        weight = table.weight[table.layout.ids("token", "episode")]
        return {"advantage": Column("token", advantage * weight), "returns": returns}

    def latex(self) -> str:
        """The recursion."""
        decay, ahead = ("" if x == 1 else rf"{x:g}\, " for x in (self.gamma * self.lam, self.gamma))
        penalty = "" if self.kl == 0 else rf",\quad r_t\ \text{{less}}\ {self.kl:g}\, (\ell^{{old}}_t - \ell^{{ref}}_t)"
        whole = "" if self.whiten is None else rf"{self.whiten.latex()}(\hat A_t),\quad "
        return (rf"{whole}\hat A_t = \delta_t + {decay}\hat A_{{t+1}},\quad "
                rf"\delta_t = r_t + {ahead}V_{{t+1}} - V_t{penalty}")
