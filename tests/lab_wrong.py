"""Objectives and methods that are wrong on purpose, each in a way that has been shipped by somebody."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from groupwise.methods import METHODS
from groupwise.methods.method import Method
from groupwise.methods.update import Minibatches
from groupwise.objective.aggregate import SequenceMean, TokenMean
from groupwise.objective.baselines import GroupMean, GroupStd
from groupwise.objective.batch import Column
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.penalties import Kl
from groupwise.objective.terms import Policy


@dataclass(frozen=True)
class MeanOfMeans(Objective):
    """Every micro-batch takes the mean over its own tokens."""

    def loss(self, live, batch):
        own = replace(batch, weights={})
        return super().loss(live, super().weigh(own))


def mean_of_micro_batch_means():
    return Method(MeanOfMeans(Advantage(), (Policy(aggregate=TokenMean()),)))


@dataclass(frozen=True)
class WeighedAsAWhole(Minibatches):
    """The rollout batch is weighed once and cut afterwards."""

    def split(self, batch, key):
        yield batch

    def step(self, learner, minibatch, objective):
        stats = {}
        for part in super().split(minibatch, 0):
            stats |= super().step(learner, part, objective)
        return stats


def weights_of_the_rollout_batch():
    return Method(Objective(Advantage(), (Policy(aggregate=TokenMean()),)), update=WeighedAsAWhole(2))


@dataclass(frozen=True, kw_only=True)
class ShiftedMask(Policy):
    """The mask is that of the next position."""

    def mask(self, batch):
        return torch.roll(super().mask(batch), 1)

    def losses(self, live, batch, mask, correction):
        return super().losses(live, batch, mask, correction) * torch.roll(mask, 1)


def mask_off_by_one():
    return Method(Objective(Advantage(), (ShiftedMask(aggregate=TokenMean()),)))


@dataclass(frozen=True)
class StdOverTokens:
    """Every token brings its rollout's reward into the group's std."""

    needs: frozenset[str] = frozenset()

    def __call__(self, table, state):
        of, group = table.layout.ids("token", "episode"), table.layout.ids("episode", "group")
        rewards, counted = table.reward, table.counted
        out = np.zeros_like(rewards)
        for g in np.unique(group):
            tokens = rewards[of][counted & (group[of] == g)]
            spread = tokens.std() if len(tokens) > 1 else 0.0
            own = rewards[group == g]
            out[group == g] = (own - own.mean()) / (spread + 1e-6)
        return {"advantage": Column("episode", out)}


def std_over_tokens():
    return Method(Objective(StdOverTokens(), (Policy(aggregate=SequenceMean()),)))


def kl_of_the_wrong_sign():
    return Method(Objective(Advantage(baseline=GroupMean(), scale=GroupStd()),
                            (Policy(aggregate=SequenceMean()), Kl(coef=-0.04))))


@dataclass(frozen=True, kw_only=True)
class KlTheWrongWayRound(Kl):
    """U is log pi - log ref."""

    def losses(self, live, batch, mask, correction):
        u = torch.where(mask, live.logp - batch.columns["ref_logp"], 0.0)
        return torch.expm1(u) - u


def kl_the_wrong_way_round():
    return Method(Objective(Advantage(), (Policy(aggregate=SequenceMean()), KlTheWrongWayRound(coef=0.04))))


@dataclass(frozen=True, kw_only=True)
class AnotherTemperature(Policy):
    """Log-probs of the sampling temperature are divided by it once more."""

    def ratios(self, live, batch, mask, inside=None):
        return super().ratios(live, batch, mask) ** (1 / 0.7)


def ratio_under_another_temperature():
    return Method(Objective(Advantage(), (AnotherTemperature(aggregate=TokenMean()),)))


def an_objective():
    return METHODS["grpo"]().objective


def bare():
    return Objective(Advantage(), (Policy(aggregate=TokenMean()),))


def raising():
    return Method(Objective(Broken(), (Policy(aggregate=TokenMean()),)))


@dataclass(frozen=True)
class Broken:
    """A credit with a mistake in its code."""

    needs: frozenset[str] = frozenset()

    def __call__(self, table, state):
        return {"advantage": Column("episode", table.reward / table.no_such_thing)}


@dataclass(frozen=True, kw_only=True)
class ShiftedLogProb(Policy):
    """Every token has the log-prob of the one after it."""

    def losses(self, live, batch, mask, correction):
        return super().losses(replace(live, logp=torch.roll(live.logp, -1)), batch, mask, correction)


def log_prob_off_by_one():
    return Method(Objective(Advantage(), (ShiftedLogProb(aggregate=TokenMean()),)))


@dataclass(frozen=True, kw_only=True)
class Rescaled(Policy):
    """The live log-probs are divided by the temperature once more, those before the update are not."""

    def ratios(self, live, batch, mask, inside=None):
        return super().ratios(replace(live, logp=live.logp / 0.7, base=live.base), batch, mask)


def ratio_of_scaled_log_probs():
    return Method(Objective(Advantage(), (Rescaled(aggregate=TokenMean()),)))
