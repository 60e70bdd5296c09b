"""What must hold for every method, on random ragged batches: one table of methods, one test per property."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from objectives_support import MAX_TOKENS, OBJECTIVES, VARIANTS, gradients, group, ragged, rollout, turn, whole

from groupwise.core.rollout import Context
from groupwise.methods import METHODS
from groupwise.methods.update import Minibatches
from groupwise.objective.baselines import BatchMean, GroupStd
from groupwise.objective.credit import RewardMinusKl
from groupwise.objective.levels import reduce
from groupwise.objective.ratio import TokenRatio
from groupwise.objective.terms import Live, Policy
from groupwise.objective.trust import Clip

SEEDS = range(4)
NAMES = sorted(OBJECTIVES)
PLAIN = [n for n in NAMES if len(OBJECTIVES[n].terms) == 1]
IN_REWARD = [n for n in NAMES if isinstance(OBJECTIVES[n].credit_by.signal, RewardMinusKl)]
SCALED = [n for n in NAMES if isinstance(OBJECTIVES[n].credit_by.scale, GroupStd)]
BATCH_MEAN = [n for n in NAMES if isinstance(OBJECTIVES[n].credit_by.baseline, BatchMean)]
TOKEN_LEVEL = [n for n in NAMES if isinstance(OBJECTIVES[n].terms[0].ratio, TokenRatio)]
CLIPS = [n for n in NAMES if isinstance(OBJECTIVES[n].terms[0].trust, Clip)]
TIGHT = {"rtol": 1e-11, "atol": 1e-13}

case = cache(ragged)


def same(a, b, **tolerance):
    tolerance = tolerance or TIGHT
    np.testing.assert_allclose(a[0], b[0], **tolerance)
    np.testing.assert_allclose(a[1].numpy(), b[1].numpy(), **tolerance)


def every(names=NAMES, seeds=SEEDS):
    return [(n, s) for n in names for s in seeds]


def test_every_method_is_in_the_table():
    others = {name for name in METHODS if Path(__file__).with_name(f"test_methods_{name}.py").is_file()}
    assert others == {"ppo", "remax"}  # whose credit needs a critic or a rollout aside: they have files of their own
    assert set(METHODS) <= set(VARIANTS) | others


@pytest.mark.parametrize("seed", SEEDS)
def test_the_batches_are_as_ragged_as_they_should_be(seed):
    batch = case(seed).batch()
    sizes = np.bincount(batch.layout.group)
    assert len(set(sizes.tolist())) > 1
    assert batch.layout.size("sequence") > batch.layout.size("episode")
    assert 0 < int(batch.counted.sum()) < len(batch.tokens)
    assert int(batch.loss_mask.sum()) < int(batch.counted.sum())


@pytest.mark.parametrize(("name", "seed"), every())
def test_order_of_siblings_and_groups_does_not_matter(name, seed):
    rng, before = np.random.default_rng(seed), case(seed)
    shuffled = [replace(g, rollouts=tuple(g.rollouts[i] for i in rng.permutation(len(g.rollouts)))) for g in before.groups]
    after = replace(before, groups=[shuffled[i] for i in rng.permutation(len(shuffled))])
    same(whole(OBJECTIVES[name], before), whole(OBJECTIVES[name], after))


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize(("name", "seed"), every(seeds=(0, 1)))
def test_cutting_into_micro_batches_changes_nothing(name, seed, size):
    objective, c = OBJECTIVES[name], case(seed)
    weighed = objective.weigh(c.prepared(objective))
    order = np.random.default_rng(seed).permutation(weighed.layout.size("sequence"))
    parts = [weighed.take(order[i:i + size]) for i in range(0, len(order), size)]
    same(gradients(objective, [weighed], c.table), gradients(objective, parts, c.table))


@pytest.mark.parametrize("shards", [2, 3])
@pytest.mark.parametrize(("name", "seed"), every(seeds=(0, 1)))
def test_ranks_only_add(name, seed, shards):
    objective, c = OBJECTIVES[name], case(seed)
    batch = c.prepared(objective)
    parts = [batch.groups(p) for p in np.array_split(np.arange(batch.layout.groups), shards) if len(p)]
    counted = []
    for part in parts:
        counted.append([])
        objective.weigh(part, lambda counts: (counted[-1].append(counts), counts)[1])
    totals = [sum(of_ranks) for of_ranks in zip(*counted, strict=True)]
    weighed = []
    for part in parts:
        given = iter(totals)
        weighed.append(objective.weigh(part, lambda counts, given=given: next(given)))
    same(whole(objective, c), gradients(objective, weighed, c.table))


def two_turns(cut):
    def one(reward, at, first, second):
        a, b = tuple(range(at, at + first)), tuple(range(at + first + 2, at + first + 2 + second))
        later = (99, *a, at + first, at + first + 1)
        return rollout(reward, turn(a, context=(99,)), turn(b, context=later, train_context=Context(later) if cut else None))

    return [group("a", one(1.0, 0, 3, 4), one(0.0, 10, 2, 5)),
            group("b", one(0.3, 20, 1, 1), one(0.1, 30, 4, 2), one(0.9, 40, 2, 2))]


@pytest.mark.parametrize("name", NAMES)
def test_an_episode_cut_in_two_keeps_its_token_level_gradients(name):
    objective, c = OBJECTIVES[name], ragged(0, groups=(5, 5), size=(4, 5))
    one, two = (replace(c, groups=two_turns(cut)) for cut in (False, True))
    assert (one.batch().layout.size("sequence"), two.batch().layout.size("sequence")) == (5, 10)
    if name in TOKEN_LEVEL:
        same(whole(objective, one), whole(objective, two))
    else:  # a sequence ratio is about the sequence; the credit is not
        a, b = one.prepared(objective), two.prepared(objective)
        np.testing.assert_array_equal(a.credit["advantage"].values, b.credit["advantage"].values)
        weights = [objective.weigh(x).weights["policy"].values[x.counted] for x in (a, b)]
        np.testing.assert_allclose(*weights, rtol=1e-14)


@pytest.mark.parametrize(("name", "seed"), every())
def test_a_constant_added_to_all_rewards_changes_nothing(name, seed):
    objective, c = OBJECTIVES[name], case(seed)
    same(whole(objective, c), whole(objective, c.rewarded(lambda r: r + 7.5)), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("name", "seed"), every([n for n in NAMES if n not in IN_REWARD]))
def test_rewards_times_a_constant(name, seed):
    objective, c, k = OBJECTIVES[name], case(seed), 3.0
    before, after = whole(objective, c)[1], whole(objective, c.rewarded(lambda r: k * r))[1]
    if name in SCALED:  # up to eps = 1e-6 beside standard deviations above 0.01
        np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-10)
    else:
        np.testing.assert_allclose(k * before, after, **TIGHT)


@pytest.mark.parametrize(("name", "seed"), every([n for n in NAMES if n not in BATCH_MEAN + IN_REWARD]))
def test_groups_without_variance_have_no_gradient_and_exactly_they_are_idle(name, seed):
    objective, c = OBJECTIVES[name], case(seed)
    batch = objective.weigh(c.prepared(objective))
    flat = np.array([len(set(g.rewards.tolist())) == 1 for g in c.groups])
    of_token = torch.from_numpy(flat[batch.layout.ids("token", "group")])
    assert of_token.any()
    idle = objective.idle(batch)
    if name in PLAIN:
        assert bool((gradients(objective, [batch], c.table)[1][batch.tokens[of_token]] == 0.0).all())
        of_sequence = flat[batch.layout.ids("sequence", "group")]
        held = reduce(batch.loss_mask.double(), batch.ids("token", "sequence"), len(idle), "sum").numpy()
        np.testing.assert_array_equal(idle, of_sequence | (held == 0))
        same(gradients(objective, [batch], c.table), gradients(objective, [batch.take(np.flatnonzero(~idle))], c.table))
    else:
        assert not idle.any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e9])
@pytest.mark.parametrize(("name", "seed"), every(seeds=(0, 1)))
def test_garbage_under_the_mask_changes_nothing(name, seed, value):
    objective, c = OBJECTIVES[name], case(seed)
    clean, dirty = whole(objective, c), whole(objective, c.filled(~c.trained, value))
    same(clean, dirty, rtol=0, atol=0)
    assert bool((dirty[1][~c.trained] == 0.0).all())
    # A masked rollout's live log-probs are looked at by nobody; what was scored before may be in its reward.
    same(clean, whole(objective, c.filled(c.masked, value, names=("logp", "engine_logp"))), rtol=0, atol=0)


def by_differences(objective, batch, table, step=1e-6):
    found = torch.zeros_like(table["logp"])
    with torch.no_grad():
        for token in batch.tokens.tolist():
            up, down = table["logp"].clone(), table["logp"].clone()
            up[token] += step
            down[token] -= step
            ends = [objective.loss(Live(logp=x[batch.tokens]), batch).value for x in (up, down)]
            found[token] = (ends[0] - ends[1]) / (2 * step)
    return found


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith(("cispo", "gspo_token"))])
def test_finite_differences(name, seed):
    objective, c = OBJECTIVES[name], ragged(seed, groups=(2, 3), size=(2, 3), flat=0.2)
    batch = objective.weigh(c.prepared(objective))
    _, gradient = gradients(objective, [batch], c.table)
    np.testing.assert_allclose(gradient, by_differences(objective, batch, c.table), atol=1e-8)
    assert float(gradient.abs().max()) > 1e-3


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
def test_on_policy_every_ratio_is_one_and_every_method_is_reinforce(name, seed):
    objective, c = OBJECTIVES[name], case(seed)
    batch = objective.weigh(c.prepared(objective, "self"))
    loss = objective.loss(Live(logp=c.table["logp"][batch.tokens]), batch)
    assert bool((loss.seen[0].ratio == 1.0).all())
    assert not bool(loss.seen[0].stopped.any())
    expected = -batch.weights["policy"].values * batch.column("advantage")
    value, gradient = gradients(objective, [batch], c.table)
    np.testing.assert_allclose(gradient[batch.tokens], expected, **TIGHT)
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
