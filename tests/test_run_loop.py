"""The loop, end to end. The golden trajectory is written anew, after a change that is meant to move it, by

    GROUPWISE_GOLDEN=write python -m pytest tests/test_run_loop.py -k golden
"""

import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from run_support import tiny_folder, tiny_run
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from groupwise import cli
from groupwise.errors import CheckpointError, ConfigError, DataError, TrainingError
from groupwise.methods import METHODS
from groupwise.models.build import random_policy
from groupwise.models.load import policy_of, save
from groupwise.run.disk import read_lines
from groupwise.run.loop import train

GOLDEN = Path(__file__).with_name("golden") / "trajectory.json"
WATCHED = ("reward", "grad_norm", "entropy", "length")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("policy") / "model")


def rows(folder):
    return read_lines(folder / "metrics.jsonl")


def test_a_golden_trajectory(model, tmp_path):
    found = [{name: row[name] for name in WATCHED} for row in rows(train(tiny_run(model, steps=20), tmp_path))]
    if os.environ.get("GROUPWISE_GOLDEN") == "write":
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    expected = json.loads(GOLDEN.read_text())
    assert len(found) == 20
    assert found[-1]["reward"] > found[0]["reward"] + 0.2
    for step, (row, wanted) in enumerate(zip(found, expected, strict=True)):
        assert row == pytest.approx(wanted, rel=1e-4), f"step {step + 1}"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(method, model, tmp_path):
    arguments = {"reward": "correct"} if method == "bnpo" else {}  # whose rewards lie between 0 and 1
    folder = train(tiny_run(model, method=method, method_args=arguments, task="run_tasks:parity"), tmp_path)
    found = rows(folder)
    assert [row["step"] for row in found] == [1, 2]
    assert all(row["grad_norm"] > 0 and row["tokens_trained"] > 0 and row["skipped_steps"] == 0 for row in found)
    before, after = (AutoModelForCausalLM.from_pretrained(folder / name).state_dict() for name in ("base", "model"))
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_mean_of_micro_batch_means_is_cut_as_it_was_weighed(model, tmp_path, workers):
    """DAPO's published aggregation: the weights of every micro-batch add up to 1/K, whoever computes it."""
    arguments = {"dynamic_sampling": False, "overlong_cache": 0, "micro_batch_means": True, "dual": 10.0}
    run = tiny_run(model, method="dapo", method_args=arguments, micro_tokens=40, workers=workers)
    found = rows(train(run, tmp_path))
    assert all(row["weights/policy"] == pytest.approx(1.0) and row["grad_norm"] > 0 for row in found)
    assert {row["idle_share"] for row in found} == {0.0}
    plain = rows(train(replace(run, name="plain", method_args=arguments | {"micro_batch_means": False}), tmp_path))
    assert found[0]["grad_norm"] != pytest.approx(plain[0]["grad_norm"], rel=1e-6)


def test_a_batch_may_serve_several_optimiser_steps_and_a_reference(model, tmp_path):
    run = tiny_run(model, method="grpo", method_args={"kl": 0.1}, updates_per_batch=2)
    first, second = rows(train(run, tmp_path))
    assert first["optimiser_steps"] == second["optimiser_steps"] == 2
    assert 0 < first["kl_reference_k3"] < second["kl_reference_k3"]  # 0 before the first step, then it moves away
    assert first["ratio_max"] > 1.0


USER_METHOD = '''
from groupwise.methods.method import Method
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.baselines import NoBaseline
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy


def mine(*, factor: float = 1.0) -> Method:
    return Method(Objective(Advantage(baseline=NoBaseline()), (Policy(coef=factor, aggregate=TokenMean()),)))
'''
USER_REWARD = '''
def shouting(completion, answer, **columns):
    return {"loud": float(len(completion)), "finish": columns["finish"] == "stop"}
'''


def test_a_method_and_a_reward_of_ones_own(model, tmp_path, monkeypatch):
    (tmp_path / "my_methods.py").write_text(USER_METHOD)
    (tmp_path / "my_reward.py").write_text(USER_REWARD)
    monkeypatch.chdir(tmp_path)
    run = tiny_run(model, method="my_methods:mine", method_args={"factor": 0.5}, rewards=("my_reward.py:shouting",))
    found = rows(train(run))
    assert all(row["reward"] > 2.0 and row["grad_norm"] > 0 for row in found)
    with pytest.raises(ConfigError, match="did you mean 'factor'"):
        train(replace(run, name="other", method_args={"factr": 1.0}))


