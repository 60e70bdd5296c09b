from dataclasses import replace

import pytest

from groupwise import cli
from groupwise.errors import ConfigError
from groupwise.run import config, machine
from groupwise.run.config import arithmetic, from_toml, from_words, resolved, to_toml
from groupwise.run.learner_settings import LearnerSettings
from groupwise.run.settings import Run, SamplingSettings

ODD = Run(name="a.b-1", task="m:f", task_args={"path": 'a "quoted" \\ ü\n', "deep": {"x": [1, 2.5, {"y": True}]}, "odd key": -1},
          method_args={"big": 1e300, "small": 1e-7, "neg": -0.0, "del": "\x7f", "sizes": (1, 2)}, rewards=("a:b", "c:d"),
          sampling=SamplingSettings(max_tokens=9, temperature=0.7, stop=("\n\n", "#")),
          learner=LearnerSettings(lr=1.5e-6, betas=(0.8, 0.99), schedule="cosine", dtype="bfloat16", threads=3))


@pytest.mark.parametrize("run", [Run(), ODD, resolved(ODD), resolved(Run())])
def test_toml_round_trip_is_exact(run):
    assert from_toml(to_toml(run)) == run
    assert from_toml(to_toml(run, {"groupwise": "0.1.0", "threads": 2})) == run
    assert to_toml(from_toml(to_toml(run))) == to_toml(run)


def test_file_beats_default_and_words_beat_file(tmp_path):
    file = tmp_path / "x.toml"
    file.write_text('steps = 7\nseed = 5\nmethod = "grpo"\n[learner]\nlr = 1\n'.replace("lr = 1", "lr = 0.5")
                    + '[method_args]\nkl = 0.1\nclip_low = 0.3\n[meta]\nanything = 1\n')
    run = cli.settings(["--steps", "9", "--config", str(file), "--method-args", "kl=0", "--grad-clip", "2", "--run", "here"])
    expected = replace(Run(), name="here", steps=9, seed=5, method="grpo", method_args={"kl": 0, "clip_low": 0.3},
                       learner=LearnerSettings(lr=0.5, grad_clip=2.0))
    assert run == expected
    assert cli.settings([f"--config={file}"]).steps == 7


def test_words_of_every_kind():
    run = from_words(["--task-args", "path=a/b.jsonl", "n=3", "--method-args", "clip_high=0.3", "overlong=true", "name='7'",
                      "day=2024-01-01", "--rewards", "m:f", "n:g", "--betas", "0.5", "0.6", "--max_tokens", "8"], Run())
    assert run.task_args == {"path": "a/b.jsonl", "n": 3}
    assert run.method_args == {"clip_high": 0.3, "overlong": True, "name": "7", "day": "2024-01-01"}
    assert run.rewards == ("m:f", "n:g")
    assert run.learner.betas == (0.5, 0.6)
    assert run.sampling.max_tokens == 8


@pytest.mark.parametrize(("words", "message"), [
    (["--step", "3"], "unknown setting '--step'.*did you mean '--steps'"),
    (["--learning-rate", "3"], "unknown setting '--learning-rate'"),
    (["steps=3"], "unexpected word"),
    (["--steps", "many"], "--steps"),
    (["--lr", "fast"], "--lr"),
    (["--dtype", "float16"], "float16"),
    (["--method-args", "clip_high"], "expected key=value, got 'clip_high'"),
    (["--method-args", "a=1", "a=2"], "given twice"),
    (["--config"], "needs a TOML file"),
    (["--config", "nowhere.toml"], "no such file"),
])
def test_bad_words_are_config_errors(words, message):
    with pytest.raises(ConfigError, match=message):
        cli.settings(words)


