"""What is said of runs: every rule on rows made up for it, the data, the probes on tiny policies, and the command."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from run_support import REWARDS, tiny_folder, tiny_policy, tiny_run

from groupwise import cli
from groupwise.core.rollout import Completion, Prompt
from groupwise.errors import CheckpointError, TrainingError
from groupwise.lab import probes
from groupwise.lab.diagnose import as_text, diagnose, sizes, weights
from groupwise.lab.overlap import overlap, tokens
from groupwise.models.load import marks, save
from groupwise.run import watch
from groupwise.run.assemble import assemble
from groupwise.run.findings import Seen, bad, fine
from groupwise.run.grade import Grader
from groupwise.run.learner_settings import LearnerSettings
from groupwise.run.loop import train
from groupwise.run.settings import Run, SamplingSettings
from groupwise.run.watch import CONSEQUENCES, EXPLAINS, Watch, judge, settle

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
LONG = SamplingSettings(max_tokens=96)
"""What nine in ten answers of the tiny policy end within."""
HEALTHY = {"rollouts": 256.0, "reward": 0.2, "reward_std": 0.4, "accuracy": 0.2, "informative": 0.8, "groups_all_correct": 0.0,
           "groups_all_wrong": 0.2, "length": 15.0, "truncated": 0.01, "run_on": 0.0, "entropy": 0.4, "abstained": 0.0,
           "mismatch_mean": 0.012, "reward_gap": 1.0, "dropped_tokens": 0.0, "dropped_sequences": 0.0, "skipped_steps": 0.0}


def rows(n=40, **changes):
    """Steps of a run that learns; a change is a value, or a function of the share of the run that is over."""
    learnt = {"accuracy": lambda t: 0.2 + 0.4 * t, "reward": lambda t: 0.2 + 0.4 * t, "entropy": lambda t: 0.4 - 0.3 * t,
              "length": lambda t: 15 + 15 * t}
    made = []
    for i in range(n):
        given = HEALTHY | learnt | changes
        made.append({"step": i + 1} | {name: x(i / max(1, n - 1)) if callable(x) else x for name, x in given.items()})
    return made


def seen(record=None, evaluations=(), lr=6e-5, steps=None, scale=0.05, **learner):
    record = rows() if record is None else record
    run = Run(steps=steps or max(1, len(record)), learner=LearnerSettings(lr=lr, **learner))
    return Seen(run, record, evaluations, lr, lr * run.steps, scale)


def evaluation(step, value, n=200):
    half = 1.96 * math.sqrt(value * (1 - value) / n)
    return {"step": step, "value": value, "low": value - half, "high": value + half}


def names(what):
    return [f.name for f in judge(what) if f.wrong]


def test_every_rule_looks_at_a_healthy_run_and_finds_nothing():
    found = judge(seen(rows(120), [evaluation(0, 0.5), evaluation(120, 0.9)]))
    assert {f.state for f in found} == {"fine"}
    assert all(f.text and not f.advice for f in found)


@pytest.mark.parametrize("changes", [
    {"mismatch_mean": lambda t: 0.03 + 0.01 * t},  # a bf16 engine
    {"mismatch_mean": 0.0},
    {"truncated": 0.3, "length": lambda t: 15 + 45 * t},  # long answers, some cut
    {"reward": lambda t: 0.2 + 0.45 * t, "reward_by_length": 0.2},  # a little pay for thinking that pays anyway
    {"reward": lambda t: 1.2 + 0.4 * t, "reward_by_length": -0.6},  # a price on length, at which it still gets better
    {"accuracy": 0.3, "reward": lambda t: 0.1 + 0.5 * t},  # a format is learnt first
    {"accuracy": 0.0, "reward": lambda t: 0.1 + 0.5 * t, "informative": 0.9},
    {"entropy": lambda t: 0.4 * (1 - t) + 1e-4, "accuracy": lambda t: 0.2 + 0.79 * t},  # solved
    {"informative": lambda t: 0.8 - 0.79 * t, "reward_std": lambda t: 0.4 * (1 - t)},  # nothing left to learn
    {"reward_gap": lambda t: -0.1 if t < 0.2 else 1.0},
    {"verdict/timeout": 0.02, "abstained": 0.03},
])
def test_odd_but_healthy_runs_raise_no_alarm(changes):
    assert names(seen(rows(120, **changes), [evaluation(0, 0.5), evaluation(60, 0.45)])) == []


@pytest.mark.parametrize(("lr", "steps", "scale"), [
    (1e-6, 10, 0.03), (1e-6, 3, 0.02), (6e-5, 1, 0.05), (3e-3, 20, 0.05), (2e-4, 50, 0.013)])
def test_usual_learning_rates_raise_no_alarm(lr, steps, scale):
    assert names(seen(rows(min(steps, 5)), lr=lr, steps=steps, scale=scale)) == []


def wavering(t):
    return 0.2 + 0.01 * math.sin(100 * t)


FALLEN = {"accuracy": lambda t: 0.2 if t == 0 else 0.0, "reward": lambda t: 0.2 if t == 0 else 0.0}


@pytest.mark.parametrize(("name", "what"), [
    ("learning_rate_too_low", seen(lr=1e-12)),
    ("learning_rate_too_low", replace(seen(warmup_steps=100_000), highest=2e-8, total=1e-6)),
    ("learning_rate_too_high", seen(rows(3), lr=6e-2)),
    ("learning_rate_too_high", seen(rows(**FALLEN), lr=1e-3)),
    ("learning_rate_too_high", seen(lr=1e-3, evaluations=[evaluation(0, 0.5), evaluation(40, 0.3)])),
    ("max_tokens_too_short", seen(rows(truncated=0.6))),
    ("eos_missing", seen(rows(truncated=1.0, run_on=0.9))),
    ("constant_reward", seen(rows(accuracy=1.0, reward=1.0, reward_std=0.0, informative=0.0))),
    ("all_hard", seen(rows(accuracy=0.0, reward=0.0, reward_std=0.0, informative=0.0))),
    ("no_contrast", seen(rows(informative=0.01))),
    ("inverted_reward", seen(rows(reward_gap=-1.0, accuracy=lambda t: 0.2 * (1 - t), reward=lambda t: -0.2 * (1 - t)))),
    ("length_hacked", seen(rows(length=lambda t: 15 + 40 * t, reward=lambda t: 1 + 2 * t, accuracy=0.2, reward_by_length=0.9))),
    ("length_hacked", seen(rows(length=lambda t: 60 - 50 * t, reward=lambda t: t, accuracy=lambda t: 0.3 - 0.2 * t,
                                reward_by_length=-0.9))),
    ("stale_engine", seen(rows(mismatch_mean=lambda t: 0.001 + 0.2 * t))),
    ("engine_mismatch", seen(rows(mismatch_mean=0.3))),
    ("grader_timeout", seen(rows(**{"verdict/timeout": 0.4}))),
    ("grader_fails", seen(rows(abstained=0.2))),
    ("not_finite", seen(rows(dropped_tokens=lambda t: 3.0 if t == 1 else 0.0))),
    ("collapse", seen(rows(**FALLEN))),
    ("collapse", seen(evaluations=[evaluation(0, 0.5), evaluation(20, 0.7), evaluation(40, 0.4)])),
    ("entropy_lost", seen(rows(entropy=lambda t: max(1e-4, 0.4 - t), accuracy=0.3))),
    ("entropy_exploded", seen(rows(entropy=lambda t: 0.4 + 3 * t))),
    ("grown_too_long", seen(rows(truncated=lambda t: 0.9 * t))),
    ("stalled", seen(rows(80, accuracy=wavering, reward=wavering))),
])
def test_what_is_wrong_is_named(name, what):
    assert name in names(what)
    assert all(f.advice for f in judge(what) if f.state == "found")


def test_a_consequence_is_said_to_follow_from_its_cause():
    found = {f.name: f for f in judge(seen(rows(**FALLEN, entropy=lambda t: 0.4 + 3 * t), lr=1e-3))}
    assert found["collapse"].because == found["entropy_exploded"].because == "learning_rate_too_high"
    assert names(seen(rows(**FALLEN, entropy=lambda t: 0.4 + 3 * t), lr=1e-3)) == ["learning_rate_too_high"]
    chain = [bad("wrong_template", "", ""), bad("eos_missing", "", ""), bad("max_tokens_too_short", "", ""), fine("all_hard", "")]
    assert [f.because for f in settle(chain)] == ["", "wrong_template", "wrong_template", ""]


def test_explanations_are_of_causes_and_have_no_circle():
    for cause, others in EXPLAINS.items():
        assert not others & CONSEQUENCES
        assert all(cause not in EXPLAINS.get(other, ()) for other in others)


def test_a_watch_goes_on_where_the_record_ends(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(3, **{"verdict/timeout": 0.4})))
    (tmp_path / "evaluations.jsonl").write_text(json.dumps(evaluation(0, 0.5)) + "\n")
    again = Watch(Run(steps=10), [6e-5] * 10, 0.05)
    again.remember(tmp_path)
    assert [f.name for f in again.after(4, HEALTHY)] == ["grader_timeout"]
    assert (len(again.rows), len(again.evaluations)) == (4, 1)


# ---- data -------------------------------------------------------------------------------------------------------------------


def prompts(*texts, answer=3):
    return [Prompt(f"{n}-{text[:9]}", text, answer) for n, text in enumerate(texts)]


@pytest.mark.parametrize(("a", "b", "same"), [
    ("What is 7+5 = ?", "what is 7 + 5=", True),
    ("It’s 3; is it?", "Its 3, is it", False),
    ("7+5=", "7-5=", False),
    ("7+5=", "5+7=", False),
    ("1.5", "15", False),
    ("1 2", "12", False),
    ("f(6)-f(2)", "f ( 6 ) - f ( 2 )", True),
])
def test_prints_of_one_problem(a, b, same):
    assert (tokens(a) == tokens(b)) is same


STORY = "A baker sells 12 loaves on Monday and 7 loaves more on Tuesday than before: how many loaves are sold?"


def test_problems_in_other_words_are_found_and_other_numbers_are_other_problems():
    moved = "On Monday a baker sells 12 loaves, and on Tuesday 7 loaves more than before; how many loaves are sold?"
    other = STORY.replace("12", "13")
    found = overlap([*prompts(moved), *prompts(other)], prompts(STORY))
    assert [(a.text, b.text) for a, b in found.shared] == [(STORY, moved)]
    assert overlap(prompts(moved, answer=4), prompts(STORY)).shared == ()
    assert [b.text for _, b in overlap([], prompts(STORY, "else", STORY + "!")).repeated] == [STORY]


# ---- probes and the command ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("policy") / "model")


@pytest.fixture(scope="module")
def job(model, tmp_path_factory):
    made = assemble(tiny_run(model, rewards=()), tmp_path_factory.mktemp("job"))
    with made.workers, made.grader:
        yield made


def says(job, texts, monkeypatch):
    """The engine answers these texts, whatever it is asked; those that do not end in <eos> ran out of tokens."""
    def generate(requests):
        made = []
        for request, text in zip(requests, texts, strict=True):
            ids = tuple(job.policy.tokenizer(text, add_special_tokens=False)["input_ids"])[:request.sampling.max_tokens]
            made.append([Completion(ids, (0.0,) * len(ids), "stop" if ids[-1] in job.policy.eos_ids else "length")])
        return made

    monkeypatch.setattr(job.engine, "generate", generate)


def test_answers_are_cut_where_they_should_have_ended(job, monkeypatch):
    right = [f"{p.answer}<bos>7777777" for p in job.heldout]
    says(job, right, monkeypatch)
    found = probes.ends(job, probes.ask(job, job.heldout, job.sampling))
    assert found.name == "eos_missing"
    assert "'<bos>' (id 1)" in found.text
    assert marks(job.policy) == {0, 1}
    says(job, [f"{p.answer}<eos>" for p in job.heldout], monkeypatch)
    assert probes.ends(job, probes.ask(job, job.heldout, job.sampling)).state == "fine"


@pytest.mark.parametrize(("ending", "name"), [("=" * 20 + "{answer}<eos>", "max_tokens_too_short"), ("+" * 200, "never_ends")])
def test_more_tokens_are_tried(job, monkeypatch, ending, name):
    says(job, [ending.format(answer=p.answer) for p in job.heldout], monkeypatch)
    found = probes.limits(job, probes.ask(job, job.heldout, job.sampling))
    assert (found.name, found.state) == (name, "found")


def test_another_template_may_be_better(job, monkeypatch):
    base = probes.ask(job, job.heldout, job.sampling)
    assert "no other template can be written" in probes.templates(job, base).text
    monkeypatch.setattr(job.policy.tokenizer, "chat_template", ">{{ messages[0]['content'] }}")
    says(job, [f"{p.answer}<eos>" for p in job.heldout], monkeypatch)
    found = probes.templates(job, base)
    assert (found.name, "chat" in found.advice) == ("wrong_template", True)


@pytest.mark.parametrize(("verifier", "name", "state"), [
    ("last_integer", "verifier", "fine"), (f"{REWARDS}:digits", "constant_reward", "found"),
    (f"{REWARDS}:never", "verifier", "unknown")])
def test_the_verifier_is_given_the_datas_answers(job, verifier, name, state):
    with Grader(verifier) as grader:
        found = probes.verifier(replace(job, grader=grader), job.heldout[:8])
    assert (found.name, found.state) == (name, state)


def test_how_far_weights_moved(model, tmp_path):
    other = tiny_policy()
    for p in other.model.parameters():
        p.data *= 1.01
    save(other, tmp_path / "moved")
    scale, moved = sizes(model, tmp_path / "moved")
    assert moved == pytest.approx(0.01, rel=1e-3)
    assert 0.01 < scale < 1.0
    assert weights(sizes(model, model)[1], model).name == "weights_unmoved"
    assert weights(math.nan, None).state == "unknown"


def test_a_run_is_diagnosed_and_left_as_it_is(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = train(tiny_run(model, "low", rewards=(), lr=1e-12, eval_every=1, sampling=LONG))
    assert "warning: learning_rate_too_low: lr=1e-12" in capsys.readouterr().out
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert cli.main(["diagnose", "low", "--json", "report.json"]) == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    said = capsys.readouterr().out
    assert "learning_rate_too_low" in said
    assert "-> raise --lr" in said
    report = json.loads(Path("report.json").read_text())
    assert report["wrong"][0] == "learning_rate_too_low"
    assert {f["name"]: f["because"] for f in report["findings"]}["weights_unmoved"] == "learning_rate_too_low"
    assert {"verifier", "leak", "saved", "grader"} <= {f["name"] for f in report["findings"]}


def test_a_run_that_stopped_is_diagnosed_without_a_model(model, tmp_path, monkeypatch):
    run = tiny_run(model, "stopped", task="run_tasks:hopeless", method="dapo", method_args={"rounds": 1}, rewards=(), steps=5,
                   prompts_per_step=16, sampling=LONG)
    with pytest.raises(TrainingError, match="diagnose"):
        train(run, tmp_path)
    report = diagnose(tmp_path / "stopped", probe=False)
    assert [f.name for f in report.wrong] == ["all_hard"]
    assert (report.done, report.steps) == (2, 5)
    text = as_text(report)
    assert "weights: no trained weights are kept yet" in text
    assert "not looked at" in text
    with pytest.raises(CheckpointError, match="holds no run"):
        diagnose(tmp_path)


def test_every_rule_has_a_name_in_the_table_of_the_page():
    page = (Path(__file__).parent.parent / "docs" / "diagnose.md").read_text()
    here = Path(watch.__file__).parent
    code = "".join(path.read_text() for path in (here / "causes.py", here / "watch.py", here.parent / "lab" / "probes.py",
                                                 here.parent / "lab" / "diagnose.py"))
    said = set(re.findall(r'bad\("(\w+)"', code)) | {"heldout_leak", "heldout_repeats"}
    assert [name for name in sorted(said) if f"| `{name}` |" not in page] == []
