"""Recorded routes replayed in the learner, and the load balance over an optimiser step."""

import json
import shutil
import socket
import threading
from dataclasses import replace

import chaos
import numpy as np
import pytest
import torch
from learner_support import autograd, each, gradient, logp_of, packed, relative
from moe_support import groups_of, moe, plain, requests, shake
from run_support import tiny_folder, tiny_run

from groupwise.core.rollout import Context, Episode, Prompt, Rollout, Turn
from groupwise.core.services import Request, Sampling
from groupwise.core.verdict import Component, Verdict
from groupwise.engines.native import Native
from groupwise.errors import ConfigError
from groupwise.lab.cuts import Shares
from groupwise.learner.forward import lengths
from groupwise.learner.learner import Learner
from groupwise.learner.routes import laid_out
from groupwise.learner.settings import Models, Settings
from groupwise.methods import METHODS
from groupwise.methods.update import Minibatches
from groupwise.models.load import save
from groupwise.objective.batch import pack
from groupwise.run import shared
from groupwise.run.loop import resume, train

OLD = frozenset({"old"})


def learner_of(policy, models=None, **settings):
    return Learner(policy, Settings(**{"lr": 1e-3, **settings}), models=models)


def by_hand(policy, groups, replay):
    """Log-probs of every token from transformers' own forward of one sequence, with its recorded routes or with live ones."""
    found = []
    for _, rollout, context, tokens in each(groups):
        done = rollout.episode.turns[0].completion
        routes = np.concatenate([done.context_extras["experts"][1:], done.extras["experts"]])
        last = np.full_like(routes[:1], -1)  # the last token is read, and predicts nothing that counts
        with policy.routing.watch(torch.from_numpy(np.concatenate([routes, last])) if replay else None):
            found.append(logp_of(policy, context, tokens))
    return torch.cat(found)


@pytest.mark.parametrize("family", ["qwen3_moe", "qwen2_moe", "mixtral", "olmoe"])
@torch.no_grad()
def test_log_probs_are_those_of_transformers(family):
    policy = moe(family, "recorded")
    groups = groups_of(policy)
    batch = pack(groups)
    policy.routing.source = "live"
    live = learner_of(policy, micro_tokens=60).logprobs(batch, groups, OLD)["old_logp"]
    expected = by_hand(policy, groups, replay=False)
    assert float((live - expected).abs().max()) < 1e-5
    assert float((batch.columns["engine_logp"] - expected).abs().max()) < 1e-5
    policy.routing.source = "recorded"
    replayed = learner_of(policy, micro_tokens=60).logprobs(batch, groups, OLD)["old_logp"]
    assert float((replayed - live).abs().max()) < 1e-6


@torch.no_grad()
def test_recorded_routes_stay_when_the_weights_move():
    policy = moe(source="recorded")
    groups = groups_of(policy)
    shake(policy, 0.02)
    replayed, live = (learner_of(policy, micro_tokens=60).logprobs(pack(some), some, OLD)["old_logp"]
                      for some in (groups, plain(groups)))
    assert float((replayed - by_hand(policy, groups, replay=True)).abs().max()) < 1e-5
    assert float((live - by_hand(policy, groups, replay=False)).abs().max()) < 1e-5
    assert float((replayed - live).abs().max()) > 1e-3


@pytest.mark.parametrize("source", ["recorded", "old"])
def test_every_minibatch_of_a_batch_is_routed_as_before_the_update(source):
    policy = moe(source=source)
    groups, learner = groups_of(policy), learner_of(policy, micro_tokens=60)
    batch, needed = learner.scored(pack(groups, default="old"), groups, OLD)
    objective = METHODS["grpo"](kl=0.0).objective
    batch = batch.with_columns(needed, objective.credit(groups, batch, needed))
    if source == "old":
        policy.routing.source = "recorded"  # what the engine would have recorded of these tokens
        recorded = laid_out(pack(again := groups_of(policy)), lengths(batch))
        policy.routing.source = "old"
        assert plain(again) == groups
        assert torch.equal(laid_out(batch, lengths(batch)), recorded)
    parts = list(Minibatches(3).split(batch, 0))
    first = learner.gradients(objective.weigh(parts[0]), objective)
    assert first["routing_changed"] == 0.0
    assert first["ratio_max"] == pytest.approx(1.0, abs=1e-5)
    learner.discard()
    shake(policy, 0.02)
    later = learner.gradients(objective.weigh(parts[1]), objective)
    assert 0.0 < later["routing_changed"] < 0.5
    policy.routing.source = "live"
    free = learner.gradients(objective.weigh(parts[1]), objective)
    assert "routing_changed" not in free
    assert free["ratio_mean"] != pytest.approx(later["ratio_mean"], abs=1e-4)


