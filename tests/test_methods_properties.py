"""What must hold for every method beyond what `groupwise check` looks at, on random ragged batches."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from objectives_support import MAX_TOKENS, OBJECTIVES, VARIANTS, gradients, ragged

from groupwise.lab.subjects import shipped
from groupwise.methods import METHODS
from groupwise.methods.update import Minibatches
from groupwise.objective.baselines import BatchMean
from groupwise.objective.credit import RewardMinusKl
from groupwise.objective.levels import reduce
from groupwise.objective.terms import Live, Policy
from groupwise.objective.trust import Clip

SEEDS = range(4)
NAMES = sorted(OBJECTIVES)
PLAIN = [n for n in NAMES if len(OBJECTIVES[n].terms) == 1]
IN_REWARD = [n for n in NAMES if isinstance(OBJECTIVES[n].credit_by.signal, RewardMinusKl)]
BATCH_MEAN = [n for n in NAMES if isinstance(OBJECTIVES[n].credit_by.baseline, BatchMean)]
CLIPS = [n for n in NAMES if isinstance(OBJECTIVES[n].terms[0].trust, Clip)]
TIGHT = {"rtol": 1e-11, "atol": 1e-13}

case = cache(ragged)


def same(a, b, **tolerance):
    tolerance = tolerance or TIGHT
    np.testing.assert_allclose(a[0], b[0], **tolerance)
    np.testing.assert_allclose(a[1].numpy(), b[1].numpy(), **tolerance)


def every(names=NAMES, seeds=SEEDS):
    return [(n, s) for n in names for s in seeds]


def test_every_method_is_in_the_suite():
    """What must hold for any method is checked for all of them by `groupwise check`; here stand facts about some."""
    assert {subject.name for subject in shipped()} == set(METHODS)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_batches_are_as_ragged_as_they_should_be(seed):
    batch = case(seed).batch()
    sizes = np.bincount(batch.layout.group)
    assert len(set(sizes.tolist())) > 1
    assert batch.layout.size("sequence") > batch.layout.size("episode")
    assert 0 < int(batch.counted.sum()) < len(batch.tokens)
    assert int(batch.loss_mask.sum()) < int(batch.counted.sum())


@pytest.mark.parametrize(("name", "seed"), every([n for n in NAMES if n not in BATCH_MEAN + IN_REWARD]))
def test_exactly_groups_without_variance_and_masked_rollouts_are_idle(name, seed):
    objective, c = OBJECTIVES[name], case(seed)
    batch = objective.weigh(c.prepared(objective))
    flat = np.array([len(set(g.rewards.tolist())) == 1 for g in c.groups])
    assert flat.any()
    idle = objective.idle(batch)
    if name in PLAIN:
        of_sequence = flat[batch.layout.ids("sequence", "group")]
        held = reduce(batch.loss_mask.double(), batch.ids("token", "sequence"), len(idle), "sum").numpy()
        np.testing.assert_array_equal(idle, of_sequence | (held == 0))
        same(gradients(objective, [batch], c.table), gradients(objective, [batch.take(np.flatnonzero(~idle))], c.table))
    else:
        assert not idle.any()


@pytest.mark.parametrize(("name", "seed"), every([n for n in NAMES if n.startswith("cispo")]))
def test_the_gradient_of_cispo_is_the_clipped_ratio_times_reinforce(name, seed):
    objective, c = OBJECTIVES[name], case(seed)
    batch, trust = objective.weigh(c.prepared(objective)), objective.terms[0].trust
    rho = (c.table["logp"] - c.table["old_logp"]).exp()[batch.tokens]
    clipped = rho.clamp(None if trust.low is None else 1 - trust.low, 1 + trust.high)
    expected = -batch.weights["policy"].values * clipped * batch.column("advantage")
    np.testing.assert_allclose(gradients(objective, [batch], c.table)[1][batch.tokens], expected, **TIGHT)


@pytest.mark.parametrize(("name", "seed"), every([n for n in NAMES if n.startswith("gspo_token")]))
def test_the_gradient_of_gspo_token_is_the_sequence_ratio_inside_the_band(name, seed):
    objective, c = OBJECTIVES[name], case(seed)
    batch, trust = objective.weigh(c.prepared(objective)), objective.terms[0].trust
    of_row, rows = batch.ids("token", "sequence"), batch.layout.size("sequence")
    log_ratio = (c.table["logp"] - c.table["old_logp"])[batch.tokens]
    s = reduce(log_ratio, of_row, rows, "mean", mask=batch.loss_mask).exp()[of_row]
    a = batch.column("advantage")
    held = torch.where(a > 0, s <= 1 + trust.high, s >= 1 - trust.low)
    expected = -batch.weights["policy"].values * s * a * held
    np.testing.assert_allclose(gradients(objective, [batch], c.table)[1][batch.tokens], expected, **TIGHT)


@pytest.mark.parametrize(("name", "seed"), every(PLAIN))
def test_on_policy_nothing_is_stopped_and_the_value_is_that_of_reinforce(name, seed):
    objective, c = OBJECTIVES[name], case(seed)
    batch = objective.weigh(c.prepared(objective, "self"))
    loss = objective.loss(Live(logp=c.table["logp"][batch.tokens]), batch)
    assert not bool(loss.seen[0].stopped.any())
    expected = -batch.weights["policy"].values * batch.column("advantage")
    value = loss.value.item()
    if name in CLIPS:
        assert value == pytest.approx(float(expected.sum()), abs=1e-14)
    else:
        assert value == pytest.approx(float((expected * c.table["logp"][batch.tokens]).sum()), abs=1e-13)


def expected_sum(name, batch, rule):
    """What the weights of a step must add up to, from the lengths alone."""
    episode = batch.layout.ids("token", "episode")
    lengths = np.bincount(episode, weights=batch.counted.numpy(), minlength=batch.layout.size("episode"))
    alive = np.bincount(episode, weights=batch.loss_mask.numpy(), minlength=len(lengths))
    share = {"TokenMean": alive.sum() / lengths.sum(), "SequenceMean": (alive / lengths).mean(), "SequenceSum": alive.mean(),
             "Constant": alive.mean() / MAX_TOKENS}
    return share[type(rule).__name__]


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize(("name", "seed"), every(seeds=(0, 1)))
def test_the_weights_of_every_optimiser_step_have_their_sum(name, seed, steps):
    objective, c = OBJECTIVES[name], ragged(seed + 10, masked=0.0)
    rule = objective.terms[0].aggregate
    for minibatch in Minibatches(steps).split(c.prepared(objective), key=seed):
        for term in objective.terms:
            total = float(objective.weigh(minibatch).weights[term.name].values.sum())
            assert total == pytest.approx(expected_sum(name, minibatch, rule), rel=1e-12)
            if type(rule).__name__.endswith("Mean"):
                assert total == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(("name", "seed"), every(seeds=(0, 1)))
def test_masked_rollouts_stay_in_the_denominators(name, seed):
    objective, c = OBJECTIVES[name], case(seed)
    batch = objective.weigh(c.prepared(objective))
    total = float(batch.weights["policy"].values.sum())
    assert total == pytest.approx(expected_sum(name, batch, objective.terms[0].aggregate), rel=1e-12)
    everybody = c.map(lambda _, r: replace(r, masked=False)).prepared(objective)
    np.testing.assert_array_equal(batch.credit["advantage"].values, everybody.credit["advantage"].values)


@pytest.mark.parametrize(("n", "epochs"), [(1, 1), (2, 1), (3, 2), (4, 1)])
def test_minibatches_are_whole_groups_each_once_per_epoch(n, epochs):
    batch = case(0).batch()
    split = list(Minibatches(n, epochs).split(batch, key=5))
    again = list(Minibatches(n, epochs).split(batch, key=5))
    assert [b.tokens.tolist() for b in split] == [b.tokens.tolist() for b in again]
    assert sum(b.layout.groups for b in split) == epochs * batch.layout.groups
    tokens = sorted(t for b in split for t in b.tokens.tolist())
    assert tokens == sorted(epochs * batch.tokens.tolist())


def test_every_epoch_and_every_key_has_its_own_order():
    batch = ragged(0, groups=(6, 6)).batch()
    split = [b.tokens.tolist() for b in Minibatches(6, epochs=2).split(batch, key=5)]
    other = [b.tokens.tolist() for b in Minibatches(6).split(batch, key=6)]
    assert sorted(split[:6]) == sorted(split[6:]) == sorted(other)
    assert split[:6] != split[6:] != other != split[:6]


def test_policies_state_what_their_parts_need():
    assert {n for n in NAMES if "ref" in VARIANTS[n].needs} == {"grpo", *IN_REWARD}
    assert {n for n in NAMES if "old" in VARIANTS[n].needs} == set(IN_REWARD)
    assert all(isinstance(o.terms[0], Policy) and o.reach in ("token", "sequence") for o in OBJECTIVES.values())
    several = replace(VARIANTS["dapo"], update=Minibatches(4))
    assert several.needs == {"old"}
