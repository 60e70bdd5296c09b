"""The scripts of experiments/: declarations hold, statistics say what they claim, and a tiny one runs and is reported."""

import functools
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from run_support import REWARD, tiny_folder
from test_lab_comparison import inside

from groupwise.errors import ConfigError
from groupwise.lab import comparison
from groupwise.run.disk import read_lines
from groupwise.run.paired import detectable
from groupwise.tasks import make

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # experiments/ is no part of the package

from experiments import common, measures, plan, reporting, rewards, tasks  # noqa: E402
from experiments.common import Experiment, Seen, Setting, less  # noqa: E402

ALL = plan.experiments()
TINY = ("--task-args", "kmin=2", "kmax=3", "train=64", "heldout=16", "--steps", "2", "--prompts-per-step", "4",
        "--group-size", "4", "--max-tokens", "8", "--eval-every", "2", "--compute", "modules", "--device", "cpu",
        "--keep-rollouts", "0", "--verify-deadline", "60")


def seen(rows, evaluations=(), ends=None, base=(), answers=()):
    look = SimpleNamespace(metrics=list(rows), evaluations=[{"value": v} for v in evaluations])
    return Seen(SimpleNamespace(look=look, answers=lambda which="": list(answers)), ends or {}, list(base))


@functools.cache
def made(task):
    return make(task, {})


def drawn(problem, *verdicts):
    return [{"id": problem, "mode": "sampled", "verdict": {"correct": bool(v)}} for v in verdicts]


@pytest.mark.parametrize("experiment", ALL, ids=lambda one: one.name)
def test_every_arm_of_a_declaration_is_composed(experiment, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("groupwise.lab.arms.make", lambda name, args: made(name))
    for setting in experiment.settings:
        words = list(setting.words)
        if "--model" in words and (at := words.index("--model") + 1) and words[at].startswith("runs/bases/"):
            assert Path(words[at]).name in experiment.bases  # made when the experiment is run
            words[at] = common.EMBEDDED[1]
        found = common.arms_of(Setting(setting.name, setting.arms, tuple(words), setting.shows))
        assert len(found) == len(setting.arms) >= 2
        assert setting.seeds >= 6, "fewer seeds cannot give p below 0.05"


def test_the_page_of_declarations_is_that_of_the_scripts():
    assert (ROOT / "experiments" / "PLAN.md").read_text(encoding="utf-8") == plan.document(), "run `python -m experiments.plan`"
    test = ALL[0].tests[0]
    assert common.least(test, ALL[0]) == pytest.approx(detectable(test.sd, 6))


def test_a_declaration_is_checked():
    setting = Setting("one", {}, (), ())
    with pytest.raises(ConfigError, match="at most three settings"):
        common.check(Experiment("x", "", "", "", (setting,) * 2, (), "", {}))


@pytest.mark.parametrize(("values", "sign", "said"), [
    ((0.3, 0.1), 1, "as claimed"), ((-0.3, -0.1), 1, "the opposite"), ((-0.1, 0.3), 1, "not seen"),
    ((0.3, 0.1), 0, "a difference"), ((0.1, 0.3), 1, "not seen")])
def test_verdicts_follow_the_rule(values, sign, said):
    edge, other = values
    low, high = sorted(values)
    p = 0.2 if (edge, other) == (0.1, 0.3) else 0.03
    assert common.verdict((low + high) / 2, low, high, p, sign) == said


def test_length_at_equal_accuracy_is_found():
    random = np.random.default_rng(0)

    def rows(slope):
        right = random.random(50)
        return [{"step": i, "accuracy": a, "length_wrong": 20 + (3 + slope) * i / 100 - 8 * a} for i, a in enumerate(right)]

    runs = {"more": seen(rows(7.0)), "other": seen(rows(0.0))}
    assert measures.wrong_at_equal_reward("more", "other")(runs) == pytest.approx(7.0)
    assert less(measures.WRONG, "more", "other")(runs) > 0


def test_gains_are_those_of_thirds_by_the_base_policy():
    base = [*drawn("a", 0, 0), *drawn("b", 0, 1), *drawn("c", 1, 1)]
    after = [*drawn("a", 1, 0), *drawn("b", 1, 1), *drawn("c", 1, 1)]
    assert measures.thirds(seen([], base=base, answers=after)) == (0.5, 0.5, 0.0)
    assert measures.OUTER.of(seen([], base=base, answers=after)) == pytest.approx(-0.25)


def test_other_numbers_of_a_run():
    rows = [{"step": i, "clip_high": 0.1, "clip_low": 0.2, "grad_norm": 2.0 ** (i % 2)} for i in range(8)]
    run = seen(rows, evaluations=(0.5, 0.8, 0.3), ends={"accuracy": 0.3})
    assert measures.CLIPPED.of(run) == pytest.approx(0.3)
    assert measures.COLLAPSE.of(run) == 1.0
    assert measures.START.of(run) == 0.5
    assert measures.ROUGH.of(run) == pytest.approx(np.std([np.log(2.0), -np.log(2.0)] * 3 + [np.log(2.0)], ddof=1) / np.sqrt(2.0))
    cells = {name: seen([], ends={"accuracy": value}) for name, value in zip("abcd", (0.1, 0.3, 0.5, 0.5), strict=True)}
    assert measures.spread(measures.ACCURACY, [["a", "b"], ["c", "d"]])(cells) == pytest.approx(0.1)


def test_tasks_hold_out_the_same_problems():
    for task in (tasks.short(), tasks.few()):
        assert [p.id for p in task.heldout] == [p.id for p in made("reduce").heldout]
        assert not {p.text for p in task.train} & {p.text for p in task.heldout}
    assert len(task.train) == 256
    assert rewards.near("3+4=9=8", 7) == pytest.approx(0.9)
    assert rewards.near("=", 7) == 0.0


@pytest.mark.slow
def test_a_tiny_experiment_runs_and_is_reported(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparison, "side_by_side", inside)
    monkeypatch.setattr(reporting, "REPORTS", tmp_path / "reports")
    words = (*TINY, "--rewards", REWARD, "--model", str(tiny_folder(tmp_path / "base")))
    setting = Setting("one", {"slow": "dr_grpo", "fast": "dr_grpo:lr=1e-2"}, words, (measures.ACCURACY, measures.HARD), seeds=2,
                      samples=1, problems=4)
    tests = (common.Test("entropy", "one", less(measures.ENTROPY, "fast", "slow"), -1, 0.1),)
    experiment = Experiment("x_tiny", "Tiny", "What?", "this", (setting, Setting("never", {}, (), ())), tests, "none", {})
    assert reporting.main(experiment, ["--only", "one"]) == 0
    found = json.loads((tmp_path / "reports" / "x_tiny.json").read_text(encoding="utf-8"))["settings"]
    assert [one["name"] for one in found] == ["one"]
    assert found[0]["seeds"] == [0, 1]
    (test,) = found[0]["tests"]
    slow, fast = ([read_lines(tmp_path / "runs" / name / "metrics.jsonl")[-1]["entropy"] for name in arm["runs"]]
                  for arm in found[0]["arms"].values())
    assert test["value"] == pytest.approx(np.mean(np.subtract(fast, slow)))
    page = (tmp_path / "reports" / "x_tiny.md").read_text(encoding="utf-8")
    assert "| entropy | one | - |" in page
    assert "| all | never | | | | | | not run |" in page
    assert (tmp_path / "reports" / "x_tiny-one.png").is_file()