@torch.no_grad()
def test_text_between_turns_is_routed_as_the_next_prefill_was_or_freely():
    policy = moe(source="recorded", seed=3)
    engine, first = Native(policy), (5, 9, 14, 7)
    ((one,),) = engine.generate(requests(1, contexts=[first]))
    second = (*first, *one.tokens, 20, 21, 8)
    ((two,),) = engine.generate([Request(Context(second), (11,), Sampling(9))])
    bare = replace(two, context_extras={})
    free = slice(len(second) - 4, len(second) - 1)  # the positions that predict 20, 21 and 8
    for done, missing in ((two, False), (bare, True)):
        episode = Episode(Prompt("p", "", 1, tokens=first), (Turn(Context(first), one), Turn(Context(second), done)))
        group = replace(groups_of(policy)[0], rollouts=(Rollout(episode, Verdict(True)),))
        batch = pack([group])
        routes = laid_out(batch, lengths(batch))
        ids = torch.tensor([[*second, *two.tokens[:-1]]])
        with policy.routing.watch() as seen:
            policy.model(input_ids=ids)
        expected = seen.experts()
        assert routes.shape == expected.shape
        if missing:
            assert bool((routes[free] == -1).all())
            expected[free] = -1
        assert torch.equal(routes.sort(-1).values, expected.sort(-1).values)
        with policy.routing.watch(routes) as again:
            policy.model(input_ids=ids)
        assert torch.equal(again.experts().sort(-1).values, seen.experts().sort(-1).values)


@torch.no_grad()
def test_rollouts_without_routes_are_routed_freely_beside_those_with():
    policy = moe(source="recorded")
    groups = groups_of(policy)
    shake(policy, 0.02)
    mixed = [groups[0], *plain(groups[1:])]
    found = learner_of(policy).logprobs(pack(mixed), mixed, OLD)["old_logp"]
    n = sum(len(tokens) for _, _, _, tokens in each(groups[:1]))
    assert float((found[:n] - by_hand(policy, groups, replay=True)[:n]).abs().max()) < 1e-5
    assert float((found[n:] - by_hand(policy, groups, replay=False)[n:]).abs().max()) < 1e-5


@torch.no_grad()
def test_another_context_and_another_model_are_routed_freely():
    policy = moe(source="recorded")
    groups = groups_of(policy)
    shake(policy, 0.02)
    models = Models({"ref": policy, "policy": policy}, {"hinted": lambda r, g: Context((4, *g.prompt.tokens))})
    learner = learner_of(policy, models)
    moved = [replace(g, prompt=replace(g.prompt, tokens=(4, *g.prompt.tokens))) for g in groups]
    found = learner.logprobs(pack(groups), groups, frozenset({"teacher:policy/hinted"}))["teacher:policy/hinted"]
    expected = torch.cat([logp_of(policy, moved[g].prompt.tokens, tokens) for g, _, _, tokens in each(groups)])
    assert float((found - expected).abs().max()) < 1e-5


def theirs(policy, groups, coefficient, objective, batch):
    """The loss by hand: the policy term of one plain forward a sequence, and transformers' balance over one masked batch."""
    rows = [(*context, *tokens[:-1]) for _, _, context, tokens in each(groups)]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, :len(row)], mask[i, :len(row)] = torch.tensor(row), 1
    aux = policy.model(input_ids=ids, attention_mask=mask, output_router_logits=True).aux_loss
    logp = torch.cat([logp_of(policy, context, tokens) for _, _, context, tokens in each(groups)])
    weight = batch.weights["policy"].values[batch.ids("token", batch.weights["policy"].unit)]
    return -(weight * batch.column("advantage") * logp).sum() + coefficient * aux, float(aux.detach())


@pytest.mark.parametrize("name", ["rloo", "kl_cov"])
def test_the_balance_is_that_of_the_whole_step_on_any_split(name):
    objective, found = METHODS[name]().objective, []
    first, *others = groups_of(moe())
    flat = tuple(replace(r, components=(Component("r", 1.0),)) for r in first.rollouts)  # no advantage, yet in the balance
    groups = [replace(first, rollouts=flat), *others]
    assert (objective.reach == "step") == (name == "kl_cov")
    for micro_tokens, hands in ((1, 1), (60, 1), (10_000, 1), (60, 2)):
        policy = moe()
        learner = learner_of(policy, micro_tokens=micro_tokens, router_aux=0.3)
        learner.team = Shares(hands)
        batch = objective.weigh(packed(learner, groups, objective))
        vector, stats = gradient(learner, batch, objective)
        found.append((vector, stats["router_balance"]))
        assert stats["idle_share"] == 0.0
    assert max(relative(vector, found[0][0]) for vector, _ in found) < 1e-5
    if name == "rloo":
        loss, aux = theirs(policy, groups, 0.3, objective, batch)
        assert relative(found[0][0], autograd(learner, loss)) < 1e-5
        assert [x for _, x in found] == pytest.approx([aux] * 4, rel=1e-5)
    vector, stats = gradient(learner_of(moe()), batch, objective)
    assert relative(vector, found[0][0]) > 1e-2
    assert stats["idle_share"] == (pytest.approx(1 / 3) if name == "rloo" else 0.0)


