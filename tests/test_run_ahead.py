import json
import threading
from types import MappingProxyType

import chaos
import numpy as np
import pytest
import torch
from run_support import tiny_folder, tiny_run

from groupwise.core.plain import made, plain
from groupwise.core.rollout import Completion, Context, Episode, Group, Prompt, Rollout, Span, Turn, VersionSpan
from groupwise.core.verdict import Component, Verdict
from groupwise.errors import CheckpointError, ConfigError, TrainingError
from groupwise.objective.batch import pack
from groupwise.objective.terms import OLD, RECORDED, SELF
from groupwise.run.ahead import Ahead
from groupwise.run.assemble import assemble
from groupwise.run.disk import read_lines
from groupwise.run.loop import resume, train
from groupwise.run.stop import Stop, Stopped

STEPS = chaos.STEPS


def group(versions=(VersionSpan(0, 2, 1), VersionSpan(2, 3, 2)), logp=(-0.5, -0.1, -1.0)):
    prompt = Prompt("p", "1+1=", ["2", [3]], (5, 6), meta=MappingProxyType({"of": [1, 2]}), messages=({"role": "user"},))
    routes = np.arange(6, dtype=np.int16).reshape(3, 2)
    turn = Turn(Context((5, 6), "hinted"), Completion((7, 8, 9), logp, "length", versions, {"routes": routes}),
                (Span(0, 3, "policy"),), Context((5, 6)), "state", "abc")
    rollout = Rollout(Episode(prompt, (turn,)), Verdict(True, tier="exact"), (Component("correct", 0.1 + 0.2),))
    return Group("k", prompt, (rollout,), 2)


def test_groups_come_back_from_json_as_they_were():
    before = group()
    after = made(json.loads(json.dumps(plain(before))))
    routes = [g.rollouts[0].episode.turns[0].completion.extras["routes"] for g in (before, after)]
    assert routes[1].dtype == np.int16
    np.testing.assert_array_equal(*routes)
    assert after.prompt.answer == ["2", [3]]
    assert plain(after) == plain(before)
    with pytest.raises(CheckpointError, match="holds a 'Song' among its rollouts"):
        made({"_kind": "Song"})


def test_older_tokens_divide_by_what_the_engine_said():
    def tags(default, version, **changed):
        return pack([group(**changed)], default=default, version=version).behaviour.tolist()

    assert tags("self", 2) == [RECORDED, RECORDED, SELF]
    assert tags("old", 2) == [RECORDED, RECORDED, OLD]
    assert tags("self", 1) == [SELF] * 3
    assert tags("self", 9, versions=()) == [SELF] * 3  # of unknown version


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("ahead") / "model")


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    return train(tiny_run(model, steps=STEPS, max_staleness=1, eval_every=2, checkpoint_every=1, keep=9),
                 tmp_path_factory.mktemp("runs"))


def test_a_batch_is_of_the_step_before(model, finished, tmp_path):
    rows = read_lines(finished / "metrics.jsonl")
    assert [row["stale"] for row in rows] == [0.0, *[1.0] * (STEPS - 1)]
    assert "ess" in rows[1]
    assert "mismatch_mean" in rows[0]
    assert "mismatch_mean" not in rows[1]  # nothing was sampled at the weights that learn
    assert all(row["waited"] >= 0 for row in read_lines(finished / "timing.jsonl"))
    plain_run = train(tiny_run(model, steps=1), tmp_path)
    first = read_lines(plain_run / "metrics.jsonl")[0]
    same = {name: value for name, value in first.items() if name != "stale"}
    assert {name: rows[0][name] for name in same} == same


def test_the_engine_keeps_its_weights_until_they_are_loaded(model, tmp_path):
    """The second step by hand: groups of the first weights, for the second ones to learn from."""
    run = tiny_run(model, steps=3, max_staleness=1)
    job = assemble(run, tmp_path)
    with job.workers, job.grader:
        ahead = Ahead(job.sampler, steps=3, staleness=1)
        first = ahead.collect(ahead.draw(0), 0)
        ahead.settle()
        with torch.no_grad():
            for p in job.learner.parameters.values():
                p += 0.01
        old = {name: p.clone() for name, p in job.engine.policy.model.named_parameters()}
        job.engine.load(job.learner.weights(), version=1)
        assert any(bool((old[name] != p).any()) for name, p in job.engine.policy.model.named_parameters())
        second = ahead.collect(ahead.draw(1), 1)
        ahead.close()
        assert {s.version for g in first + second for r in g.own for t in r.episode.turns for s in t.completion.versions} == {0}
        batch = pack(second, default="self", version=1)
        assert set(batch.behaviour.tolist()) == {RECORDED}
        _, scored = job.learner.scored(batch, second, frozenset({"old"}))
        gap = (scored["old_logp"] - batch.columns["engine_logp"])[batch.counted]
        assert float(gap.abs().max()) > 1e-4  # the ratio is not 1


def test_it_is_the_same_every_time_and_after_a_stop(model, finished, tmp_path, monkeypatch):
    again = train(tiny_run(model, steps=STEPS, max_staleness=1, eval_every=2, checkpoint_every=1, keep=9), tmp_path / "again")
    assert chaos.differences(again, finished) == []
    for step in (1, STEPS - 1):  # as a kill after each checkpoint would leave it
        cut = train_cut(model, tmp_path / str(step), step, monkeypatch)
        resume(cut)
        assert chaos.differences(cut, finished) == []


def train_cut(model, root, step, monkeypatch):
    """A run that was asked to stop in a step."""
    asked = iter(range(STEPS))
    monkeypatch.setattr(Stop, "asked", property(lambda self: next(asked) + 1 >= step, lambda self, to: None), raising=False)
    with pytest.raises(Stopped):
        train(tiny_run(model, steps=STEPS, max_staleness=1, eval_every=2, checkpoint_every=1, keep=9), root)
    monkeypatch.undo()
    return root / "tiny"


def test_what_goes_wrong_in_the_thread_ends_the_run(model, tmp_path, monkeypatch):
    calls = iter(range(9))
    batch = Ahead._batch

    def fails(self, step):
        if next(calls) == 1:
            raise TrainingError("the engine is gone")
        return batch(self, step)

    monkeypatch.setattr(Ahead, "_batch", fails)
    with pytest.raises(TrainingError, match="the engine is gone"):
        train(tiny_run(model, steps=STEPS, max_staleness=1), tmp_path)
    assert not [t for t in threading.enumerate() if t.name.startswith("sampler")]


@pytest.mark.parametrize(("changes", "message"), [
    ({"max_staleness": 2}, "max_staleness=2: 0 .* or 1"),
    ({"max_staleness": 1, "workers": 2}, "max_staleness=1 and workers=2"),
])
def test_what_cannot_be_is_refused(model, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(tiny_run(model, **changes), tmp_path)