def test_three_steps_without_a_group_stop_the_run(model, tmp_path):
    run = tiny_run(model, task="run_tasks:hopeless", method="dapo", method_args={"rounds": 2}, steps=5)
    with pytest.raises(TrainingError, match=r"no group was admitted 3 steps in a row \(\{'all_wrong': 8\} refused"):
        train(run, tmp_path)
    found = rows(tmp_path / run.name)
    assert [row["optimiser_steps"] for row in found] == [0, 0]
    assert all(row["refused/all_wrong"] == 8 for row in found)
    folders = (model, tmp_path / run.name / "base")
    before, after = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in folders)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_settings_file_repeats_a_run(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = train(tiny_run(model, "first", steps=4, eval_every=2, updates_per_batch=2, method="gspo"))
    assert cli.main(["train", "--config", "runs/first/run.toml", "--run", "second"]) == 0
    for name in ("metrics.jsonl", "evaluations.jsonl", "model/model.safetensors", "heldout.jsonl"):
        assert (first / name).read_bytes() == (Path("runs/second") / name).read_bytes(), name


def test_what_a_run_leaves_behind(model, tmp_path):
    run = tiny_run(model, steps=3, eval_every=2)
    folder = train(run, tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    assert {"method", "task", "seconds", "tokens", "accuracy", "base", "model"} <= set(summary)
    assert (summary["method"], summary["task"], summary["steps"], summary["seed"]) == ("dr_grpo", "reduce", 3, 0)
    assert summary["seconds"] > 0
    assert summary["tokens"] == sum(row["tokens/policy/generate"] for row in rows(folder))
    for when in ("before", "after"):
        accuracy = summary["accuracy"][when]
        assert set(accuracy) == {"value", "low", "high", "n"}
        assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
        assert accuracy["n"] == 16
    evaluations = read_lines(folder / "evaluations.jsonl")
    assert [row["step"] for row in evaluations] == [0, 2, 3]
    heldout = [json.loads(line) for line in (folder / "heldout.jsonl").read_text().splitlines()]
    assert len(heldout) == 16
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert not [p.name for p in folder.rglob(".*") if p.name != ".lock"]
    for name in ("base", "model"):
        tokenizer = AutoTokenizer.from_pretrained(summary[name])
        loaded = AutoModelForCausalLM.from_pretrained(summary[name])
        asked = tokenizer(heldout[0]["prompt"], add_special_tokens=False, return_tensors="pt")
        assert asked["input_ids"][0].tolist() == heldout[0]["ids"]
        said = loaded.generate(asked["input_ids"], max_new_tokens=8)[0, len(heldout[0]["ids"]):]
        shown = evaluations[0 if name == "base" else -1]["texts"][0]
        assert tokenizer.decode(said, skip_special_tokens=True) == shown  # greedy, as it was evaluated


def test_a_run_is_never_overwritten(model, tmp_path):
    run = tiny_run(model, steps=1)
    folder = train(run, tmp_path)
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=r"there is a run in .* already: go on with `.* resume"):
        train(run, tmp_path)
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_broken_start_can_be_started_again(model, tmp_path):
    run = tiny_run(model, steps=1)
    with pytest.raises(ConfigError, match=r"no argument 'clip_hgh'; .*did you mean 'clip_high'"):
        train(replace(run, method_args={"clip_hgh": 0.3}), tmp_path)
    assert not (tmp_path / run.name).exists()
    (tmp_path / run.name / "base").mkdir(parents=True)  # as if killed between the base policy and the settings
    train(run, tmp_path)


def word_problems(path, n=20):
    draw, lines = random.Random(0), []
    for _ in range(n):
        name, thing = draw.choice(["Ada", "Ben", "Cleo"]), draw.choice(["apples", "stamps", "coins"])
        a, b = draw.randint(2, 40), draw.randint(2, 40)
        lines.append({"question": f"{name} has {a} {thing} and finds {b} more. How many {thing} does {name} have now?",
                      "answer": f"{name} has {a} + {b} = <<{a}+{b}={a + b}>>{a + b} {thing}.\n#### {a + b}"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [text for line in lines for text in line.values()]


def bpe_policy(folder, texts, vocabulary=320):
    """A random model over a byte-level BPE learnt from the texts."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<|pad|>", "<|end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|end|>")
    save(policy_of(random_policy(tokenizer, hidden=32, layers=2, heads=4, kv_heads=2, mlp=64), tokenizer), folder)


def test_word_problems_from_a_file_through_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bpe_policy(Path("model"), word_problems(Path("train.jsonl")))
    words = ["train", "--task", "gsm8k", "--task-args", "path=train.jsonl", "--model", "model", "--steps", "2", "--run", "words",
             "--prompts-per-step", "4", "--group-size", "4", "--max-tokens", "16", "--threads", "1", "--method", "grpo",
             "--method-args", "kl=0.0", "--eval-every", "1", "--lr", "1e-3"]
    assert cli.main(words) == 0, capsys.readouterr().err
    assert "held-out greedy accuracy" in capsys.readouterr().out
    summary = json.loads(Path("runs/words/summary.json").read_text())
    assert (summary["task"], summary["accuracy"]["after"]["n"]) == ("gsm8k", 2)
    assert summary["tokens"] > 0


def test_a_prompt_without_room_for_its_completion_is_refused(model, tmp_path):
    run = tiny_run(model)
    with pytest.raises(DataError, match="has 6 tokens, and there is room for 4"):
        train(replace(run, sampling=replace(run.sampling, max_tokens=508)), tmp_path)
