import gc

import numpy as np
import pytest
import torch
from kernels_support import library, model_of
from learner_support import gradient, groups_of, packed, relative, with_greedy
from test_learner_gradients import CASES, LONGEST

from groupwise.errors import ObjectiveError
from groupwise.kernels.library import Compiled
from groupwise.learner.learner import Learner
from groupwise.learner.settings import Models, Settings
from groupwise.methods import METHODS
from groupwise.models.build import character_tokenizer
from groupwise.models.head import Want
from groupwise.models.load import policy_of
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.penalties import Entropy
from groupwise.objective.returns import Gae
from groupwise.objective.terms import Policy, ValueLoss


def learner_of(kernels, seed=0, needs=frozenset(), **settings):
    """A learner of the same random policy, by kernels or modules."""
    compile = (lambda model: Compiled(model, library(), narrow=False, threads=2, chunk_rows=40)) if kernels else None
    policy, ref = (policy_of(model_of("qwen2", seed=s), character_tokenizer()) for s in (seed, seed + 1))
    return Learner(policy, Settings(lr=1e-3, **settings), needs=needs, models=Models({"ref": ref}), compile=compile)


def both(objective, default="old", needs=frozenset(), groups=None, **settings):
    """Gradients and statistics of one batch by kernels and by modules, the policy moved a little since it was scored."""
    out = []
    for kernels in (True, False):
        learner = learner_of(kernels, needs=needs, **settings)
        batch = packed(learner, groups or groups_of(), objective, default=default, shake=0.0)
        with torch.no_grad():
            draw = torch.Generator().manual_seed(1)
            for parameter in learner.policy.model.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=draw))
        learner.scorer.refresh()
        out.append(gradient(learner, objective.weigh(batch), objective))
    return out


def assert_same(found, expected):
    assert relative(found[0], expected[0]) < 2e-5
    assert found[1] == pytest.approx(expected[1], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_has_the_gradient_of_the_modules(name):
    method = METHODS[name](**CASES.get(name, {"max_tokens": LONGEST} if name == "dapo" else {}))
    groups = with_greedy(groups_of()) if method.intervene else groups_of()
    assert_same(*both(method.objective, needs=method.needs, groups=groups, micro_tokens=60, temperature=0.8))


def test_losses_that_reach_across_micro_batches():
    objective = Objective(credit_by=Advantage(), terms=(Policy(aggregate=TokenMean(), reach="step"), Entropy(coef=0.1)))
    assert_same(*both(objective, micro_tokens=30))


def test_a_critic_learns_from_the_hidden_states():
    objective = Objective(credit_by=Gae(), terms=(Policy(aggregate=TokenMean()), ValueLoss(coef=0.5)))
    kernels, modules = both(objective, default="old", needs=frozenset({"values"}), micro_tokens=60)
    assert_same(kernels, modules)
    assert kernels[0][-1] != 0  # the bias of the value head


def test_micro_batches_do_not_matter():
    objective = METHODS["gspo"](clip_low=0.02, clip_high=0.02).objective
    found = []
    for micro_tokens in (1, 30, 10_000):
        learner = learner_of(True, micro_tokens=micro_tokens)
        batch = packed(learner, groups_of(), objective, default="old")
        found.append(gradient(learner, objective.weigh(batch), objective)[0])
    assert relative(found[1], found[0]) < 1e-5
    assert relative(found[2], found[0]) < 1e-5


def test_a_plan_counts_a_shared_context_once():
    learner = learner_of(True)
    batch = packed(learner, groups_of(2, groups=2, size=4), METHODS["dr_grpo"](max_tokens=LONGEST).objective)
    sizes = np.bincount(batch.layout.ids("token", "sequence")) - 1
    one_group = len(batch.contexts[0]) + int(sizes[:4].sum())
    parts = learner.scorer.plan(batch, range(8), one_group)
    assert parts[0].tolist() == [0, 1, 2, 3]
    assert sorted(np.concatenate(parts).tolist()) == list(range(8))
    assert [len(part) for part in learner.scorer.plan(batch, range(8), 1)] == [1] * 8


def test_a_broken_sequence_is_dropped():
    objective = METHODS["dr_grpo"](max_tokens=LONGEST).objective
    learner = learner_of(True)
    with torch.no_grad():
        learner.policy.model.get_input_embeddings().weight[30] = torch.nan  # only the special token reads this row ...
    model = learner.policy.model
    model.lm_head.weight = torch.nn.Parameter(torch.nan_to_num(model.lm_head.weight.detach().clone()))  # ... the head does not
    model.config.tie_word_embeddings = False
    learner = Learner(learner.policy, Settings(lr=1e-3), compile=lambda m: Compiled(m, library(), narrow=False))
    batch = packed(learner, groups_of(special=30), objective)
    flat, stats = gradient(learner, objective.weigh(batch), objective)
    assert stats["dropped_sequences"] == 1
    assert torch.isfinite(flat).all()
    assert flat.abs().sum() > 0


def test_what_a_forward_keeps_is_given_back():
    learner = learner_of(True)
    dropped = []
    drop = learner.scorer.compiled.drop
    learner.scorer.compiled.drop = lambda ticket: (dropped.append(ticket), drop(ticket))
    batch = packed(learner, groups_of(), METHODS["dr_grpo"](max_tokens=LONGEST).objective)
    live = learner.scorer(batch, Want(entropy=True))
    live.logp.sum().backward(retain_graph=True)
    assert len(dropped) == 1
    with pytest.raises(ObjectiveError, match="taken already"):
        live.logp.sum().backward()
    live = learner.scorer(batch, Want())
    del live
    gc.collect()
    assert len(dropped) == 2


def test_a_step_moves_what_the_kernels_read():
    objective = METHODS["dr_grpo"](max_tokens=LONGEST).objective
    learner = learner_of(True)
    batch = packed(learner, groups_of(), objective)
    before = learner.logprobs(batch, groups_of(), frozenset({"old"}))["old_logp"]
    start = learner.snapshot()
    learner.gradients(objective.weigh(batch), objective)
    learner.apply()
    after = learner.logprobs(batch, groups_of(), frozenset({"old"}))["old_logp"]
    assert not torch.equal(before, after)
    learner.restore(start)
    assert torch.equal(before, learner.logprobs(batch, groups_of(), frozenset({"old"}))["old_logp"])
