import json
import sys

import pytest
import torch
from learner_support import exact, gradient, groups_of, learner_of, packed, relative
from run_support import tiny_policy
from transformers import AutoModelForCausalLM, GPT2Config

from groupwise.core.keyed import fold
from groupwise.core.rollout import Context
from groupwise.core.services import Request, Sampling
from groupwise.engines.native import Native
from groupwise.errors import CheckpointError, ConfigError
from groupwise.learner import checkpoint
from groupwise.learner.settings import Models
from groupwise.methods import METHODS
from groupwise.models import adapter, blocks
from groupwise.models.adapter import Lora
from groupwise.models.build import FAMILIES, character_tokenizer, random_policy
from groupwise.models.head import Trunk, score
from groupwise.models.load import load, policy_of, save
from groupwise.objective.batch import pack

peft = pytest.importorskip("peft")
TOKENIZER = character_tokenizer()
IDS = torch.randint(3, 28, (3, 9), generator=torch.Generator().manual_seed(0))
OBJECTIVE = METHODS["dr_grpo"](max_tokens=8).objective


def shaken(policy, lora=Lora(4), size=0.05, **given):
    """The policy with adapters that have been moved away from zero."""
    adapter.add(policy.model, lora, **given)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in adapter.trained(policy.model).values():
            p.add_(size * torch.randn(p.shape, generator=draw))
    return policy


@torch.no_grad()
def logp(model):
    return torch.log_softmax(model(input_ids=IDS, use_cache=False).logits.float(), -1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_model_and_pefts_own_are_the_adapted_one(family, tmp_path):
    policy = policy_of(random_policy(TOKENIZER, family=family, hidden=32, layers=2, mlp=48), TOKENIZER)
    save(policy, tmp_path / "base")
    before = logp(policy.model)
    adapter.add(policy.model, Lora(4), base=str(tmp_path / "base"))
    assert torch.equal(logp(policy.model), before)  # B is zero
    names = {name.rpartition(".")[2] for name in adapter.layers(policy.model)}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj"} | (
        set() if family == "qwen3_moe" else {"gate_proj", "up_proj", "down_proj"})
    with torch.no_grad():
        for name, p in adapter.trained(policy.model).items():
            assert ".lora_" in name
            p.normal_(0.0, 0.1)
    after = logp(policy.model)
    assert float((after - before).abs().max()) > 0.1
    save(policy, tmp_path / "model")
    adapter.save(policy.model, tmp_path / "adapter")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert not adapter.layers(plain)
    assert plain.get_input_embeddings().weight is plain.get_output_embeddings().weight  # tied, as before
    torch.testing.assert_close(logp(plain), after, atol=2e-5, rtol=0)
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter").eval()
    torch.testing.assert_close(logp(theirs), after, atol=1e-6, rtol=0)
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == str(tmp_path / "base")


@pytest.mark.parametrize("lora", [
    Lora(3, alpha=6.0), Lora(4, alpha=8.0, stabilised=True), Lora(2, targets=("q_proj", "up_proj"))])
def test_gradients_are_those_of_the_merged_weights_projected(lora, tmp_path):
    policy = exact(tiny_policy())
    shaken(policy, lora)
    for p in adapter.trained(policy.model).values():
        p.data = p.data.double()
    scale = lora.alpha / (lora.rank**0.5 if lora.stabilised else lora.rank)
    whole = exact(tiny_policy())
    with torch.no_grad():
        for name, layer in adapter.layers(policy.model).items():
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            whole.model.get_submodule(name).weight += scale * b @ a
    ours, theirs = learner_of(policy), learner_of(whole)
    assert set(ours.parameters) == {f"{name}.lora_{x}.default.weight" for name in adapter.layers(policy.model) for x in "AB"}
    groups, expected = groups_of(), {}
    batch = packed(theirs, groups, OBJECTIVE)
    theirs.gradients(OBJECTIVE.weigh(batch), OBJECTIVE)
    for name, layer in adapter.layers(policy.model).items():
        slope = theirs.parameters[f"{name}.weight"].grad
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        expected[f"{name}.lora_A.default.weight"] = scale * b.T @ slope
        expected[f"{name}.lora_B.default.weight"] = scale * slope @ a.T
    flat, _ = gradient(ours, OBJECTIVE.weigh(packed(ours, groups, OBJECTIVE)), OBJECTIVE)
    assert relative(flat, torch.cat([expected[name].flatten() for name in ours.parameters])) < 1e-12


def test_the_reference_is_the_model_without_its_adapters():
    policy, base, groups = shaken(tiny_policy()), tiny_policy(), groups_of()
    ours, theirs = learner_of(policy, models=Models({"ref": policy})), learner_of(tiny_policy(3), models=Models({"ref": base}))
    batch = pack(groups)
    needs = frozenset({"old", "ref"})
    found, expected = ours.logprobs(batch, groups, needs), theirs.logprobs(batch, groups, needs)
    assert torch.equal(found["ref_logp"], expected["ref_logp"])
    assert float((found["ref_logp"] - found["old_logp"]).abs().max()) > 1e-3
    assert torch.equal(ours.logprobs(batch, groups, needs)["old_logp"], found["old_logp"])
    ours.gradients(OBJECTIVE.weigh(packed(ours, groups, OBJECTIVE)), OBJECTIVE)
    assert all(p.grad is not None for p in ours.parameters.values())


