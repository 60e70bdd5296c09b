"""Estimators that no framework's vectors cover, against numbers from their papers' code."""

import numpy as np
import pytest
import torch
from objectives_support import group, rollout, turn

from groupwise.errors import ObjectiveError
from groupwise.methods import METHODS
from groupwise.objective.aggregate import MicroTokenMean
from groupwise.objective.baselines import BetaDensity, CellMean, GroupMean, SecondBest
from groupwise.objective.batch import pack
from groupwise.objective.credit import Advantage, Whiten
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy


def advantages(credit, *rewards):
    groups = [group(str(i), *(rollout(r, turn((0, 0))) for r in row)) for i, row in enumerate(rewards)]
    return Objective(credit, (Policy(),)).credit(groups, pack(groups), {})["advantage"].values


def test_the_beta_density_of_bnpo():
    """Success rates 1/4, 1/2, 3/4: alpha = beta = 1.5, and the advantages of its official code."""
    assert BetaDensity().shape(np.array([0.25, 0.5, 0.75])) == pytest.approx((1.5, 1.5))
    got = advantages(Advantage(scale=BetaDensity()), (1.0, 0.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0), (1.0, 1.0, 1.0, 0.0))
    right, wrong = [0.6801747616, 0.3926990817, 0.2267249205], [-0.2267249205, -0.3926990817, -0.6801747616]
    np.testing.assert_allclose(got[[0, 4, 8]], right, atol=1e-9)
    np.testing.assert_allclose(got[[3, 7, 11]], wrong, atol=1e-9)


def test_flat_rates_make_bnpo_reinforce_with_a_baseline():
    one = advantages(Advantage(scale=BetaDensity()), (1.0, 0.0))
    np.testing.assert_allclose(one, [0.5, -0.5])
    np.testing.assert_allclose(advantages(Advantage(scale=BetaDensity()), (1.0, 1.0), (0.0, 0.0)), 0.0)
    with pytest.raises(ObjectiveError, match="between 0 and 1"):
        advantages(Advantage(scale=BetaDensity()), (2.0, 0.0))


def test_max_rl_of_a_hopeless_group_is_zero():
    np.testing.assert_allclose(advantages(Advantage(scale=CellMean()), (0.0, 0.0), (1.0, 0.0)), [0.0, 0.0, 1.0, -1.0])


def test_only_the_best_has_an_advantage_and_a_tie_has_none():
    np.testing.assert_allclose(advantages(Advantage(baseline=SecondBest()), (0.2, 1.0, 0.5), (1.0, 1.0, 0.0)),
                               [0.0, 0.5, 0.0, 0.0, 0.0, 0.0])


def test_whitening_makes_mean_zero_and_variance_one_over_tokens():
    got = advantages(Advantage(GroupMean(), whiten=Whiten()), (1.0, 0.0, 0.0), (0.5, 0.25))
    assert got.mean() == pytest.approx(0.0, abs=1e-12)
    assert np.repeat(got, 2).var(ddof=1) == pytest.approx(1.0, rel=1e-6)


def test_a_mean_of_micro_batch_means_needs_to_know_them():
    groups = [group("a", rollout(1.0, turn((0, 1, 2))), rollout(0.0, turn((3,))))]
    objective = Objective(Advantage(), (Policy(aggregate=MicroTokenMean()),))
    batch = pack(groups)
    batch = batch.with_columns({}, objective.credit(groups, batch, {}))
    assert objective.depends_on_microbatches
    with pytest.raises(ObjectiveError, match="with_parts"):
        objective.weigh(batch)
    weights = objective.weigh(batch.with_parts([[0], [1]])).weights["policy"].values
    torch.testing.assert_close(weights, torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 2]))
    with pytest.raises(ObjectiveError, match="exactly one"):
        batch.with_parts([[0]])


@pytest.mark.parametrize("weights", ["1", "1,2,3"])
def test_gdpo_takes_a_weight_for_each_reward(weights):
    with pytest.raises(Exception, match="give one for each"):
        METHODS["gdpo"](rewards="a,b", weights=weights)
    credit = METHODS["gdpo"](rewards="a, b", weights="1,0.5").objective.credit_by
    assert [(factor, part.signal.component) for factor, part in credit.parts] == [(1.0, "a"), (0.5, "b")]
