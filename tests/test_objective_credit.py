"""Credit: baselines, cells of one, abstentions, keys, blends, and a critic's advantages."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from objectives_support import OBJECTIVES, group, ragged, rollout, tensor, turn

from groupwise.core.verdict import Component
from groupwise.errors import ObjectiveError
from groupwise.objective.baselines import BatchMean, GroupMean, GroupStd, LeaveOneOut, NoBaseline
from groupwise.objective.batch import Column, pack
from groupwise.objective.credit import Advantage, Blend, Reward, RewardMinusKl, TurnReward
from groupwise.objective.objective import Objective
from groupwise.objective.returns import Gae
from groupwise.objective.scored import scored
from groupwise.objective.terms import Policy


def credited(credit, groups, needed=None):
    made = Objective(credit, (Policy(),))
    batch = pack(groups, dtype=torch.float64)
    return made.credit(groups, batch, {k: tensor(v) for k, v in (needed or {}).items()})


def values(credit, groups, needed=None):
    return credited(credit, groups, needed)["advantage"].values


def groups_of(*rewards):
    """One group per tuple of rewards, single tokens."""
    return [group(str(i), *(rollout(r, turn((0,)), weight=1.0) for r in row)) for i, row in enumerate(rewards)]


@pytest.mark.parametrize(("baseline", "expected"), [
    (GroupMean(), [0.75, -0.25, -0.5]), (LeaveOneOut(), [1.125, -0.375, -0.75]), (NoBaseline(), [1.0, 0.0, -0.25]),
    (BatchMean(), [0.75, -0.25, -0.5]),
])
def test_baselines(baseline, expected):
    np.testing.assert_allclose(values(Advantage(baseline=baseline), groups_of((1.0, 0.0, -0.25))), expected)


def test_the_batch_mean_is_over_all_groups():
    np.testing.assert_allclose(values(Advantage(baseline=BatchMean()), groups_of((1.0, 1.0), (0.0, 2.0))), [0.0, 0.0, -1.0, 1.0])


@pytest.mark.parametrize(("rule", "expected"), [("zero", 0.0), ("raw", 0.7), ("drop", np.nan)])
@pytest.mark.parametrize("baseline", [GroupMean, LeaveOneOut])
def test_cells_of_one(baseline, rule, expected):
    credit = Advantage(baseline=baseline(singleton=rule), scale=GroupStd())
    found = values(credit, groups_of((0.7,), (1.0, 0.0)))
    np.testing.assert_allclose(found[0], expected, rtol=2e-6)  # the scale of a cell of one is 1 + eps
    assert found[1] == -found[2] > 0
    made = Objective(credit, (Policy(),))
    batch = pack(groups_of((0.7,), (1.0, 0.0)), dtype=torch.float64)
    mask = batch.with_columns({}, made.credit(groups_of((0.7,), (1.0, 0.0)), batch, {})).loss_mask
    assert mask.tolist() == [rule != "drop", True, True]


def test_a_cell_of_one_can_be_refused():
    for baseline in (GroupMean(singleton="refuse"), LeaveOneOut(singleton="refuse")):
        with pytest.raises(ObjectiveError, match="raise group_size"):
            values(Advantage(baseline=baseline), groups_of((0.7,), (1.0, 0.0)))
        assert values(Advantage(baseline=baseline), groups_of((1.0, 0.0))).tolist()


def test_a_group_is_alone_when_its_siblings_abstain():
    groups = groups_of((0.7, None, None))
    np.testing.assert_array_equal(values(Advantage(), groups), [0.0, np.nan, np.nan])
    np.testing.assert_array_equal(values(Advantage(baseline=GroupMean(singleton="raw")), groups), [0.7, np.nan, np.nan])
    with pytest.raises(ObjectiveError):
        values(Advantage(baseline=LeaveOneOut(singleton="refuse")), groups)


def test_no_baseline_needs_no_siblings():
    assert values(Advantage(baseline=NoBaseline()), groups_of((0.7,))).tolist() == [0.7]
    assert values(Advantage(baseline=BatchMean()), groups_of((0.5,), (1.5,))).tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("baseline", [GroupMean(), LeaveOneOut(), BatchMean()])
def test_abstentions_are_out_of_every_statistic(baseline):
    credit = Advantage(baseline=baseline, scale=GroupStd())
    found = values(credit, groups_of((1.0, None, 0.0, 0.25)))
    assert np.isnan(found[1])
    np.testing.assert_allclose(found[[0, 2, 3]], values(credit, groups_of((1.0, 0.0, 0.25))))


@pytest.mark.parametrize("reward", [0.1, 0.7, 1e6, -1 / 3])
@pytest.mark.parametrize("n", [2, 3, 7, 10])
def test_equal_rewards_have_exactly_no_advantage(reward, n):
    """0.1 + 0.1 + 0.1 is not 3 * 0.1: without care the standard deviation would be of rounding errors."""
    for baseline in (GroupMean(), LeaveOneOut()):
        found = values(Advantage(baseline=baseline, scale=GroupStd()), groups_of((reward,) * n, (0.0, 1.0)))
        assert found[:n].tolist() == [0.0] * n


def test_the_std_has_the_ddof_and_eps_it_says():
    rewards = (1.0, 0.0, 0.5, 0.0)
    for ddof in (0, 1):
        expected = (np.array(rewards) - np.mean(rewards)) / (np.std(rewards, ddof=ddof) + 0.01)
        np.testing.assert_allclose(values(Advantage(scale=GroupStd(eps=0.01, ddof=ddof)), groups_of(rewards)), expected)


def test_transforms_come_after_the_scale_and_weights_after_the_transform():
    groups = [group("g", rollout(3.0, turn((0,)), weight=0.5), rollout(-3.0, turn((1,))))]
    assert values(Advantage(transform=np.sign), groups).tolist() == [0.5, -1.0]


def turn_rewarded(rewards, weight=1.0, states=(None,) * 9):
    turns = [turn((i,), context=(9, *range(i)), state=states[i]) for i in range(len(rewards))]
    components = [Component("step", r, target="turn", index=i) for i, r in enumerate(rewards)]
    made = rollout(None, *turns, weight=weight)
    return type(made)(made.episode, made.verdict, tuple(components), weight=weight)


def test_the_weight_of_a_rollout_scales_the_advantages_of_its_turns_too():
    credit = Advantage(signal=TurnReward(), key="turn")
    groups = [group("g", turn_rewarded([1.0, 5.0], weight=0.5), turn_rewarded([0.0, 1.0]))]
    found = credited(credit, groups)["advantage"]
    assert (found.unit, found.values.tolist()) == ("segment", [0.25, 1.0, -0.5, -2.0])


def test_turn_rewards_are_at_their_turns():
    made = turn_rewarded([1.0, 2.0, 4.0])
    more = (*made.components, Component("step", 0.5, target="span", index=1, start=0, end=1, weight=2.0), Component("all", 8.0),
            Component("step", None, target="turn", index=0))
    groups = [group("g", type(made)(made.episode, made.verdict, more))]
    assert values(Advantage(baseline=NoBaseline(), signal=TurnReward()), groups).tolist() == [1.0, 3.0, 4.0]
    assert values(Advantage(baseline=NoBaseline()), groups).tolist() == [16.0]


def test_a_component_can_be_the_signal():
    base = rollout(1.0, turn((0,)))
    both = [type(base)(base.episode, base.verdict, (Component("a", x), Component("b", y))) for x, y in ((1.0, 5.0), (0.0, 7.0))]
    groups = [group("g", *both)]
    assert values(Advantage(signal=Reward("b")), groups).tolist() == [-1.0, 1.0]
    assert values(Advantage(), groups).tolist() == [-0.5, 0.5]
    with pytest.raises(ObjectiveError, match=r"\['a', 'b'\]"):
        values(Advantage(signal=Reward("c")), groups)


def test_blend_over_the_group_and_the_state():
    """GiGPO: the episode's advantage over its group, and the turn's over the turns that began in the same state."""
    one = turn_rewarded([1.0, 0.0], states=("s", "t"))
    two = turn_rewarded([0.0, 3.0], states=("s", "u"))
    other = turn_rewarded([5.0, 5.0], states=("s", "t"))  # another group's states are its own
    groups = [group("g", one, two), group("h", other)]
    credit = Blend(((1.0, Advantage()), (0.5, Advantage(signal=TurnReward(), key="state"))))
    found = credited(credit, groups)["advantage"]
    assert found.unit == "token"
    np.testing.assert_allclose(found.values, [-1.0 + 0.25, -1.0, 1.0 - 0.25, 1.0, 0.0, 0.0])


def test_a_reward_that_abstains_is_left_out_of_a_blend():
    """TRL's normalize_then_sum: nansum over the rewards; a rollout of which none says anything has no advantage."""
    parts = [(1.0, None, 4.0), (3.0, None, None), (5.0, None, 0.0)]
    rollouts = [replace(rollout(0.0, turn((0,))), components=tuple(map(Component, "abc", row))) for row in parts]
    mute = replace(rollouts[0], components=(Component("a", None), Component("c", None)))
    credit = Blend(tuple((weight, Advantage(signal=Reward(name))) for weight, name in ((1.0, "a"), (0.5, "b"), (10.0, "c"))))
    found = values(credit, [group("g", *rollouts, mute)])
    np.testing.assert_allclose(found, [-2.0 + 20.0, 0.0, 2.0 - 20.0, np.nan])


