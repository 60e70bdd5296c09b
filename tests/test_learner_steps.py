import math

import pytest
import torch
from learner_support import HINT, each, exact, gradient, groups_of, learner_of, logp_of, packed
from run_support import tiny_policy

from groupwise.core.rollout import Context
from groupwise.errors import CheckpointError, ObjectiveError, TrainingError
from groupwise.learner import checkpoint
from groupwise.learner.settings import Models, Settings
from groupwise.methods import METHODS
from groupwise.models.load import load
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.batch import pack
from groupwise.objective.objective import Objective
from groupwise.objective.returns import Gae
from groupwise.objective.terms import Policy, ValueLoss

OBJECTIVE = METHODS["dr_grpo"](max_tokens=8).objective
CRITIC = Objective(Gae(), (Policy(aggregate=TokenMean()), ValueLoss()))


def a_step(learner, groups=None, objective=OBJECTIVE):
    batch = objective.weigh(packed(learner, groups or groups_of(), objective))
    return learner.gradients(batch, objective) | learner.apply()


def hinted(rollout, group):
    """The hint after the prompt, for rewards above a half."""
    return Context((*group.prompt.tokens, *HINT), "hinted") if rollout.reward > 0.5 else None


def test_logprobs_under_every_context():
    groups, policy, ref, judge = groups_of(), tiny_policy(0), tiny_policy(1), tiny_policy(2)
    learner = learner_of(policy, temperature=0.7, micro_tokens=60, needs=frozenset({"values"}),
                         models=Models({"ref": ref, "judge": judge}, {"hint": hinted}))
    needs = {"old", "ref", "values", "entropy", "sum_p2", "teacher:judge", "teacher:judge/plain", "teacher:policy/hint"}
    found = learner.logprobs(pack(groups), groups, frozenset(needs))
    assert set(found) == {"old_logp", "ref_logp", "values", "entropy", "sum_p2", "teacher:judge", "teacher:judge/plain",
                          "teacher:policy/hint"}
    assert torch.equal(found["values"], torch.zeros_like(found["values"]))  # the head starts at zero
    assert torch.equal(found["teacher:judge"], found["teacher:judge/plain"])
    at, unhinted = 0, 0
    for g, rollout, context, tokens in each(groups):
        here = slice(at, at := at + len(tokens))
        for name, model in (("old_logp", policy), ("ref_logp", ref), ("teacher:judge", judge)):
            assert torch.allclose(found[name][here], logp_of(model, context, tokens, 0.7), atol=1e-5)
        other = hinted(rollout, groups[g])
        if other is None:
            unhinted += 1
            assert bool(found["teacher:policy/hint"][here].isnan().all())
        else:
            assert torch.allclose(found["teacher:policy/hint"][here], logp_of(policy, other.tokens, tokens, 0.7), atol=1e-5)
    assert 0 < unhinted < 12


@pytest.mark.parametrize(("need", "words"), [
    ("oldd", "did you mean 'old'"), ("ref", "'ref' that was not loaded"), ("teacher:judge", "'judge' that was not loaded"),
    ("teacher:policy/hintt", "did you mean 'hint'")])
def test_what_cannot_be_scored_is_named(need, words):
    groups, learner = groups_of(), learner_of(models=Models({}, {"hint": hinted}))
    with pytest.raises(ObjectiveError, match=words):
        learner.logprobs(pack(groups), groups, frozenset({need}))


def test_an_empty_context_is_refused():
    (group, *_) = groups_of()
    empty = pack([group])
    with pytest.raises(ObjectiveError, match="empty context"):
        learner_of().logprobs(type(empty)(**{**vars(empty), "contexts": ((),) * 4}), [group], frozenset({"old"}))


def spoil(learner):
    """A gradient with one number that is not one."""
    learner.gradients(OBJECTIVE.weigh(packed(learner, groups_of(), OBJECTIVE)), OBJECTIVE)
    next(iter(learner.parameters.values())).grad.view(-1)[0] = math.nan


def test_a_non_finite_gradient_skips_its_step_and_three_in_a_row_stop():
    learner = learner_of()
    a_step(learner)
    before = learner.snapshot()
    for count in (1, 2):
        spoil(learner)
        stats = learner.apply()
        assert stats["skipped_steps"] == count
        assert math.isnan(stats["grad_norm"])
    assert all(torch.equal(p, before[name]) for name, p in learner.parameters.items())
    assert a_step(learner)["skipped_steps"] == 2  # a good step between: the count in a row starts anew
    for _ in range(2):
        spoil(learner)
        learner.apply()
    spoil(learner)
    with pytest.raises(TrainingError, match="3 optimiser steps in a row"):
        learner.apply()
    assert (learner.steps, learner.bad_steps) == (6, 5)


