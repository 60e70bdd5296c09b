import importlib.util
import json
import sys

import pytest
import torch
from learner_support import gradient, groups_of, learner_of, packed, relative
from run_support import tiny_policy
from torch import nn
from transformers import AutoModelForCausalLM

from groupwise.errors import ConfigError
from groupwise.learner import checkpoint
from groupwise.learner.settings import Models
from groupwise.methods import METHODS
from groupwise.models import adapter, bits, blocks
from groupwise.models.build import character_tokenizer, random_policy
from groupwise.models.load import load, policy_of, save
from groupwise.objective.batch import pack

THERE = importlib.util.find_spec("bitsandbytes") is not None
NEEDED = pytest.mark.skipif(not THERE, reason="needs bitsandbytes")
KINDS = ["int8", pytest.param("nf4", marks=NEEDED)]
OBJECTIVE = METHODS["dr_grpo"](max_tokens=8).objective
IDS = torch.randint(3, 28, (3, 9), generator=torch.Generator().manual_seed(0))


def policy(kind, seed=0, device="cpu", dtype=torch.float32, lora=True):
    """A policy with quantised layers, and adapters that have moved."""
    tokenizer = character_tokenizer()
    made = policy_of(random_policy(tokenizer, hidden=64, layers=2, mlp=128, seed=seed), tokenizer)
    made.model.to(dtype)
    if kind != "none":
        bits.quantise(made.model, kind, device)
    if lora:
        adapter.add(made.model, adapter.Lora(4))
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in adapter.trained(made.model).values():
                p.add_((0.02 * torch.randn(p.shape, generator=draw)).to(p.device))
    return made


@torch.no_grad()
def logp(model):
    return torch.log_softmax(model(input_ids=IDS.to(model.device), use_cache=False).logits.float(), -1).cpu()


