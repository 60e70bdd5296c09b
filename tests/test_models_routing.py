"""Routers found, watched and directed; routes recorded while sampling."""

import numpy as np
import pytest
import torch
from moe_support import CONTEXTS, FAMILIES, SHAPE, TOKENIZER, moe, requests, shake
from run_support import tiny_policy
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM

from groupwise.engines.graphs import Graphs
from groupwise.engines.native import Native
from groupwise.models import routing
from groupwise.models.build import random_policy

IDS = torch.randint(3, 28, (3, 9), generator=torch.Generator().manual_seed(0))


def by_hand(policy, ids):
    """[n, layers, k] the experts that transformers' own router logits lead to, and the logits [n, experts] of each layer."""
    logits = policy.model(input_ids=ids, output_router_logits=True).router_logits
    return torch.stack([torch.topk(x, policy.routing.k, -1).indices for x in logits], 1), logits


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_routes_are_those_of_the_routers_and_replaying_them_changes_nothing(family):
    policy = moe(family)
    before = policy.model(input_ids=IDS).logits
    with policy.routing.watch() as seen:
        policy.model(input_ids=IDS)
    expected, _ = by_hand(policy, IDS)
    assert torch.equal(seen.experts().long().sort(-1).values, expected.sort(-1).values)
    assert len(seen.experts().unique()) > 4
    with policy.routing.watch(seen.experts()) as again:
        replayed = policy.model(input_ids=IDS).logits
    assert torch.equal(replayed, before)
    assert torch.equal(again.experts(), seen.experts())
    assert again.tally().metrics()["routing_changed"] == 0.0


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_choice_stays_when_the_weights_move(family):
    policy = moe(family)
    with policy.routing.watch() as old:
        policy.model(input_ids=IDS)
    shake(policy, 0.02)
    live = policy.model(input_ids=IDS).logits
    with policy.routing.watch(old.experts()) as kept:
        replayed = policy.model(input_ids=IDS).logits
    assert torch.equal(kept.experts(), old.experts())
    assert 0.0 < kept.tally().metrics()["routing_changed"] < 0.5
    assert float((replayed - live).abs().max()) > 1e-3
    with policy.routing.watch(torch.full_like(old.experts(), -1)) as free:
        assert torch.equal(policy.model(input_ids=IDS).logits, live)
    assert not torch.equal(free.experts(), old.experts())


@pytest.mark.parametrize("normalised", [True, False])
def test_weights_of_a_replayed_choice_are_the_softmax_of_live_logits_and_reach_the_router(normalised):
    policy = moe(norm_topk_prob=normalised, num_hidden_layers=1)
    router, x = policy.model.model.layers[0].mlp.gate, torch.randn(5, 32)
    told = torch.tensor([[0, 7], [3, 1], [5, 2], [6, 4], [1, 0]])
    with policy.routing.watch(told[:, None].to(torch.int16)):
        logits, weights, chosen = router(x)
    assert torch.equal(chosen, told)
    assert torch.equal(logits, x @ router.weight.T)
    mine = torch.exp(logits).gather(-1, told)
    expected = mine / (mine.sum(-1, keepdim=True) if normalised else torch.exp(logits).sum(-1, keepdim=True))
    torch.testing.assert_close(weights, expected)
    up = torch.randn(5, 2)
    (mine,) = torch.autograd.grad((weights * up).sum(), router.weight, retain_graph=True)
    (theirs,) = torch.autograd.grad((expected * up).sum(), router.weight)
    torch.testing.assert_close(mine, theirs)
    assert float(mine.norm()) > 0.0


@pytest.mark.parametrize("engine", [Native, Graphs])
@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_the_engine_records_the_experts_of_every_position(engine, family):
    policy = moe(family, "recorded")
    asked = requests(6, max_tokens=20)
    lengths = set()
    for context, group in zip(CONTEXTS, engine(policy).generate(asked), strict=True):
        for done in group:
            expected, _ = by_hand(policy, torch.tensor([context + done.tokens]))
            before, own = done.context_extras["experts"], done.extras["experts"]
            assert before.dtype == own.dtype == np.int16
            assert (before[0] == -1).all()
            found = np.concatenate([before[1:], own])
            assert np.array_equal(np.sort(found), np.sort(expected[:-1].numpy()))
            lengths.add(len(done.tokens))
    assert len(lengths) > 3
    assert group[0].context_extras["experts"] is group[1].context_extras["experts"]


