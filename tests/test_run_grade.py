"""Several rewards: names, weights, what methods and metrics see of them, from the function to the run."""

import gc
import re
import shutil
import weakref
from pathlib import Path

import pytest
from run_support import REWARDS, tiny_folder, tiny_run
from test_models_reward_model import make

from groupwise.core.rollout import Completion, Context, Episode, Prompt, Turn
from groupwise.core.verdict import Component
from groupwise.errors import ConfigError, VerifierError
from groupwise.run.assemble import assemble
from groupwise.run.compose import method_of
from groupwise.run.config import from_words
from groupwise.run.disk import read_lines
from groupwise.run.grade import Grader, judged
from groupwise.run.loop import resume, train
from groupwise.run.rewards import check_weights, named
from groupwise.run.settings import Run

MINE = """
import asyncio

def reward(completion, answer):
    return 0.25

def style(completion, answer, tokens, prompt):
    return {"short": -float(tokens), "asked": prompt == "1+1="}

def right(completion, answer):
    return True

def fines(completion, answer):
    while completion == "2":
        pass
    if completion == "4":
        return None
    return {"fine": 3.0 * (completion != "3"), "bonus": float(completion)}

def brief(completions, prompts, level=None, **columns):
    return [1.0 / (1 + len(one)) for one in completions]

async def service(completion, answer, **columns):
    await asyncio.sleep(0)
    return float(len(completion))

def floating(completion, answer):
    return 0.5
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    file = tmp_path_factory.mktemp("mine") / "mine.py"
    file.write_text(MINE)
    return str(file)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("tiny") / "model")


def episodes(*texts):
    return [Episode(Prompt("p", "1+1=", 2), (Turn(Context((3,)), Completion((4,) * 3, (-1.0,) * 3), text=t),)) for t in texts]


def graded(grader, *texts, earned=()):
    return grader.rollouts(episodes(*texts), [earned] * len(texts))


def test_every_reward_has_its_name_and_its_weight(mine):
    rewards = (f"{mine}:reward", f"{mine}:style", f"yes={mine}:right")
    weights = {"correct": 2.0, "reward": 4.0, "style": 0.5, "style/short": 0.1, "environment": 10.0}
    with Grader("last_integer", rewards, weights=weights) as grader:
        right, wrong = graded(grader, "=2", "=3", earned=(Component("environment", 1.0),))
    assert right.components == (
        Component("correct", 1.0, weight=2.0), Component("reward", 0.25, weight=4.0), Component("style/short", -3.0, weight=0.1),
        Component("style/asked", 1.0, weight=0.5), Component("yes", 1.0), Component("environment", 1.0, weight=10.0))
    assert right.reward == pytest.approx(2.0 + 1.0 - 0.3 + 0.5 + 1.0 + 10.0)
    assert (right.component("correct"), wrong.component("correct"), wrong.verdict.correct) == (1.0, 0.0, False)
    assert wrong.reward == pytest.approx(right.reward - 2.0)


def test_names():
    assert named(["m:f", "a/b.py:g", "x=a/b.py:g", "model:dir/rm/", "model:owner/name", "y=model:rm", "boxed"]) == {
        "f": "m:f", "g": "a/b.py:g", "x": "a/b.py:g", "rm": "model:dir/rm/", "name": "model:owner/name", "y": "model:rm",
        "boxed": "boxed"}
    for wrong, message in ((["a.py:f", "b.py:f"], r"would be called 'f', which is 'a.py:f' already.*--rewards NAME=b.py:f"),
                           (["a.py:correct"], "the task's verdict"), (["x=boxd"], "did you mean 'boxed'"),
                           (["model:"], "names no model")):
        with pytest.raises(ConfigError, match=message):
            named(wrong)


def test_weights_of_no_reward_are_refused_as_soon_as_that_is_known(mine, model, tmp_path):
    check_weights({"correct": 1, "f/x": 1, "environment": 1}, ["m:f"], "exact", environment=True)
    for weights, message in (({"brif": 1.0}, "no reward is called 'brif'; valid: brief, correct; did you mean 'brief'"),
                             ({"environment": 1.0}, "no reward is called 'environment'")):
        with pytest.raises(ConfigError, match=message):
            assemble(tiny_run(model, rewards=(f"{mine}:brief",), reward_weights=weights), tmp_path)
    with pytest.raises(ConfigError, match="no reward is called 'environment'"):
        check_weights({"environment": 1}, [], f"{mine}:floating", environment=False)
    check_weights({"other": 1}, [], f"{mine}:floating", environment=False)  # not known before it has graded
    for verifier, rewards, weights, message in (
            (f"{mine}:floating", (), {"correct": 1.0}, "no reward gives a component 'correct'; valid: reward"),
            ("exact", (f"{mine}:style",), {"style/shrt": 1.0}, "component 'style/shrt'.*did you mean 'style/short'"),
            (f"{mine}:floating", (f"{mine}:reward",), {}, "verifier gives a component 'reward'.*--rewards NAME=")):
        with Grader(verifier, rewards, weights=weights) as grader, pytest.raises(ConfigError, match=message):
            graded(grader, "1")
    with pytest.raises(ConfigError, match="the weight of 'a' must be a finite number, got True"):
        Run(reward_weights={"a": True})


def test_the_rewards_of_the_page(tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "rewards.md").read_text()
    (source,) = re.findall(r"^```python\n# file: mine.py\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "mine.py").write_text(source)
    (words,) = [line.split()[2:] for line in page.splitlines() if line.startswith("    groupwise train --rewards mine.py")]
    run = from_words(words, Run())
    with Grader("last_integer", [f"{tmp_path}/{one}" for one in run.rewards], weights=run.reward_weights) as grader:
        rollout, _ = graded(grader, "so 2?", "2")
    assert {c.name: (c.value, c.weight) for c in rollout.components} == {
        "correct": (1.0, 1), "brief": (1 - 3 / 200, 0.2), "style/boxed": (0.0, 0.5), "style/sure": (-1.0, 0.5),
        "fresh": (1.0, 1.0), "judged": (0.05, 1.0)}


def test_a_time_out_costs_the_most_that_each_component_can(mine):
    with Grader("last_integer", (f"{mine}:fines",), weights={"fines/fine": -1.0}, deadline=1.0) as grader:
        right, hangs, other, mute = graded(grader, "1", "2", "3", "4")
    assert (hangs.verdict.kind, hangs.component("correct")) == ("timeout", 0.0)
    assert (hangs.component("fines/fine"), hangs.component("fines/bonus"), hangs.reward) == (3.0, 0.0, -3.0)
    assert hangs.reward < min(right.reward, other.reward)
    assert mute.components[1:] == (Component("fines/fine", None, weight=-1.0), Component("fines/bonus", None))
    assert grader.problems() == {"reward fines: timeout: no verdict within 1 s": 1}


def test_the_weights_of_normalised_rewards_are_gdpo_s_own(model):
    run = tiny_run(model, method="gdpo", method_args={"rewards": "correct,digits"}, reward_weights={"digits": 0.25})
    parts = method_of(run, 8).objective.credit_by.parts
    assert [(factor, part.signal.component) for factor, part in parts] == [(1.0, "correct"), (0.25, "digits")]
    whole = method_of(tiny_run(model, method="gdpo", reward_weights={"digits": 0.25}), 8).objective.credit_by.parts
    assert [(factor, part.signal.component) for factor, part in whole] == [(1.0, None)]
    with pytest.raises(ConfigError, match="weights='1,2' and --reward-weights"):
        method_of(tiny_run(model, method="gdpo", method_args={"rewards": "a,b", "weights": "1,2"}, reward_weights={"a": 2}), 8)


def test_what_a_reward_model_says_of_an_answer(tmp_path):
    folder = make(tmp_path / "judge", "qwen2", context=12)
    with Grader("last_integer", (f"model:{folder}",), weights={"judge": 0.5}) as grader:
        loaded = grader.rewards[0]._model
        right, wrong, long = graded(grader, "2", "3", "2" * 20)
        scores = loaded.score([([{"role": "user", "content": "1+1="}], text) for text in "23"])
        assert [judged(r) for r in (right, wrong, long)] == [True, True, False]
        assert [r.component("judge") for r in (right, wrong)] == pytest.approx(scores, abs=1e-5)
        assert (right.reward, wrong.reward) == pytest.approx((1 + scores[0] / 2, scores[1] / 2), abs=1e-5)
        assert (right.verdict.correct, wrong.verdict.correct) == (True, False)  # whatever the model thinks of them
        assert grader.problems() == {
            "reward judge: answer and problem are longer than the reward model's context of 12 tokens": 1}
        with pytest.raises(VerifierError, match="has no score for any of 2 answers: answer and problem are longer"):
            graded(grader, "2" * 20, "3" * 20)
        alive = weakref.ref(loaded.model)
        del loaded
    gc.collect()
    assert alive() is None
    with pytest.raises(VerifierError, match="closed"):
        graded(grader, "2")


def test_a_score_that_is_no_number_abstains(tmp_path):
    with Grader("last_integer", (f"model:{make(tmp_path / 'judge', 'qwen2')}",)) as grader:
        grader.rewards[0]._model.score = lambda pairs: [float("nan"), 1.0]
        assert [judged(r) for r in graded(grader, "2", "3")] == [False, True]
        assert grader.problems() == {"reward judge: the score is nan": 1}


def test_a_run_with_every_kind_of_reward_ends_the_same_if_it_is_resumed(mine, model, tmp_path):
    rewards = (f"{mine}:brief", f"{mine}:service", f"model:{make(tmp_path / 'judge', 'llama')}", f"{REWARDS}:moody")
    weights = {"correct": 1.0, "brief": 0.5, "service": 0.0, "judge": 0.1}
    run = tiny_run(model, rewards=rewards, reward_weights=weights, steps=3, checkpoint_every=1, method="gdpo",
                   method_args={"rewards": "correct,brief,judge,moody"})
    folder = train(run, tmp_path / "runs")
    rows = read_lines(folder / "metrics.jsonl")
    for row in rows:
        said = sum(row[f"reward/{name}"] * weight for name, weight in weights.items())
        part = row["reward/moody"] * (1 - row["abstained/moody"])
        assert row["reward"] == pytest.approx(said + part, abs=1e-6)
        assert row["abstained/brief"] == row["abstained"] == 0.0
        assert row["grad_norm"] > 0
    assert any(row["abstained/moody"] > 0 for row in rows)
    before = (folder / "metrics.jsonl").read_bytes()
    for step in (2, 3):
        shutil.rmtree(folder / f"checkpoints/step-{step:06d}", ignore_errors=True)
    resume(folder)
    assert (folder / "metrics.jsonl").read_bytes() == before