class Sent(Shares):
    """Tasks and outcomes go through a socket, as to and from another process."""

    def run(self, tasks, own):
        return [self.passed(own(self.passed(task.alone()))) for task in tasks if task.parts]

    def passed(self, thing):
        here, there = socket.socketpair()
        with here, there:
            sender = threading.Thread(target=shared.send, args=(here, thing))
            sender.start()
            received = shared.receive(there)
            sender.join()
        return received


def test_routes_and_loads_survive_the_way_to_another_process():
    objective, found = METHODS["gspo"]().objective, []
    for team in (Shares(1), Sent(2)):
        policy = moe(source="old")
        groups, learner = groups_of(policy), learner_of(policy, micro_tokens=60, router_aux=0.3)
        learner.team = team
        batch, needed = learner.scored(pack(groups, default="old"), groups, OLD)
        batch = batch.with_columns(needed, objective.credit(groups, batch, needed))
        shake(policy, 0.02)
        found.append((laid_out(batch, lengths(batch)), *gradient(learner, objective.weigh(batch), objective)))
    (routes, vector, stats), (their_routes, their_vector, their_stats) = found
    assert torch.equal(routes, their_routes)
    assert relative(their_vector, vector) < 1e-5
    assert their_stats == pytest.approx(stats, rel=1e-4, abs=1e-6)
    assert stats["routing_changed"] > 0.0


def mixture(folder):
    save(moe(), folder)
    return folder


def test_a_run_with_recorded_routes_and_balance_resumes_bit_for_bit(tmp_path):
    run = tiny_run(mixture(tmp_path / "model"), method="gspo", routing="recorded", router_aux=0.01, steps=chaos.STEPS,
                   checkpoint_every=2)
    whole = train(run, tmp_path / "whole")
    broken = shutil.copytree(whole, tmp_path / "broken" / whole.name)
    state = broken / chaos.LAST / "state.json"
    state.write_bytes(state.read_bytes()[:-3])
    resume(broken)
    assert chaos.differences(broken, whole) == []
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "router_balance" in row]
    assert len(steps) == chaos.STEPS
    assert all(row["mismatch_max"] < 1e-4 and 2.0 <= row["router_balance"] < 8.0 for row in steps)
    assert steps[0]["routing_changed"] == 0.0


@pytest.mark.slow
def test_two_processes_share_a_mixture(tmp_path):
    run = tiny_run(mixture(tmp_path / "model"), "two", routing="recorded", router_aux=0.01, steps=1, workers=2)
    one, two = (train(replace(run, name=name, learner=replace(run.learner, workers=n)), tmp_path)
                for name, n in (("one", 1), ("two", 2)))
    first, second = (json.loads((folder / "metrics.jsonl").read_text().splitlines()[0]) for folder in (one, two))
    for name in ("reward", "grad_norm", "router_balance", "router_load_max", "routing_changed", "mismatch_mean"):
        assert second[name] == pytest.approx(first[name], rel=1e-3, abs=1e-6)


def test_what_is_asked_of_a_model_without_experts_is_refused(tmp_path):
    model = tiny_folder(tmp_path / "model")
    for asked, said in (({"routing": "recorded"}, "routing=recorded cannot be: Qwen2ForCausalLM is no mixture of experts"),
                        ({"router_aux": 0.1}, "router_aux=0.1 cannot be")):
        with pytest.raises(ConfigError, match=said):
            train(tiny_run(model, **asked), tmp_path)
    with pytest.raises(ConfigError, match="router_aux must be at least 0"):
        tiny_run(model, router_aux=-1.0)


def test_old_routes_need_old_log_probs_and_several_steps(tmp_path, capsys):
    model = mixture(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"routing=old .* the method 'dppo' takes none"):
        train(tiny_run(model, method="dppo", routing="old", updates_per_batch=2), tmp_path)
    train(tiny_run(model, "once", routing="old", steps=1), tmp_path)
    assert "routing=old changes nothing here" in " ".join(capsys.readouterr().out.split())
    folder = train(tiny_run(model, "several", method="gspo", routing="old", updates_per_batch=2, steps=1), tmp_path)
    row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert 0.0 < row["routing_changed"] < 0.2  # none in the first of two optimiser steps, some in the second