def test_recording_changes_nothing_else():
    recorded, plain = (Native(moe(source=source)).generate(requests()) for source in ("recorded", "live"))
    for mine, theirs in zip(recorded, plain, strict=True):
        assert [(d.tokens, d.logp) for d in mine] == [(d.tokens, d.logp) for d in theirs]
        assert all("experts" in d.extras for d in mine)
        assert not any(d.extras or d.context_extras for d in theirs)


@pytest.mark.parametrize("reentrant", [True, False])
def test_layers_computed_again_in_the_backward_are_routed_alike(reentrant):
    policy = moe()
    shaken = moe()
    shake(shaken)
    with shaken.routing.watch() as other:
        shaken.model(input_ids=IDS)
    forced, gradients = other.experts(), []
    for again in (False, True):
        policy.model.zero_grad()
        layers = policy.model.model.layers
        before = [layer.forward for layer in layers]
        if again:
            for layer in layers:
                layer.forward = lambda x, f=layer.forward, **rest: checkpoint(
                    lambda y: f(y, **rest), x, use_reentrant=reentrant)
        with policy.routing.watch(forced) as seen:
            hidden = policy.model.model(inputs_embeds=policy.model.model.embed_tokens(IDS), use_cache=False).last_hidden_state
        policy.routing.hold(hidden, forced)
        assert torch.equal(seen.experts(), forced)
        hidden.square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None})
        for layer, forward in zip(layers, before, strict=True):
            layer.forward = forward
        with policy.routing.watch() as free:
            policy.model(input_ids=IDS)
        assert not torch.equal(free.experts(), forced)  # nothing is left behind
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_balance_is_that_of_transformers_over_the_positions_that_count(family):
    policy = moe(family)
    mask = torch.ones_like(IDS)
    mask[0, 4:] = mask[2, 7:] = 0
    with policy.routing.watch() as seen:
        theirs = policy.model(input_ids=IDS, attention_mask=mask, output_router_logits=True).aux_loss
    seen.kept = mask.flatten().bool()
    tally = seen.tally()
    assert tally.balance == pytest.approx(float(theirs), rel=1e-5)
    assert float(seen.mass(torch.from_numpy(tally.slopes).float())) == pytest.approx(float(theirs), rel=1e-5)
    chosen, logits = by_hand(policy, IDS)
    counts = [np.bincount(chosen[seen.kept][:, layer].flatten(), minlength=8) for layer in range(len(logits))]
    p = torch.stack([torch.softmax(x[seen.kept], -1) for x in logits])
    assert tally.metrics() == pytest.approx({
        "router_load_max": max(row.max() / row.mean() for row in counts), "router_idle": np.mean([row == 0 for row in counts]),
        "router_entropy": float(-(p * p.log()).sum(-1).mean()), "router_balance": float(theirs)}, rel=1e-5)


@pytest.mark.parametrize(("family", "extra", "why"), [
    ("qwen2", {}, "is no mixture of experts"),
    ("llama4_text", {"num_local_experts": 8}, "no router module that answers"),
    ("phimoe", {"num_local_experts": 8, "num_experts_per_tok": 2}, "do not choose by torch.topk"),
])
def test_what_cannot_be_replayed_is_said(family, extra, why):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SHAPE, **extra), dtype=torch.float32).eval()
    assert why in routing.find(model)


def test_a_dense_policy_and_the_shipped_random_mixture():
    assert "no mixture" in routing.find(tiny_policy().model)
    found = routing.find(random_policy(TOKENIZER, family="qwen3_moe", hidden=32, layers=2, mlp=48))
    assert (found.layers, found.experts, found.k) == (2, 4, 2)
