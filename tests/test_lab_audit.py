"""The audit against brute force, finite differences and closed forms, and its command."""

import itertools
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from groupwise import cli
from groupwise.core.services import MethodState
from groupwise.errors import ConfigError
from groupwise.lab import audit as lab
from groupwise.lab.audit import Settings, measured, named, sweeps, tables, world_of
from groupwise.lab.enumerated import policy
from groupwise.lab.expectation import Limits, moments
from groupwise.lab.rehearsal import Rehearsal, Stage
from groupwise.lab.subjects import subject, subject_of
from groupwise.lab.worlds import of_function, problem, toy, with_successes
from groupwise.methods.method import Method
from groupwise.objective.aggregate import Constant, SequenceMean, SequenceSum
from groupwise.objective.baselines import GroupMean, GroupStd, LeaveOneOut
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.ratio import SequenceRatio
from groupwise.objective.terms import Policy
from groupwise.objective.trust import Unclipped

SMALL = (problem("one", {".": 0, "a.": 1, "aa": 0}, (0.2, 0.5, 0.3)), problem("two", {".": 1, "a.": 0}, (0.3, 0.7)))


def table(world=SMALL, kind="tabular"):
    own = policy(world, kind, 0)
    return own.at(own.parameters)


def pair(name, old, now=None, *, group_size=2, prompts_per_step=1, method=None):
    own = subject(method, name) if method else subject_of(name, max_tokens=3)
    stage = Stage(own, old, prompts_per_step=prompts_per_step, group_size=group_size, seed=0)
    return stage, Rehearsal(own, old, now or old)


def expected(name, old, now=None, *, limits=Limits(), **more):
    return moments(*pair(name, old, now, **more), limits)


def brute(name, old, *, group_size, prompts_per_step):
    """Mean and spread over every ordered draw of prompts and of answers."""
    stage, rehearsal = pair(name, old, group_size=group_size, prompts_per_step=prompts_per_step)
    space, chance = old.space, old.chance.tolist()
    mean, square, total = 0.0, 0.0, 0.0
    for prompts in itertools.product(range(len(space.world)), repeat=prompts_per_step):
        each = [itertools.product(range(space.first[p], space.first[p + 1]), repeat=group_size) for p in prompts]
        for groups in itertools.product(*each):
            made = [g for k, (p, answers) in enumerate(zip(prompts, groups, strict=True))
                    for g in stage.scripted(p, answers, str(k))]
            if made:
                weight = math.prod(chance[a] for answers in groups for a in answers) / len(space.world) ** prompts_per_step
                slope = rehearsal.step(made).slopes.flatten() @ old.jacobian
                mean, square, total = mean + weight * slope, square + weight * float(slope @ slope), total + weight
    mean = mean / total
    return mean, square / total - float(mean @ mean)


