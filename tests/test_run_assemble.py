import json
import math
from dataclasses import replace

import pytest
from run_support import REWARDS, tiny_folder, tiny_run

from groupwise.core.rollout import Completion, Context, Episode, Prompt, Turn
from groupwise.core.services import Plan
from groupwise.errors import CheckpointError, ConfigError, DataError
from groupwise.methods.method import Method
from groupwise.methods.update import Gated, Minibatches
from groupwise.models.build import ALPHABET, FAMILIES, character_tokenizer, random_policy
from groupwise.models.load import load, policy_of, save
from groupwise.models.template import tokenise
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.objective.trust import LogProb
from groupwise.run.assemble import assemble
from groupwise.run.checkpoint import Checkpoints
from groupwise.run.disk import read_lines
from groupwise.run.grade import Grader, judged
from groupwise.run.loop import train
from groupwise.run.settings import SamplingSettings


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_tokenizer_reads_every_character_as_before(family, tmp_path):
    tokenizer = character_tokenizer()
    save(policy_of(random_policy(tokenizer, family=family, hidden=32, layers=1, mlp=32), tokenizer), tmp_path / "m")
    again = load(tmp_path / "m").tokenizer
    assert tokenise(again, ALPHABET) == tokenise(tokenizer, ALPHABET) == tuple(range(3, 3 + len(ALPHABET)))
    with pytest.raises(DataError, match="€"):
        tokenise(again, "1€2")


def episode(text):
    prompt = Prompt("p", "1+1=", 2)
    return Episode(prompt, (Turn(Context((3,)), Completion((4,), (-1.0,)), text=text),))


def test_a_reward_that_fails_never_pays():
    with Grader("last_integer", [f"{REWARDS}:penalty"], deadline=2.0) as grader:
        crash, hang, unsure, right, wrong = grader.rollouts([episode(t) for t in ("1=2", "2", "3=2", "4=2", "4=3")], [()] * 5)
    assert [judged(r) for r in (crash, hang, unsure, right, wrong)] == [False, True, True, True, True]
    assert (crash.verdict.kind, hang.verdict.kind, hang.verdict.correct) == ("crash", "timeout", False)
    assert [r.reward for r in (hang, unsure, right, wrong)] == [-0.5, 1.0, 0.5, -0.5]
    assert hang.component("correct") == 0.0


def test_what_was_left_open_is_filled_in_and_said(model, tmp_path):
    run = replace(tiny_run(model), sampling=SamplingSettings(), template="r1", model=str(model))
    with pytest.raises(DataError, match="no token for"):  # the little tokenizer has no letters
        assemble(run, tmp_path)
    job = assemble(replace(run, template="", learner=replace(run.learner, device="auto", threads=0, micro_tokens=0)), tmp_path)
    job.grader.close()
    assert (job.run.template, job.run.sampling.max_tokens, job.run.learner.threads) == ("none", job.task.max_tokens, 1)
    assert job.run.learner.device in ("cpu", "cuda")
    assert job.run.learner.micro_tokens >= 1024


def test_no_room_for_a_prompt_is_said_as_such(model, tmp_path):
    run = replace(tiny_run(model), sampling=SamplingSettings(max_tokens=512))
    with pytest.raises(ConfigError, match=r"the model holds 512 positions and max_tokens is 512.*lower --max-tokens"):
        assemble(run, tmp_path)


def test_several_steps_need_a_ratio(model, tmp_path):
    with pytest.raises(ConfigError, match="4 optimiser steps per batch, but the term 'policy' has no ratio"):
        assemble(tiny_run(model, method="rloo", updates_per_batch=4), tmp_path)
    with pytest.raises(ConfigError, match="has no ratio"):
        Method(Objective(Advantage(), (Policy(trust=LogProb()),)), update=Minibatches(2))


def gated() -> Method:
    return Method(Objective(Advantage(), (Policy(),)), update=Gated(Minibatches(2), bool))


def test_an_update_of_its_own_is_not_replaced(model, tmp_path):
    with pytest.raises(ConfigError, match=r"update strategy of its own \(Gated\)"):
        assemble(tiny_run(model, method=f"{__file__}:gated", updates_per_batch=2), tmp_path)


def test_plans_of_another_temperature_are_refused(model, tmp_path):
    job = assemble(tiny_run(model), tmp_path)
    with job.grader, pytest.raises(ConfigError, match=r"temperature 0\.5, but the learner's log-probs are taken at 1\.0"):
        job.sampler.generate([Plan(job.sampler.planner.prompts[0], 1, visit=1, group="g", temperature=0.5)])


def test_a_task_of_several_turns_is_evaluated_over_all_of_them(model, tmp_path):
    folder = train(tiny_run(model, task="run_tasks:twice", rewards=(), eval_every=1, steps=1), tmp_path)
    first, last = read_lines(folder / "evaluations.jsonl")
    assert first["n"] == last["n"] == 16
    assert first["length"] > 8  # two turns of at most eight tokens
    assert read_lines(folder / "metrics.jsonl")[0]["reward"] >= 3.0  # the environment pays 1 and 2


def test_a_state_that_would_come_back_changed_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"key 1 in state\.method\.by"):
        checkpoints.save(1, lambda folder: {"method": {"by": {1: 2}}})
    where = checkpoints.save(2, lambda folder: {"method": {"best": -math.inf}})
    assert json.loads((where / "state.json").read_text())["method"]["best"] == -math.inf