def test_unknown_states_are_alone():
    groups = [group("g", turn_rewarded([1.0, 2.0]), turn_rewarded([3.0, 4.0]))]
    assert values(Advantage(signal=TurnReward(), key="state"), groups).tolist() == [0.0] * 4
    raw = Advantage(baseline=GroupMean(singleton="raw"), signal=TurnReward(), key="state")
    assert values(raw, groups).tolist() == [1.0, 2.0, 3.0, 4.0]


def test_the_kl_in_the_reward_is_summed_over_trained_tokens():
    groups = [group("g", rollout(1.0, turn((0, 1, 2), untrained=1)), rollout(0.0, turn((3,))))]
    needed = {"old_logp": [-1.0, -2.0, np.nan, -1.5], "ref_logp": [-1.5, -2.25, 1e9, -0.5]}
    credit = Advantage(baseline=NoBaseline(), signal=RewardMinusKl(0.1))
    np.testing.assert_allclose(values(credit, groups, needed), [1.0 - 0.1 * 0.75, 0.1])
    assert credit.needs == {"old", "ref"}


def gae_by_loop(rewards, lengths, critic, gamma, lam):
    """Equation 16, backwards, one episode at a time."""
    found, at = [], 0
    for reward, length in zip(rewards, lengths, strict=True):
        v = critic[at:at + length]
        advantage, out = 0.0, []
        for t in reversed(range(length)):
            following = v[t + 1] if t + 1 < length else 0.0
            delta = (reward if t == length - 1 else 0.0) + gamma * following - v[t]
            advantage = delta + gamma * lam * advantage
            out.append(advantage)
        found += reversed(out)
        at += length
    return np.array(found)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.8), (0.5, 0.0)])