@pytest.mark.parametrize("limit", [0.0, 1e-4, 1e6])
def test_gradients_are_clipped_to_their_norm(limit, monkeypatch):
    learner, seen = learner_of(grad_clip=limit), []
    monkeypatch.setattr(learner.optimizer, "step", lambda: seen.append(
        torch.cat([p.grad.flatten() for p in learner.parameters.values() if p.grad is not None]).norm()))
    norm = a_step(learner)["grad_norm"]
    assert norm > 1e-3
    assert float(seen[0]) == pytest.approx(min(norm, limit or norm), rel=1e-3)
    assert all(p.grad is None for p in learner.parameters.values())


def test_schedules():
    constant = Settings(lr=1.0, warmup_steps=2, total_steps=10)
    assert [constant.rate(s) for s in (0, 1, 2, 9)] == [0.5, 1.0, 1.0, 1.0]
    linear = Settings(lr=1.0, schedule="linear", warmup_steps=2, total_steps=12)
    assert [linear.rate(s) for s in (0, 2, 7, 12, 20)] == [0.5, 1.0, 0.5, 0.0, 0.0]
    cosine = Settings(lr=2.0, schedule="cosine", total_steps=8)
    assert [cosine.rate(s) for s in (0, 4, 8)] == pytest.approx([2.0, 1.0, 0.0])
    learner = learner_of(lr=1e-3, schedule="linear", total_steps=4)
    assert [a_step(learner)["lr"] for _ in range(4)] == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])


def test_a_snapshot_brings_the_weights_back():
    learner = learner_of(needs=frozenset({"values"}))
    before = learner.snapshot()
    for _ in range(2):  # in the first the value head, which starts at zero, moves; in both the rest
        a_step(learner, objective=CRITIC)
    moved = learner.snapshot()
    assert all(not torch.equal(moved[name], before[name]) for name in ("value_head.linear.weight", "model.norm.weight"))
    learner.restore(before)
    assert all(torch.equal(p, before[name]) for name, p in learner.parameters.items())
    assert not torch.equal(moved["model.norm.weight"], learner.parameters["model.norm.weight"])


def test_discarded_gradients_leave_no_trace():
    learner, other = learner_of(), learner_of()
    learner.gradients(OBJECTIVE.weigh(packed(learner, groups_of(5), OBJECTIVE)), OBJECTIVE)
    learner.discard()
    a_step(learner)
    a_step(other)
    assert all(torch.equal(p, other.parameters[name]) for name, p in learner.parameters.items())


def test_a_checkpoint_brings_everything_back_to_the_bit(tmp_path):
    critic = frozenset({"values"})
    learner = learner_of(needs=critic)
    for seed in range(2):
        a_step(learner, groups_of(seed), CRITIC)
    counters = checkpoint.save(learner, tmp_path)
    again = learner_of(load(tmp_path / checkpoint.MODEL), needs=critic)
    checkpoint.load(again, tmp_path, counters)
    for step in range(2):
        for name, parameter in learner.parameters.items():
            assert torch.equal(parameter, again.parameters[name]), name
            state, other = learner.optimizer.state[parameter], again.optimizer.state[again.parameters[name]]
            assert state.keys() == other.keys() == {"step", "exp_avg", "exp_avg_sq"}
            assert all(torch.equal(state[key], other[key]) for key in state), name
        assert (again.steps, again.bad_steps, again.bad_in_a_row) == (2 + step, 0, 0)
        a_step(learner, groups_of(9), CRITIC)
        a_step(again, groups_of(9), CRITIC)


def test_a_checkpoint_of_another_method_is_refused(tmp_path):
    learner = learner_of(needs=frozenset({"values"}))
    a_step(learner, objective=CRITIC)
    counters = checkpoint.save(learner, tmp_path)
    with pytest.raises(CheckpointError, match="another model or method"):
        checkpoint.load(learner_of(), tmp_path, counters)


def test_metrics_count_tokens_and_mismatch():
    learner, groups = learner_of(exact(tiny_policy())), groups_of()
    batch = packed(learner, groups, OBJECTIVE, default="old")
    _, stats = gradient(learner, OBJECTIVE.weigh(batch), OBJECTIVE)
    acting = [(context, tokens) for g, r, context, tokens in each(groups) if r.reward != groups[g].rewards.mean()]
    gap = torch.cat([logp_of(learner.policy, *one) for one in acting]).detach() + 3.0  # the engine said -3 everywhere
    assert stats["tokens_trained"] == len(gap)
    assert stats["mismatch_mean"] == pytest.approx(float(gap.abs().mean()))
    assert stats["mismatch_max"] == pytest.approx(float(gap.abs().max()))
    assert stats["kl_behaviour_k3"] == pytest.approx(0.0, abs=1e-12)
    assert stats["ess"] == pytest.approx(1.0)