def test_the_engine_samples_from_the_adapted_policy():
    policy = shaken(tiny_policy(), size=0.1)
    learner, engine = learner_of(policy), Native(policy)
    weights = learner.weights()
    assert set(weights) == set(learner.parameters)
    engine.load(weights, version=3)
    contexts = [tuple(range(3, 3 + n)) for n in (4, 9, 2)]
    made = engine.generate([Request(Context(c), (fold(7, i),), Sampling(12)) for i, c in enumerate(contexts)])
    trunk = Trunk(policy.model)
    for context, (completion,) in zip(contexts, made, strict=True):
        ids = torch.tensor([[*context, *completion.tokens]])
        hidden, _ = trunk.hidden(ids)
        exactly = score(trunk, hidden[0, len(context) - 1:-1], ids[0, len(context):]).logp
        torch.testing.assert_close(torch.tensor(completion.logp), exactly.detach(), atol=1e-5, rtol=0, check_dtype=False)


def test_adapters_of_a_narrow_base_are_wide_and_small_changes_survive_merging(tmp_path):
    save(tiny_policy(), tmp_path / "base", torch.bfloat16)
    policy = load(tmp_path / "base", dtype=torch.bfloat16)
    shaken(policy, size=1e-3)
    assert {p.dtype for p in adapter.trained(policy.model).values()} == {torch.float32}
    save(policy, tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert again.dtype == torch.float32
    for name, layer in adapter.layers(policy.model).items():
        moved = again.get_submodule(name).weight - layer.get_base_layer().weight.float()
        assert relative(moved, layer.get_delta_weight("default")) < 1e-3


@pytest.mark.parametrize("narrow", [False, True])
def test_a_checkpoint_holds_adapters_and_brings_everything_back_to_the_bit(narrow, tmp_path):
    def fresh():
        policy = tiny_policy()
        policy.model.to(torch.bfloat16 if narrow else torch.float32)
        adapter.add(policy.model, Lora(4), seed=5)
        return learner_of(policy, needs=frozenset({"values"}))

    def step(learner, seed):
        learner.gradients(OBJECTIVE.weigh(packed(learner, groups_of(seed), OBJECTIVE)), OBJECTIVE)
        learner.apply()

    learner, again = fresh(), fresh()
    frozen = {name: p.clone() for name, p in learner.policy.model.named_parameters() if not p.requires_grad}
    for seed in range(2):
        step(learner, seed)
    counters = checkpoint.save(learner, tmp_path)
    where = checkpoint.weights(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "optimizer.safetensors"]
    assert where == tmp_path / "adapter"
    adapter.load(again.policy.model, where)
    checkpoint.load(again, tmp_path, counters)
    for more in range(2):
        assert all(torch.equal(p, again.parameters[name]) for name, p in learner.parameters.items())
        step(learner, 7 + more)
        step(again, 7 + more)
    now = dict(learner.policy.model.named_parameters())
    assert all(torch.equal(now[name], p) for name, p in frozen.items())
    assert not torch.equal(learner.parameters["model.layers.0.mlp.up_proj.lora_A.default.weight"],
                           fresh().parameters["model.layers.0.mlp.up_proj.lora_A.default.weight"])


def test_what_does_not_fit_is_named(tmp_path, monkeypatch):
    policy = tiny_policy()
    with pytest.raises(ConfigError, match=r"called 'q_prj'.*did you mean 'q_proj'"):
        adapter.add(policy.model, Lora(4, targets=("v_proj", "q_prj")))
    adapter.add(policy.model, Lora(4))
    adapter.save(policy.model, tmp_path)
    for lora in (Lora(3), Lora(4, targets=("q_proj",))):
        other = tiny_policy()
        adapter.add(other.model, lora)
        with pytest.raises(CheckpointError, match="another model, rank or targets"):
            adapter.load(other.model, tmp_path)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'groupwise\[peft\]'"):
        adapter.library()


def test_models_without_layers_for_adapters_are_named():
    config = GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    with pytest.raises(ConfigError, match=r"blocks of GPT2LMHeadModel have no linear layers.*lora_rank=0"):
        adapter.add(AutoModelForCausalLM.from_config(config), Lora(4))


def test_the_first_adapters_are_a_function_of_the_seed():
    def first(seed):
        policy = tiny_policy()
        torch.rand(seed + 3)  # whatever was drawn before
        adapter.add(policy.model, Lora(4), seed=seed)
        return torch.cat([p.flatten() for p in adapter.trained(policy.model).values()])
    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
    assert not any(m.training for m in shaken(tiny_policy()).model.modules())


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("settings", [{}, {"precision": torch.bfloat16}])
def test_running_blocks_again_keeps_the_gradient_and_less_memory(lora, settings):
    found = []
    for again in (False, True):
        policy = tiny_policy()
        if lora:
            shaken(policy)
        if again:
            blocks.recompute(policy.model)
        learner, kept = learner_of(policy, **settings), []
        batch = OBJECTIVE.weigh(packed(learner, groups_of(), OBJECTIVE))
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.nbytes) or t, lambda t: t):
            flat, _ = gradient(learner, batch, OBJECTIVE)
        found.append((flat, sum(kept)))
        assert policy.model.config._attn_implementation == "sdpa"
        assert not any(m.training for m in policy.model.modules())
    (flat, much), (same, little) = found
    assert float(flat.norm()) > 1e-3
    assert torch.equal(same, flat)
    assert little < 0.5 * much


def test_sampling_does_not_run_blocks_again():
    policy = tiny_policy()
    request = Request(Context((3, 4, 5)), (1, 2), Sampling(8))
    before = Native(policy).generate([request])
    blocks.recompute(policy.model)
    assert Native(policy).generate([request]) == before
