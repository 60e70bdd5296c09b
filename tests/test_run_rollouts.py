"""The record of rollouts: what it says is checked against the saved models, and that it leaves the training as it is."""

import re

import numpy as np
import pytest
import torch
from run_support import tiny_folder, tiny_run
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from groupwise.errors import ConfigError, TrainingError
from groupwise.models.template import pieces
from groupwise.run.disk import read_lines
from groupwise.run.loop import train
from groupwise.run.settings import Run

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("policy") / "model")


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    run = tiny_run(model, steps=5, keep_rollouts=2, keep_groups=3, method="grpo", method_args={"kl": 0.1}, updates_per_batch=2)
    return train(run, tmp_path_factory.mktemp("runs"))


def logp(where, row, rollout):
    """Log-probs of a rollout's tokens under a saved model, by transformers alone."""
    tokenizer, net = AutoTokenizer.from_pretrained(where), AutoModelForCausalLM.from_pretrained(where)
    prompt = tokenizer(row["text"], add_special_tokens=False)["input_ids"]
    ids = rollout["ids"]
    with torch.no_grad():
        scores = torch.log_softmax(net(torch.tensor([prompt + ids])).logits[0].float(), dim=-1)
    return [float(scores[len(prompt) + i - 1, token]) for i, token in enumerate(ids)]


def test_the_first_the_last_and_every_so_many_steps_are_kept(folder):
    rows = read_lines(folder / "rollouts.jsonl")
    assert [row["step"] for row in rows] == [step for step in (1, 2, 4, 5) for _ in range(3)]
    assert {len(row["rollouts"]) for row in rows} == {4}


@pytest.mark.parametrize(("which", "where", "when"), [(0, "base", "before"), (-1, "model", "after")])
def test_log_probs_are_those_of_the_weights_they_name(folder, which, where, when):
    row = read_lines(folder / "rollouts.jsonl")[which]
    for rollout in row["rollouts"]:
        assert rollout[when] == pytest.approx(logp(folder / where, row, rollout), abs=2e-5)


def test_a_row_says_what_was_trained_on(folder):
    for row in read_lines(folder / "rollouts.jsonl"):
        rewards = np.array([r["reward"] for r in row["rollouts"]])
        assert row["trained"]
        for r, reward in zip(row["rollouts"], rewards, strict=True):
            assert r["engine"] == pytest.approx(r["before"], abs=1e-4)
            assert r["ratio"] == pytest.approx(np.exp(np.subtract(r["after"], r["before"])), rel=1e-4)
            assert np.sign(r["advantage"]) == np.sign(round(reward - rewards.mean(), 6))
            assert r["mask"] == "1" * r["length"] == "1" * len(r["tokens"])
            assert re.sub("<[a-z]+>", "", "".join(r["tokens"])) == r["text"]
            assert reward == pytest.approx(sum(r["components"].values()))
    assert any(x != 1.0 for r in row["rollouts"] for x in r["ratio"])


@pytest.mark.parametrize("changes", [{"method": "gspo", "updates_per_batch": 2}, {"compute": "auto"},
                                     {"task": "run_tasks:parity", "method": "remax"}], ids=str)
def test_training_does_not_depend_on_what_is_kept(model, tmp_path, changes):
    kept, plain = (train(tiny_run(model, keep_rollouts=n, **changes), tmp_path / str(n)) for n in (1, 0))
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (kept / name).read_bytes() == (plain / name).read_bytes()
    assert (plain / "rollouts.jsonl").read_bytes() == b""
    for row in read_lines(kept / "rollouts.jsonl"):
        found = [r for r in row["rollouts"] if r["role"] == "policy"]
        assert len(found) == 4
        if changes.get("method") == "gspo":  # one ratio for the whole sequence
            assert all(r["ratio"] == pytest.approx([r["ratio"][0]] * len(r["ratio"]), abs=1e-5) for r in found)


@pytest.mark.slow
def test_processes_that_share_the_work_share_this_too(model, tmp_path):
    folder = train(tiny_run(model, steps=1, workers=2), tmp_path)
    rows = read_lines(folder / "rollouts.jsonl")
    assert len(rows) == 4
    for r in (r for row in rows for r in row["rollouts"]):
        assert r["before"] == pytest.approx(r["engine"], abs=1e-4)
    assert rows[0]["rollouts"][0]["after"] == pytest.approx(logp(folder / "model", rows[0], rows[0]["rollouts"][0]), abs=2e-5)


def test_groups_that_were_refused_are_kept_too(model, tmp_path):
    run = tiny_run(model, task="run_tasks:hopeless", method="dapo", method_args={"rounds": 1}, steps=4, keep_rollouts=1)
    with pytest.raises(TrainingError):
        train(run, tmp_path)
    rows = read_lines(tmp_path / run.name / "rollouts.jsonl")
    assert [row["step"] for row in rows] == [1] * 4 + [2] * 4
    assert not any(row["trained"] for row in rows)
    assert all(set(r["mask"]) == {"0"} and "ratio" not in r and len(r["engine"]) == len(r["tokens"])
               for row in rows for r in row["rollouts"])


def test_pieces_keep_characters_of_several_tokens_whole():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.train_from_iterator(["a"], trainers.BpeTrainer(vocab_size=300, show_progress=False, special_tokens=["<end>"],
                                                           initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    ids = tokenizer("né 😀!")["input_ids"] + [tokenizer.eos_token_id]
    found = pieces(tokenizer, ids)
    assert len(found) == len(ids) == 10
    assert [piece for piece in found if piece] == ["n", "é", " ", "😀", "!", "<end>"]
    assert "".join(pieces(tokenizer, ids[:5])).startswith("né ")  # cut in the middle of a character


def test_settings_of_the_record_are_checked():
    with pytest.raises(ConfigError, match="keep_groups must be at least 1"):
        Run(keep_groups=0)
    with pytest.raises(ConfigError, match="did you mean 'tensorboard'"):
        Run(trackers=("tensorbord",))
