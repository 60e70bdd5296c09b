"""The vLLM engine with vLLM itself, on a processor: parity, weight sync and its silent faults, updates in flight, kills.

    make vllm                 (minutes: every engine is a process that loads vLLM)
"""

import importlib.util
import random
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from moe_support import moe
from run_support import tiny_run
from vllm_support import scorer

from groupwise.core.rollout import Context
from groupwise.core.services import Request, Sampling
from groupwise.engines.vllm import process
from groupwise.engines.vllm.client import VLLM, Opening
from groupwise.engines.vllm.proof import Disagreement
from groupwise.engines.vllm.settings import EngineSettings
from groupwise.errors import ConfigError
from groupwise.models.build import character_tokenizer, random_policy
from groupwise.models.load import load, policy_of, save
from groupwise.run import serving
from groupwise.run.disk import read_json, read_lines
from groupwise.run.loop import train

pytestmark = pytest.mark.vllm
TRAINED = Path(__file__).resolve().parent.parent / "groupwise" / "tasks" / "policies" / "reduce"
CONTEXTS = [(1, 5, 6, 7), (8, 9), (4, 4, 4, 4, 11, 12)]


def small(seed=0):
    """A random policy with tied embeddings."""
    tokenizer = character_tokenizer()
    return policy_of(random_policy(tokenizer, hidden=128, layers=2, heads=4, kv_heads=2, mlp=256, seed=seed), tokenizer)


def opened(policy, *, dtype="float32", temperature=1.0, length=96, memory=0.25, **more):
    """A vLLM engine on a policy."""
    own = EngineSettings()
    settings = {"dtype": dtype, "length": length, "rows": 32, "memory": memory, "stops": False, "text": "12+3", **more}
    opening = Opening(settings, CONTEXTS, Sampling(24, temperature), scorer(policy), narrow=False)
    python = process.python_of(own)
    return VLLM(policy, own, opening, lambda: process.Local(python, 1, own.engine_deadline, plain=True))


def requests(samples=4, **sampling):
    return [Request(Context(c), tuple(range(1000 * i, 1000 * i + samples)), Sampling(**{"max_tokens": 24} | sampling))
            for i, c in enumerate(CONTEXTS)]


@torch.no_grad()
def moved(policy, by):
    for i, weight in enumerate(policy.model.parameters()):
        weight.add_(by * torch.randn(weight.shape, generator=torch.Generator().manual_seed(i)))
    return dict(policy.model.state_dict())


def worst(policy, found, asked, temperature=1.0):
    """The largest difference between what sampling reported and the policy's own log-probs."""
    texts = [(r.context.tokens, one.tokens) for r, some in zip(asked, found, strict=True) for one in some]
    said = [one.logp for some in found for one in some]
    return max(abs(a - b) for ours, theirs in zip(scorer(policy)(texts, temperature), said, strict=True)
               for a, b in zip(ours, theirs, strict=True))


def test_float32_agrees_with_transformers_and_takes_over_weights():
    policy = small()
    engine = opened(policy, temperature=0.7)
    try:
        assert engine.clocks["sync_gap_max"] < 1e-5
        for sampling in ({}, {"temperature": 0.7}, {"temperature": 0.0}):
            asked = requests(**sampling)
            found = engine.generate(asked)
            assert worst(policy, found, asked, sampling.get("temperature") or 1.0) < 1e-5
            assert found == engine.generate(asked)
            for one in (one for some in found for one in some):
                assert (one.finish == "stop") == (one.tokens[-1] in policy.eos_ids)
        many = [Request(Context((5, 6, 7, 8) * 20), tuple(range(64)), Sampling(4))]  # more than a step reads at once by default
        assert worst(policy, engine.generate(many), many) < 1e-5
        alone = engine.generate(requests(samples=1, temperature=0.7))  # random numbers are a sample's own
        assert [some[0].tokens for some in alone] == [some[0].tokens for some in engine.generate(requests(temperature=0.7))]
        for version in (1, 2):
            engine.load(moved(policy, 0.02), version=version)
            assert engine.kept.restarts == 0
            assert engine.clocks["sync_gap_max"] < 1e-5
        asked = requests()
        found = engine.generate(asked)
        assert worst(policy, found, asked) < 1e-5
        assert {span.version for some in found for one in some for span in one.versions} == {2}
    finally:
        engine.close()