@pytest.mark.parametrize("kind", ["tabular", "transformer"])
def test_the_true_gradient_is_that_of_finite_differences(kind):
    own = table(toy(), kind)
    torch.testing.assert_close(own.chance, own.space.column("chance"))  # both have the world's chances

    def reward(parameters):
        logp = own.policy.values(parameters)[:, 0]
        chance = logp.new_zeros(len(own.space.problem)).index_add(0, own.space.answer, logp).exp()
        torch.testing.assert_close(own.space.per_problem(chance), torch.ones(3, dtype=torch.float64))
        return float((chance * own.space.column("reward")).sum() / 3), chance

    way = torch.linspace(-1, 1, len(own.parameters), dtype=torch.float64)
    way = way / way.norm()
    up, down = (reward(own.parameters + step * way) for step in (1e-5, -1e-5))
    assert (up[0] - down[0]) / 2e-5 == pytest.approx(float(own.gradient @ way), rel=1e-5)
    for correct in (False, True):  # lengths of wrong and right answers, of prompts that have several
        def length(chance, correct=correct):
            of = own.space.column("correct") == correct
            mass = own.space.per_problem(torch.where(of, chance, 0.0))
            sums = own.space.per_problem(torch.where(of, chance * own.space.length, 0.0))
            return float((sums / mass)[own.space.per_problem(of.double()) > 1].mean())

        found = float(own.length_slope(correct) @ way)
        assert (length(up[1]) - length(down[1])) / 2e-5 == pytest.approx(found, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(("name", "prompts"), [("grpo", 2), ("otb", 2), ("remax", 1), ("ppo", 1), ("reinforce_pp", 1)])
def test_listed_groups_give_what_every_draw_gives(name, prompts):
    old = table()
    mean, spread = brute(name, old, group_size=2, prompts_per_step=prompts)
    found = expected(name, old, prompts_per_step=prompts)
    assert found.error == 0
    torch.testing.assert_close(found.mean, mean, rtol=1e-10, atol=1e-12)
    assert found.spread == pytest.approx(spread, rel=1e-9)


def test_refused_groups_are_missing_or_replaced():
    old, plain = table(), "dapo,rounds=1"
    name, arguments = named([plain])[0]
    own = subject_of(name, {**arguments, "max_tokens": 3})
    once = subject(replace(own.method, refill=None), "dapo")
    stage = Stage(once, old, prompts_per_step=2, group_size=2, seed=0)
    assert moments(stage, Rehearsal(once, old, old), Limits()).mean.tolist() == pytest.approx(
        moments(Stage(own, old, prompts_per_step=2, group_size=2, seed=0), Rehearsal(own, old, old), Limits()).mean.tolist())
    full = subject_of("dapo", max_tokens=3)
    stage = Stage(full, old, prompts_per_step=2, group_size=2, seed=0)
    exact = moments(stage, Rehearsal(full, old, old), Limits())
    drawn = moments(stage, Rehearsal(full, old, old), Limits(listed=0, drawn=200))
    assert drawn.why.endswith("--listed 0")
    assert 0 < float((drawn.mean - exact.mean).norm()) < 3 * drawn.error  # ten rounds of two prompts through the sampler


def test_closed_forms():
    old, g = table(toy()), 4
    torch.testing.assert_close(expected("rloo", old, group_size=g).mean, old.gradient)
    torch.testing.assert_close(expected("dr_grpo", old, group_size=g).mean, (g - 1) / g / 3 * old.gradient)  # C is 3 tokens
    old = table()
    torch.testing.assert_close(expected("reinforce", old, prompts_per_step=2).mean, (1 - 1 / 4) * old.gradient)


def test_the_std_weighs_prompts_as_binomial_sums_say():
    old, g = table(with_successes(toy(), (0.1, 0.5, 0.9))), 4
    made = Method(Objective(Advantage(GroupMean(), GroupStd(eps=1e-12)), (Policy(aggregate=SequenceSum()),)))
    row = measured(subject(made), Settings(group_size=g), old, old)

    def factor(p):  # of k right answers: E[grad log pi | right] is gradient / p, and of a wrong one - gradient / (1 - p)
        std = {k: math.sqrt(k * (g - k) / g / (g - 1)) for k in range(1, g)}
        return sum(math.comb(g, k) * p**k * (1 - p) ** (g - k) * k * (g - k) / (g * g * std[k] * p * (1 - p)) for k in std)

    right = [factor(p) for p in (0.1, 0.5, 0.9)]
    assert [p["weight"] * row["bias"]["scale"] for p in row["prompts"]] == pytest.approx(right, rel=1e-9)
    assert [p["cosine"] for p in row["prompts"]] == pytest.approx([1, 1, 1])
    assert right[0] > right[1] < right[2]  # the hard and the easy prompt count for more


def test_the_mean_over_an_answers_tokens_lengthens_wrong_answers():
    old = table(toy())
    rows = {name: measured(subject(Objective(Advantage(), (Policy(aggregate=rule),)), name), Settings(), old, old)
            for name, rule in (("mean", SequenceMean()), ("constant", Constant(3)))}
    assert rows["constant"]["length"]["wrong"] == pytest.approx(rows["constant"]["length"]["wrong_true"])
    assert rows["mean"]["length"]["wrong"] > 2 * rows["mean"]["length"]["wrong_true"] > 0
    # Of one prompt with the answers "." and "aa", wrong, and "a.", right, by hand: each answer's score over its length.
    one = table((problem("one", {".": 0, "a.": 1, "aa": 0}, (0.2, 0.5, 0.3)),))
    found = expected("length", one, method=Objective(Advantage(LeaveOneOut()), (Policy(aggregate=SequenceMean()),)), group_size=3)
    weight = one.chance * one.space.column("reward") / one.space.length
    by_hand = one.pulled(weight) - float(one.chance @ one.space.column("reward")) * one.pulled(one.chance / one.space.length)
    torch.testing.assert_close(found.mean, by_hand)


def test_off_policy_only_the_ratio_of_the_whole_answer_is_unbiased():
    old = table(toy())
    now = old.moved(0.3, 0)
    gap = now.values[:, 0] - old.values[:, 0]
    often = old.chance[old.space.answer]
    assert float((often * gap**2).sum() / often.sum()) == pytest.approx(0.09)

    def made(ratio):
        credit = Advantage(baseline=LeaveOneOut())
        policy = Policy(ratio=ratio, trust=Unclipped(), aggregate=SequenceMean())  # over the copies of an answer's ratio
        return measured(subject(Objective(credit, (policy,))), Settings(group_size=2), old, now)

    whole, geometric = made(SequenceRatio(mean=False)), made(SequenceRatio())
    assert whole["bias"]["relative"] < 1e-9
    assert whole["bias"]["scale"] == pytest.approx(1)
    assert geometric["bias"]["relative"] > 0.01
    assert geometric["dropped"] == {"right": 0, "wrong": 0}
    clipped = measured(subject_of("gspo"), Settings(group_size=2), old, now)
    assert max(clipped["dropped"].values()) > 0.5


def test_drawn_steps_agree_with_listed_ones():
    old = table(toy())
    exact = expected("grpo", old, prompts_per_step=2)
    drawn = expected("grpo", old, prompts_per_step=2, limits=Limits(listed=0, drawn=300))
    assert exact.error == 0 < drawn.error
    assert float((drawn.mean - exact.mean).norm()) < 3 * drawn.error
    assert drawn.spread == pytest.approx(exact.spread, rel=0.25)
    assert drawn.error == pytest.approx(math.sqrt(exact.spread / 300), rel=0.5)


class Counting(MethodState):
    """A state that does nothing."""


def test_what_cannot_be_listed_says_why():
    old, own = table(), subject_of("grpo").method
    row = measured(subject(replace(own, state=Counting), "mine"), Settings(drawn=50), old, old)
    assert not row["exact"]
    assert row["error"] > 0
    assert row["note"] == "drawn, for the method has a state"
    with pytest.raises(ConfigError, match="needs hidden:last, which the policies of an audit do not have"):
        measured(subject(Objective(Advantage(), (Policy(needs=frozenset({"hidden:last"})),))), Settings(), old, old)


def test_worlds_are_checked():
    with pytest.raises(ConfigError, match=r"the answer 'a' is the beginning of 'ab'; write 'a\.'"):
        problem("p", {"a": 1, "ab": 0})
    with pytest.raises(ConfigError, match="2 rates for 3 prompts"):
        with_successes(toy(), (0.1, 0.2))
    with pytest.raises(ConfigError, match="has only right answers"):
        problem("p", {"a": 1, "b": 1}).with_success(0.5)
    with pytest.raises(ConfigError, match="nothing is called 'size'"):
        sweeps(["size=3"])
    with pytest.raises(ConfigError, match="no gradient here"):
        tables(Settings(), (problem("p", {"a": 1, "b": 1}),))


def test_a_task_is_listed_over_an_alphabet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "worlds.py").write_text(
        "from groupwise.core.rollout import Prompt\nfrom groupwise.tasks.task import Task\n"
        "def task():\n    return Task('t', [Prompt('p', '1+1=', '2')], [Prompt('q', '1+2=', '3')], 'exact')\n"
        "def mine():\n    return {'p': {'a.': 1, 'b.': 0.25}}\n"
        "def number():\n    return 3\n")
    (own,) = of_function("worlds.py:task", alphabet="12", tokens=2)
    assert [(a.text, a.correct) for a in own.answers] == [
        (".", False), ("1.", False), ("2.", True), ("11", False), ("12", False), ("21", False), ("22", False)]
    assert sum(a.chance for a in own.answers) == pytest.approx(1)
    assert measured(subject_of("rloo"), Settings(), *[table((own,))] * 2)["bias"]["relative"] < 1e-9
    assert [a.reward for a in of_function("worlds.py:mine")[0].answers] == [1, 0.25]
    with pytest.raises(ConfigError, match=r"returned int; an audit takes a groupwise\.tasks\.Task, or prompts"):
        of_function("worlds.py:number")


