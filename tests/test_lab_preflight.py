"""What is said of runs before they start: healthy ones, ones that were broken on purpose, and what the command leaves behind."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from run_support import tiny_folder, tiny_run

from groupwise import cli
from groupwise.core.rollout import Completion, Context, Episode, Prompt, Rollout, Turn
from groupwise.core.verdict import Verdict
from groupwise.lab import drawn, plan
from groupwise.lab import preflight as lab
from groupwise.lab.preflight import HEADLINES, as_json, before_training, preflight, show
from groupwise.run import assemble
from groupwise.run.config import to_toml
from groupwise.run.evaluate import counted
from groupwise.run.findings import bad, fine
from groupwise.run.learner_settings import LearnerSettings
from groupwise.run.loop import resume, train
from groupwise.run.settings import Run, SamplingSettings

EMBEDDED = Run(group_size=4, task_args={"train": 64, "heldout": 16}, eval_every=0, verify_deadline=60.0,
               learner=LearnerSettings(threads=1, workers=1, device="cpu"))

NOBODY = counted([Verdict(True)], [1], [False], [], samples=1, seed=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("policy") / "model")


@pytest.fixture(scope="module")
def healthy():
    return preflight(EMBEDDED)


@pytest.fixture
def quick(healthy, monkeypatch):
    """Memory and time are taken from the healthy run."""
    monkeypatch.setattr(plan, "measured", lambda job, **known: healthy.outlook)


def printed(report):
    out = io.StringIO()
    show(report, Console(file=out))
    return out.getvalue()


def named(task):
    return replace(EMBEDDED, task=f"preflight_tasks:{task}", task_args={}, model=str(assemble.base_of(Run())))


def test_a_healthy_run_will_learn_and_its_figures_are_shown(healthy):
    assert healthy.verdict.startswith("will learn: ")
    assert (healthy.learns, healthy.prompts, healthy.asked, healthy.graded) == (True, 32, 128, 128)
    value, low, high = healthy.pass_one
    assert 0.0 < low < value < high < healthy.pass_all + 0.2 < 1.0
    assert healthy.row["accuracy"] == pytest.approx(value)
    assert (healthy.second.name, healthy.second.n, healthy.second.other) == ("numeric", 64, 0)
    assert 0.0 < healthy.clock[0] <= healthy.clock[1] < 1.0
    assert healthy.outlook.fits
    assert healthy.outlook.at_mean.length == pytest.approx(healthy.row["length"])  # of whole answers, not of the probe's
    kinds = [text.kind for text in healthy.texts]
    assert len(kinds) == 5
    assert {"ok", "mismatch"} <= set(kinds[:2])
    said = printed(healthy)
    for part in ("(pass@1)", "(pass@4)", "accepted in 100%", "fits: needs", "a step", healthy.texts[0].prompt, healthy.verdict):
        assert part in said
    json.dumps(as_json(healthy))


@pytest.mark.parametrize(("run", "headline", "text"), [
    (replace(EMBEDDED, sampling=SamplingSettings(max_tokens=3)), "max_tokens is too short", "raise --max-tokens to"),
    (replace(EMBEDDED, template="={question}"), "wrong template", "--template none"),
    (replace(EMBEDDED, learner=replace(EMBEDDED.learner, lr=1e-12)), "the learning rate is too low", "raise --lr"),
    (replace(EMBEDDED, rewards=(f"{Path(__file__).with_name('preflight_tasks.py')}:inverted",), reward_weights={"inverted": 3.0}),
     "wrong answers are paid more than right ones", "signs"),
    (named("generous"), "all rewards are the same", "refuse wrong answers"),
    (named("picky"), "the grader rejects the data's own answers", "are refused, such as"),
    (named("upside_down"), "wrong answers are paid more than right ones", "signs"),
    (named("raising"), "the grader fails", "too long for me"),
], ids=["short", "template", "lr", "reward", "constant", "refuses", "inverted", "raises"])
def test_runs_broken_on_purpose_are_named(run, headline, text, quick):
    report = preflight(run)
    assert report.verdict.startswith(f"{headline}: ")
    assert not report.learns
    assert text in printed(report)


def test_data_that_is_too_hard_is_told_from_a_verifier_that_accepts_nothing(quick):
    hard = preflight(named("hard"))
    assert hard.verdict.startswith("too hard: 0.0% of the first 128 answers are right")
    assert hard.pass_one[2] > 0.05  # Wilson's: no right answer among a few proves little
    never = preflight(replace(named("generous"), task="run_tasks:hopeless"))
    assert never.verdict.startswith("the grader rejects the data's own answers: the verifier accepts none of 5 ways")
    assert [f.because for f in never.findings if f.name == "all_hard"] == ["answers_refused"]


def test_a_verifier_that_hangs_holds_nothing_up(quick, monkeypatch):
    monkeypatch.setattr(drawn, "GRADING", 1.5)
    report = preflight(replace(named("hanging"), verify_deadline=0.3))
    assert report.verdict.startswith("the grader is too slow: 100%")
    assert report.graded < 16 < report.asked
    assert f"{report.graded} of them graded" in printed(report)


def test_too_little_that_was_graded_is_no_verdict(quick, monkeypatch):
    monkeypatch.setattr(drawn, "_in_time", lambda job, made: 8)
    assert preflight(EMBEDDED).verdict.startswith("cannot tell: 8 of 128 answers were graded")


def test_several_turns_and_groups_of_one(model, quick):
    turns = preflight(tiny_run(model, task="run_tasks:twice", rewards=()))
    assert "the task has several turns" in printed(turns)
    assert turns.second is None
    alone = preflight(replace(EMBEDDED, group_size=1, method="reinforce"))
    assert (alone.prompts, alone.asked) == (64, 64)
    assert alone.verdict.startswith("will learn: ")


def test_probes_that_would_take_long_are_left_out_before_training(quick, monkeypatch):
    monkeypatch.setattr(lab, "QUICK", 1e-6)
    report = preflight(replace(EMBEDDED, sampling=SamplingSettings(max_tokens=3)), thorough=False)
    assert {f.name for f in report.findings if f.state == "unknown"} >= {"template", "limit"}
    assert report.verdict.startswith("max_tokens is too short")


def test_the_gravest_finding_is_the_verdict(healthy):
    short = bad("max_tokens_too_short", "long", "raise it")
    some = drawn.Drawn((), 64, 1.0, {"accuracy": 1.0, "informative": 0.0}, NOBODY)
    big = bad("does_not_fit", "too big", "take less")
    assert lab.judged([short, big], {}, some, 8)[:2] == ("does not fit: too big", "take less")
    solved = [bad("constant_reward", "all 1", "harder ones"), fine("verifier", "")]
    assert lab.judged(solved, {}, some, 8)[0] == "too easy: all 1"
    assert lab.judged(solved[:1], {}, some, 8)[0] == "all rewards are the same: all 1"
    few = replace(some, row={"accuracy": 0.01, "informative": 0.08})
    verdict, advice, learns = lab.judged([], {}, few, 8)
    assert (verdict[:17], "easier" in advice, learns) == ("will learn slowly", True, True)
    tight = replace(healthy.outlook, peak=2**40, room=2**30)
    found = lab._fits(tight)
    assert (found.name, found.text[:6], found.advice[:5]) == ("does_not_fit", "needs ", "take ")


def test_another_verifier_is_asked_where_one_is_of_use(model, tmp_path):
    def opinion(verifier, answer, text, kind):
        prompt = Prompt("p", "", answer)
        one = Rollout(Episode(prompt, (Turn(Context((1,)), Completion((), ()), text=text),)), Verdict(kind == "ok", kind))
        group = drawn.Group("p", prompt, (one,))
        return drawn.second(replace(job, task=replace(job.task, verifier=verifier)), drawn.Drawn((group,), 1, 1.0, {}, NOBODY))

    job = assemble.assemble(tiny_run(model, rewards=()), tmp_path)
    with job.workers, job.grader:
        other = opinion("mine.py:grade", 18, "so it is 18", "mismatch")
        assert (other.name, other.n, other.other) == ("numeric", 1, 1)
        assert "mine.py:grade reads None, numeric '18'" in other.example
        assert opinion("answer", "a cat", "<answer>a cat</answer>", "ok").name == "math"
        assert opinion("countdown", {"target": 3}, "1+2", "ok") is None


# ---- before a run -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_is_the_same_with_and_without_it(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = tiny_run(model, "plain", task="run_tasks:parity", checkpoint_every=1, method="grpo")
    plain = train(run)
    capsys.readouterr()
    Path("settings.toml").write_text(to_toml(run))
    assert cli.main(["train", "--config", "settings.toml", "--run", "looked"]) == 0
    said = capsys.readouterr().out
    assert said.index("verdict: ") < said.index("first prompt")
    looked = Path("runs/looked")
    for name in ("metrics.jsonl", "rollouts.jsonl", "model/model.safetensors"):
        assert (looked / name).read_bytes() == (plain / name).read_bytes(), name
    assert f"verdict: {json.loads((looked / 'preflight.json').read_text())['verdict']}" in said
    assert {path.name for path in looked.iterdir()} - {path.name for path in plain.iterdir()} == {"preflight.json"}
    assert cli.main(["resume", "looked"]) == 0
    assert "preflight" not in capsys.readouterr().out
    assert resume(looked) == looked


def test_a_run_that_will_not_learn_goes_on_or_is_refused(quick, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = replace(EMBEDDED, learner=replace(EMBEDDED.learner, lr=1e-12), preflight="strict")
    Path("settings.toml").write_text(to_toml(run))
    assert cli.main(["train", "--config", "settings.toml", "--run", "strict"]) == 1
    assert "the run was not started (preflight=strict): the learning rate is too low" in capsys.readouterr().err
    assert not Path("runs/strict").exists()
    out = io.StringIO()
    before_training(replace(run, preflight="on"), tmp_path, Console(file=out))
    assert "warning: the run goes on all the same" in out.getvalue()
    (tmp_path / "preflight.json").unlink()
    before_training(replace(run, preflight="off"), tmp_path)
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "preflight.json").exists()


def test_the_command_prints_writes_and_leaves_no_run(quick, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--group-size", "2", "--workers", "1", "--threads", "1", "--task-args", "train=64", "heldout=16"]
    assert cli.main(["preflight", *words, "--json", "found.json"]) == 0
    assert "verdict: will learn" in capsys.readouterr().out
    assert json.loads(Path("found.json").read_text())["learns"] is True
    assert cli.main(["preflight", *words, "--lr", "1e-12"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_every_verdict_stands_on_the_page():
    page = (Path(__file__).parent.parent / "docs" / "preflight.md").read_text()
    said = (*HEADLINES.values(), "too easy", "cannot tell", "will learn", "will learn slowly")
    assert [line for line in said if f"| {line} |" not in page] == []
    here = Path(lab.__file__).parent
    named = re.findall(r'bad\(\s*"(\w+)"', "".join((here / name).read_text() for name in ("probes.py", "preflight.py")))
    assert set(named) - {"stale_engine"} <= set(HEADLINES)