@pytest.mark.parametrize(("text", "message"), [
    ("step = 3", "unknown setting 'step'.*did you mean 'steps'"),
    ("[learner]\nlearning_rate = 1", r"unknown setting 'learner\.learning_rate'"),
    ('steps = "3"', "steps must be a whole number, got '3'"),
    ("steps = true", "steps must be a whole number, got True"),
    ("steps = 3.0", "steps must be a whole number"),
    ("name = 3", "name must be a text"),
    ("rewards = [1]", r"rewards must be a text"),
    ('rewards = "a:b"', "rewards must be a list of texts"),
    ("method_args = 3", "method_args must be a table"),
    ("learner = 3", "learner must be a table"),
    ("[learner]\nbetas = [0.9]", "betas must be a list of numbers"),
    ('[learner]\nschedule = "step"', "valid: constant, cosine, linear"),
    ("[task_args]\nday = 2024-01-01", "a setting must be a string"),
    ("steps = ", "x.toml is not valid TOML"),
])
def test_bad_toml_is_a_config_error(text, message):
    with pytest.raises(ConfigError, match=message):
        from_toml(text, "x.toml")


@pytest.mark.parametrize(("change", "message"), [
    ({"steps": 0}, "steps must be at least 1, got 0"),
    ({"group_size": 0}, "group_size"),
    ({"prompts_per_step": 0}, "prompts_per_step"),
    ({"keep": 0}, "keep"),
    ({"updates_per_batch": 33}, "updates_per_batch=33 is more than prompts_per_step=32"),
    ({"verify_deadline": 0.0}, "verify_deadline"),
    ({"name": "../x"}, "names a folder"),
    ({"sampling": SamplingSettings(top_p=0.9)}, "log-probs"),
    ({"sampling": SamplingSettings(top_k=50)}, "log-probs"),
    ({"sampling": SamplingSettings(min_p=0.1)}, "log-probs"),
    ({"sampling": SamplingSettings(temperature=0.0)}, "greedy"),
    ({"sampling": SamplingSettings(temperature=float("nan"))}, "temperature"),
    ({"sampling": SamplingSettings(stop=("",))}, "empty text"),
    ({"learner": LearnerSettings(lr=0.0)}, "lr must lie"),
    ({"learner": LearnerSettings(betas=(0.9, 1.0))}, "betas"),
    ({"learner": LearnerSettings(micro_tokens=-1)}, "micro_tokens"),
    ({"learner": LearnerSettings(lora_rank=-1)}, "lora_rank"),
    ({"learner": LearnerSettings(lora_rank=4, lora_alpha=0.0)}, "lora_alpha must be above 0"),
    ({"learner": LearnerSettings(quantise="nf4")}, "quantise=nf4 needs adapters"),
    ({"learner": LearnerSettings(weights="bfloat16")}, "weights=bfloat16 needs adapters"),
    ({"learner": LearnerSettings(lora_targets=("q_proj",))}, "lora_targets=.* needs adapters"),
    ({"learner": LearnerSettings(lora_rank=4, weights="bfloat16", dtype="float32")}, "in the format of the weights"),
    ({"learner": LearnerSettings(lora_rank=4, quantise="int8", workers=2)}, "quantise=int8 and workers=2"),
    ({"learner": LearnerSettings(lora_rank=4, compute="kernels")}, "compute=kernels, but adapters"),
    ({"learner": LearnerSettings(grad_clip=-1.0)}, "grad_clip"),
])
def test_contradictions_are_refused_before_any_work(change, message):
    with pytest.raises(ConfigError, match=message):
        Run(**change)


def test_threads_follow_the_size_of_the_model():
    assert machine.with_threads(Run(), 2_000_000).learner.threads == 1
    assert machine.with_threads(Run(), 500_000_000).learner.threads == min(machine.cores(), 16)
    assert machine.with_threads(Run(learner=LearnerSettings(threads=3)), 2_000_000).learner.threads == 3


def test_resolved_names_the_run():
    run = resolved(Run(task="my.mod:fun", seed=3))
    assert run.name == "dr_grpo-my.mod-fun-3"
    assert resolved(run) == run


def test_arithmetic_adds_up():
    run = Run(steps=100, updates_per_batch=4, sampling=SamplingSettings(max_tokens=10))
    lines = " | ".join(arithmetic(run, 1600, 4))
    for words in ("= 256 rollouts a step", "steps = 25,600", "4 optimiser steps a batch, 400 in all", "= 2,560 tokens",
                  "= 2.00 epochs"):
        assert words in lines
    assert "1 optimiser step a batch, 120 in all" in " ".join(arithmetic(Run(), 0))


def test_help_names_every_setting(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.settings(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert [flag for flag in config.flags() if flag not in text] == []
