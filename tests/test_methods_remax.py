"""ReMax: one greedy rollout of every group, which is nobody's sample: in no statistic, in no gradient, in the budget."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from collect_support import EOS, answers, collected, encode, sampler_of, text_of
from objectives_support import group, rollout, turn
from run_support import tiny_folder, tiny_run

from groupwise.core.services import Plan
from groupwise.errors import ConfigError
from groupwise.methods import METHODS
from groupwise.objective.batch import pack
from groupwise.objective.terms import Live
from groupwise.run import metrics
from groupwise.run.disk import read_lines
from groupwise.run.grade import Grader
from groupwise.run.loop import train
from groupwise.sampling.admission import mixed

REMAX = METHODS["remax"]()


@pytest.fixture(scope="module")
def grader():
    with Grader("last_integer") as made:
        yield made


def greedy(one):
    """The rollout as the greedy one of its group."""
    turns = tuple(replace(t, spans=(replace(t.tiles[0], behaviour="none", end=len(t.completion.tokens)),))
                  for t in one.episode.turns)
    return replace(one, episode=replace(one.episode, role="greedy", turns=turns))


def script(request, sample):
    """The greedy answer is right for even prompts; sampled ones as in the other tests of the sampler."""
    if request.sampling.temperature == 0.0:
        _, second = text_of(request.context.tokens).rstrip("=").split("+")
        return (*encode(str(3 + int(second)) if int(second) % 2 == 0 else "0"), EOS)
    return answers()(request, sample)


def test_every_group_gets_a_greedy_rollout(grader):
    sampler = sampler_of(grader, script, REMAX, prompts=4, size=2)
    groups = collected(sampler)
    assert [[r.episode.role for r in g.rollouts] for g in groups] == [["policy", "policy", "greedy"]] * 4
    asked = [(r.sampling.temperature, len(r.streams)) for r in sampler.engine.requests]
    assert asked == [(1.0, 2), (0.0, 1)] * 4
    for g in groups:
        aside = g.rollouts[-1]
        assert aside.episode.aside
        assert aside.episode.length == 0
        assert aside.verdict.correct == (g.prompt.answer % 2 == 1)


def test_the_sampled_ones_are_those_of_a_run_without_it(grader):
    plain, with_greedy = (collected(sampler_of(grader, script, m)) for m in (METHODS["rloo"](), REMAX))
    assert [[r.episode for r in g.rollouts] for g in plain] == [[r.episode for r in g.own] for g in with_greedy]
    assert [g.rewards.tolist() for g in plain] == [[r.reward for r in g.own] for g in with_greedy]


def test_it_is_in_no_statistic_but_in_the_budget(grader):
    found = {}
    for name, method in (("rloo", METHODS["rloo"]()), ("remax", REMAX)):
        sampler = sampler_of(grader, script, method, prompts=4, size=2)
        collected(sampler)
        found[name] = metrics.of_groups(sampler.tally), sampler.history.state_dict()
    aside = found["remax"][0].pop("tokens/greedy/generate")
    assert aside > 0
    assert found["remax"] == found["rloo"]


def test_the_advantage_is_the_gap_to_the_greedy_reward():
    groups = [group("a", rollout(1.0, turn((0, 1))), rollout(0.0, turn((2,))), greedy(rollout(0.25, turn((3, 4))))),
              group("b", rollout(1.0, turn((5,))), greedy(rollout(1.0, turn((6,)))))]
    batch = pack(groups, dtype=torch.float64)
    columns = REMAX.objective.credit(groups, batch, {})
    np.testing.assert_array_equal(columns["advantage"].values, [0.75, -0.25, np.nan, 0.0, np.nan])
    batch = batch.with_columns({}, columns).written_by("policy")
    assert batch.tokens.tolist() == [0, 1, 2, 5]  # nothing is run for the greedy ones
    assert batch.layout.groups == 2
    weighed = REMAX.objective.weigh(batch)
    logp = torch.tensor([-1.0, -2.0, -0.5, -3.0], dtype=torch.float64, requires_grad=True)
    loss = REMAX.objective.loss(Live(logp=logp), weighed).value
    assert float(loss.detach()) == pytest.approx(-(0.75 * -3.0 - 0.25 * -0.5) / 3)


def test_a_group_without_its_greedy_rollout_is_refused(grader):
    assert REMAX.admit[0](group("a", rollout(1.0, turn((0,))))) == "no_greedy"
    groups = [group("a", rollout(1.0, turn((0,))), rollout(0.0, turn((1,))))]
    columns = REMAX.objective.credit(groups, pack(groups), {})
    assert np.isnan(columns["advantage"].values).all()


def test_other_rules_look_past_it():
    wrong, right = (replace(rollout(x, turn((int(x),)))) for x in (0.0, 1.0))
    wrong = replace(wrong, verdict=replace(wrong.verdict, correct=False))
    assert mixed(group("a", right, right, greedy(wrong))) == "all_correct"
    assert mixed(group("a", wrong, greedy(right))) == "all_wrong"


def test_plans_say_whether_they_are_trained_on(grader):
    sampler = sampler_of(grader, script)
    plan = sampler.draw(0)[0]
    with pytest.raises(ConfigError, match="trained=False"):
        sampler.generate([replace(plan, temperature=0.5)])
    with pytest.raises(ConfigError, match="a role of its own"):
        Plan(plan.prompt, 1, visit=1, group="g", trained=False)
    (made,) = sampler.generate([replace(plan, temperature=0.5, role="probe", trained=False)])
    assert all(r.episode.length == 0 for r in made.rollouts)


@pytest.mark.parametrize("way", [{}, pytest.param({"workers": 2}, marks=pytest.mark.slow), {"compute": "auto"}])
def test_it_trains(way, tmp_path):
    run = tiny_run(tiny_folder(tmp_path / "model"), method="remax", task="run_tasks:parity", steps=3, **way)
    for row in read_lines(train(run, tmp_path) / "metrics.jsonl"):
        assert row["rollouts"] == 16
        assert row["tokens/greedy/generate"] > 0
        assert row["tokens_trained"] <= row["tokens/policy/generate"]
        assert row["grad_norm"] > 0
