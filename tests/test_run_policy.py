import json
import shutil

import chaos
import pytest
import torch
from run_support import tiny_folder, tiny_run
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from groupwise.learner.compiled import KernelScorer
from groupwise.models.load import load
from groupwise.run.assemble import assemble
from groupwise.run.loop import resume, train
from groupwise.run.policy import policy_for

peft = pytest.importorskip("peft")
IDS = torch.randint(3, 28, (3, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("tiny") / "model")


@torch.no_grad()
def logp(model):
    return torch.log_softmax(model.eval()(input_ids=IDS, use_cache=False).logits.float(), -1)


@pytest.mark.parametrize("settings", [
    {"weights": "bfloat16", "head_float32": True, "checkpointing": True}, {"quantise": "int8", "lora_targets": ("q_proj",)}])
def test_a_run_with_adapters_leaves_a_plain_model_and_goes_on_to_the_bit(settings, model, tmp_path):
    run = tiny_run(model, method="grpo", method_args={"kl": 0.1}, steps=chaos.STEPS, checkpoint_every=2, eval_every=3,
                   lora_rank=4, **settings)
    whole = train(run, tmp_path / "runs")
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["kl_reference_k3"] == pytest.approx(0.0, abs=1e-5)
    assert rows[-1]["kl_reference_k3"] > 1e-5
    base = load(whole / "base", dtype=getattr(torch, run.learner.weights))
    first = load(model, dtype=base.model.dtype).model.state_dict()
    assert all(torch.equal(tensor, first[name]) for name, tensor in base.model.state_dict().items())
    again = policy_for(run.learner, whole / "base", whole / "adapter").model
    exported = AutoModelForCausalLM.from_pretrained(whole / "model")
    assert float((logp(exported) - logp(base.model)).abs().max()) > 1e-3
    torch.testing.assert_close(logp(exported), logp(again), rtol=0, atol=0.05 if settings.get("weights") else 1e-5)
    last = whole / chaos.LAST
    assert {p.name for p in last.iterdir()} == {"adapter", "optimizer.safetensors", "state.json", "manifest.json"}
    assert {name.split("lora_")[1] for name in load_file(last / "adapter/adapter_model.safetensors")} == {"A.weight", "B.weight"}
    copy = shutil.copytree(whole, tmp_path / "copy" / whole.name)
    for name in ("model", "adapter", chaos.LAST):
        shutil.rmtree(copy / name)
    resume(copy)
    assert chaos.differences(copy, whole) == []


def test_a_critic_is_trained_along_with_adapters(model, tmp_path):
    run = tiny_run(model, method="ppo", lora_rank=2, optimizer="adamw", updates_per_batch=2)
    whole = train(run, tmp_path)
    moments = load_file(next(whole.glob("checkpoints/*/optimizer.safetensors")))
    names = {name.partition("/")[2] for name in moments}
    assert {"value_head.linear.weight", "model.layers.1.mlp.down_proj.lora_B.default.weight"} <= names
    assert not any("base_layer" in name or "embed" in name for name in names)
    assert float(moments["parameter/value_head.linear.weight"].abs().max()) > 0.0


@pytest.mark.parametrize(("settings", "why"), [
    ({"lora_rank": 4}, "adapters"), ({"checkpointing": True}, "checkpointing"), ({"head_float32": True}, "head_float32")])
def test_what_kernels_do_not_do_is_done_by_modules_and_said(settings, why, model, tmp_path):
    run = tiny_run(model, compute="auto", **settings)
    job = assemble(run, tmp_path)
    with job.workers, job.grader:
        assert not isinstance(job.learner.scorer, KernelScorer)
        assert any(f"not used: {why} asked for" in note for note in job.notes)
        assert job.engine.trunk.head_float32 == job.learner.scorer.trunk.head_float32 == run.learner.head_float32
        if run.learner.lora_rank:
            assert any("adapters of rank 4" in note for note in job.notes)
            assert job.run.learner.dtype == "float32"


def test_the_reference_is_a_second_model_only_without_adapters(model, tmp_path):
    for rank in (0, 4):
        job = assemble(tiny_run(model, method="grpo", method_args={"kl": 0.1}, lora_rank=rank), tmp_path)
        with job.workers, job.grader:
            assert (job.learner.models.frozen["ref"] is job.policy) == bool(rank)
            assert job.learner.frozen["ref"].plain == bool(rank)