@pytest.mark.parametrize(("kind", "near", "bytes_each"), [("int8", 0.007, 1.0), pytest.param("nf4", 0.11, 0.5, marks=NEEDED)])
def test_a_quantised_weight_is_near_and_small(kind, near, bytes_each):
    """The bounds are those of a normal weight: rows of 64 for int8, blocks of 64 for nf4."""
    whole, packed_up = policy("none", lora=False).model, policy(kind, lora=False).model
    for name, layer in blocks.linears(packed_up).items():
        weight = whole.get_submodule(name).weight
        assert layer.weight.shape == weight.shape
        assert 0.0 < relative(layer.weight, weight.detach()) < near
        assert layer.codes.nbytes == bytes_each * weight.numel()
        assert "weight" not in dict(layer.named_parameters())
        if kind == "int8":
            step = weight.abs().amax(1, keepdim=True) / 127
            assert bool(((layer.weight - weight).abs() <= 0.5001 * step).all())
    assert type(packed_up.lm_head) is nn.Linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_layer_is_the_layer_of_its_weight(kind, dtype):
    layer = policy(kind, lora=False, dtype=dtype).model.model.layers[0].self_attn.q_proj
    x = torch.randn(5, 64).to(dtype).requires_grad_()
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    slope = torch.randn_like(plain)
    (expected,) = torch.autograd.grad(plain, x, slope)
    out = layer(x)
    assert out.dtype == dtype
    torch.testing.assert_close(out, plain, atol=1e-2 if dtype == torch.bfloat16 else 1e-6, rtol=1e-2)
    assert torch.equal(torch.autograd.grad(out, x, slope)[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_of_a_quantised_policy_is_what_was_trained(kind, tmp_path):
    made = policy(kind)
    save(made, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    unquantised = logp(policy("none").model)
    torch.testing.assert_close(logp(plain), logp(made.model), atol=2e-5, rtol=0)
    assert float((logp(plain) - unquantised).abs().max()) > 1e-3  # not the base that was quantised


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_base_is_the_reference_and_only_adapters_move(kind):
    made, groups = policy(kind), groups_of()
    learner = learner_of(made, models=Models({"ref": made}))
    base = learner_of(policy(kind, lora=False))
    batch, old = pack(groups), frozenset({"old"})
    found = learner.logprobs(batch, groups, frozenset({"ref"}))["ref_logp"]
    assert torch.equal(found, base.logprobs(batch, groups, old)["old_logp"])
    before = {name: layer.codes.clone() for name, layer in blocks.linears(made.model).items() if hasattr(layer, "codes")}
    assert len(before) == 14
    flat, _ = gradient(learner, OBJECTIVE.weigh(packed(learner, groups, OBJECTIVE)), OBJECTIVE)
    assert float(flat.norm()) > 1e-3
    learner.gradients(OBJECTIVE.weigh(packed(learner, groups, OBJECTIVE)), OBJECTIVE)
    learner.apply()
    now = dict(blocks.linears(made.model))
    assert all(torch.equal(now[name].codes, codes) for name, codes in before.items())
    blocks.recompute(made.model)
    again, _ = gradient(learner_of(policy(kind)), OBJECTIVE.weigh(packed(learner_of(policy(kind)), groups, OBJECTIVE)), OBJECTIVE)
    assert torch.equal(again, flat)


def test_weights_that_are_quantised_already_are_refused(tmp_path):
    save(tiny_policy(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    with pytest.raises(ConfigError, match=r"quantised already \(gptq in config.json\).*--quantise"):
        load(tmp_path)


def test_without_bitsandbytes_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"pip install 'groupwise\[bitsandbytes\]'"):
        bits.library()


def critic(optimizer):
    return learner_of(policy("none", lora=False), needs=frozenset({"values"}), optimizer=optimizer, weight_decay=0.01)


def step(learner, seed):
    learner.gradients(OBJECTIVE.weigh(packed(learner, groups_of(seed), OBJECTIVE)), OBJECTIVE)
    learner.apply()


@NEEDED
def test_moments_in_8_bits_are_small_come_back_to_the_bit_and_lead_the_same_way(tmp_path):
    learner, plain = critic("adamw8bit"), critic("adamw")
    start = learner.snapshot()
    for seed in range(3):
        step(learner, seed)
        step(plain, seed)
    moved = [torch.cat([(p - start[name]).flatten() for name, p in one.parameters.items()]) for one in (learner, plain)]
    assert float(nn.functional.cosine_similarity(*moved, 0)) > 0.95
    large = {name for name, p in learner.parameters.items() if p.numel() >= 4096}
    held = {name: sum(x.nbytes for key, x in learner.optimizer.state[p].items() if key[-1] in "12" and "qmap" not in key)
            for name, p in learner.parameters.items() if name in large}
    assert len(held) > 8
    assert all(size < 0.27 * 8 * learner.parameters[name].numel() for name, size in held.items())
    counters = checkpoint.save(learner, tmp_path)
    again = learner_of(load(checkpoint.weights(tmp_path)), needs=frozenset({"values"}), optimizer="adamw8bit", weight_decay=0.01)
    checkpoint.load(again, tmp_path, counters)
    for seed in range(2):
        assert all(torch.equal(p, again.parameters[name]) for name, p in learner.parameters.items())
        step(learner, 7 + seed)
        step(again, 7 + seed)


@pytest.mark.gpu
@NEEDED
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_on_a_gpu_quantised_policies_are_those_of_a_processor(kind, tmp_path):
    here, there = policy(kind), policy(kind, device="cuda")
    torch.testing.assert_close(logp(there.model), logp(here.model), atol=1e-2, rtol=0)
    save(there, tmp_path)
    torch.testing.assert_close(logp(load(tmp_path, device="cuda").model), logp(there.model), atol=1e-3, rtol=0)
    learner = learner_of(there, optimizer="adamw8bit")
    groups = groups_of()
    batch = pack(groups, device="cuda")
    weighed = OBJECTIVE.weigh(batch.with_columns({}, OBJECTIVE.credit(groups, batch, {})))
    learner.gradients(weighed, OBJECTIVE)
    assert learner.apply()["grad_norm"] > 0.0