def test_weights_change_while_rows_are_made():
    policy = small(1)
    policy.eos_ids = (31,)
    engine = opened(policy, length=500, memory=0.5)
    engine.own = replace(engine.own, engine_window=3)
    try:
        ticket = engine.submit(requests(8, max_tokens=480))
        for version in (1, 2):
            engine.load(moved(policy, 0.005), version=version)
        found = [one for some in engine.collect(ticket) for one in some]
        assert max(len(one.versions) for one in found) >= 2
        assert {span.version for one in found for span in one.versions} >= {0, 2}
        late = engine.generate(requests())
        assert worst(policy, late, requests()) < 1e-5
    finally:
        engine.close()


def test_the_stale_head_of_tied_embeddings_is_caught_where_it_is_not_mended(caplog):
    policy = small(2)
    engine = opened(policy, repack=False)
    try:
        engine.load(moved(policy, 0.02), version=1)
        assert "after the sync to version 1, learner and engine give" in caplog.text
        assert not engine.in_place
        assert engine.kept.restarts == 1
        assert engine.clocks["sync_gap_max"] < 1e-5
    finally:
        engine.close()


def test_the_experts_that_a_reload_shuffles_are_caught_and_a_new_process_has_them_right(caplog):
    policy = moe(vocab_size=32, hidden_size=128, head_dim=32, moe_intermediate_size=64, intermediate_size=128)
    engine = opened(policy, reload="in_place")
    try:
        engine.load(moved(policy, 0.01), version=1)
        assert "after the sync to version 1, learner and engine give" in caplog.text
        assert engine.clocks["sync_gap_max"] < 1e-4
    finally:
        engine.close()
    engine = opened(policy)
    try:
        assert engine.facts["reload"] == "restart"
        engine.load(moved(policy, 0.01), version=2)
        assert engine.kept.restarts == 0
        assert engine.clocks["sync_gap_max"] < 1e-4
    finally:
        engine.close()


def test_no_room_for_the_cache_is_said():
    with pytest.raises(ConfigError, match=r"no room for its cache of keys and values: raise --engine-memory"):
        opened(load(TRAINED), length=500, memory=0.0002)


def test_another_model_is_no_match(tmp_path):
    policy, other = small(3), small(4)
    save(other, tmp_path)
    link = process.Local
    class Swapped(link):
        def give(self, folder, settings):
            return super().give(tmp_path, settings)
    process.Local = Swapped
    try:
        with pytest.raises(Disagreement, match="reports a mean log-prob"):
            opened(policy)
    finally:
        process.Local = link


def test_a_run_survives_kills_of_its_engine(tmp_path, monkeypatch):
    run = tiny_run(TRAINED, "calm", engine="vllm", steps=4, rewards=(), eval_every=2, eval_prompts=8)
    calm = train(run, tmp_path)
    links, made = [], serving.vllm_of

    def watched(*given):
        links.append(made(*given))
        return links[-1]

    stop, dice = threading.Event(), random.Random(0)

    def kills():
        """One kill for each version of the weights, at any moment while the engine has it."""
        while not stop.wait(dice.uniform(0.0, 0.3)):
            engine = links[-1] if links else None
            link = engine and engine.kept.link
            if link and engine.version not in hits:
                hits.append(engine.version)
                link.child.process.kill()

    hits = []
    monkeypatch.setattr("groupwise.run.assemble.vllm_of", watched)
    threading.Thread(target=kills, daemon=True).start()
    try:
        killed = train(replace(run, name="killed", serving=EngineSettings(engine_restarts=8)), tmp_path)
    finally:
        stop.set()
    rows = [read_lines(folder / "metrics.jsonl") for folder in (calm, killed)]
    assert hits
    assert links[-1].kept.restarts >= len(hits) - 1  # the last kill may come when nothing is asked any more
    assert [row["rollouts"] for row in rows[1]] == [16.0] * 4 == [row["rollouts"] for row in rows[0]]
    assert read_json(killed / "summary.json")["steps"] == 4
    assert [row["length"] for row in rows[1]] == pytest.approx([row["length"] for row in rows[0]], rel=0.2)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="this Python has no vLLM")
def test_vllm_inside_this_process_samples_as_it_does_in_its_own(tmp_path):
    run = tiny_run(TRAINED, "inside", engine="vllm", steps=2, rewards=(), eval_every=2, eval_prompts=8,
                   serving=EngineSettings(engine_inside=True))
    own = EngineSettings(engine_python=sys.executable, engine_threads=torch.get_num_threads())
    apart = replace(run, name="apart", serving=own)
    rows = [read_lines(train(one, tmp_path) / "metrics.jsonl") for one in (run, replace(run, name="again"), apart)]
    assert len(rows[0]) == 2
    assert rows[0] == rows[1] == rows[2]