def test_the_command_writes_what_it_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from groupwise.methods import METHODS\ndef mine(*, clip: float = 0.1):\n"
                                      "    return METHODS['grpo'](clip_low=clip)\n")
    few = ["--group-size", "2", "--workers", "1", "--json", "found.json"]
    assert cli.main(["audit", "grpo", "rloo", "mine.py:mine,clip=0.3", *few]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    rows = {row["method"]: row for row in found["methods"]}
    assert list(rows) == ["grpo", "rloo", "mine.py:mine"]
    assert rows["rloo"]["bias"]["relative"] < 1e-9 < 0.1 < rows["grpo"]["bias"]["relative"]
    assert rows["rloo"]["bias"]["cosine"] == pytest.approx(1)
    assert rows["mine.py:mine"]["arguments"] == {"clip": 0.3}
    assert rows["mine.py:mine"]["variance"] == pytest.approx(rows["grpo"]["variance"])  # on policy no clip is felt
    assert rows["grpo"]["mse"] == pytest.approx(rows["grpo"]["bias"]["relative"] ** 2 + rows["grpo"]["variance"])
    assert all(row["exact"] and row["error"] == 0 for row in rows.values())
    assert [p["success"] for p in rows["grpo"]["prompts"]] == pytest.approx([0.2, 0.4, 0.8])
    assert "mine.py:mine,clip=0.3" in capsys.readouterr().out
    assert cli.main(["audit", "rloo", "--sweep", "group-size=2,3", "--workers", "1", "--json", "found.json"]) == 0
    rows = json.loads((tmp_path / "found.json").read_text())["methods"]
    assert [row["at"] for row in rows] == [{"group-size": 2}, {"group-size": 3}]
    assert rows[0]["variance"] > rows[1]["variance"]
    assert cli.main(["audit", "grop"]) == 2
    assert "unknown method 'grop'" in capsys.readouterr().err


def test_every_shipped_method_is_audited_by_default_and_on_the_page():
    assert [name for name, _ in named([])] == list(lab.METHODS)
    assert world_of(Settings()) == toy()
    bench = Path(__file__).resolve().parent.parent / "bench"
    rows = json.loads((bench / "results" / "audit.json").read_text())["methods"]["methods"]
    assert [row["method"] for row in rows] == list(lab.METHODS)
    assert subprocess.run([sys.executable, bench / "audit.py", "--check"], timeout=300).returncode == 0
    for name in ("rloo", "grpo"):  # the page is of this code
        fresh = measured(subject_of(name, max_tokens=3), Settings(), *tables(Settings(), toy()))
        (row,) = (row for row in rows if row["method"] == name)
        assert row["variance"] == pytest.approx(fresh["variance"], rel=1e-9)
        assert row["bias"]["relative"] == pytest.approx(fresh["bias"]["relative"], abs=1e-9)