@pytest.mark.parametrize("seed", range(3))
def test_gae_against_a_loop(seed, gamma, lam):
    case = ragged(seed)
    batch = case.batch()
    critic = np.random.default_rng(seed).normal(size=len(batch.tokens))
    trained = batch.counted.numpy()
    dirty = np.where(trained, critic, np.nan)
    found = credited(Gae(gamma, lam), case.groups, {"values": dirty})
    rewards = [r.reward for g in case.groups for r in g.rollouts]
    expected = gae_by_loop(rewards, scored(case.groups, batch, {}).length, critic[trained], gamma, lam)
    np.testing.assert_allclose(found["advantage"].values[trained], expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found["returns"].values[trained], expected + critic[trained], rtol=1e-10, atol=1e-12)


def test_gae_passes_abstentions_on():
    groups = [group("g", rollout(None, turn((0, 1))), rollout(1.0, turn((2,))))]
    np.testing.assert_array_equal(values(Gae(), groups, {"values": np.zeros(3)}), [np.nan, np.nan, 1.0])


def test_lengths_count_an_episode_s_trained_tokens_over_its_sequences():
    for seed in range(4):
        case = ragged(seed)
        expected = [r.episode.length for g in case.groups for r in g.rollouts]
        assert scored(case.groups, case.batch(), {}).length.tolist() == expected


def test_credit_is_counted_once_per_episode_however_it_is_cut():
    case = ragged(2, cut=0.9)
    batch = case.batch()
    assert batch.layout.size("sequence") > batch.layout.size("episode")
    found = case.prepared(OBJECTIVES["grpo_no_kl"]).credit["advantage"]
    expected = []
    for g in case.groups:
        r = g.rewards
        flat = len(set(r.tolist())) == 1
        expected += [0.0] * len(r) if flat else ((r - r.mean()) / (r.std(ddof=1) + 1e-6)).tolist()
    np.testing.assert_allclose(found.values, expected, rtol=1e-12, atol=1e-15)
    assert isinstance(found, Column)
    assert found.unit == "episode"
