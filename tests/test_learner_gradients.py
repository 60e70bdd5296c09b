from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from learner_support import autograd, each, exact, gradient, groups_of, learner_of, logits_of, logp_of, packed, relative
from run_support import tiny_policy

from groupwise.learner import forward
from groupwise.learner.settings import Models
from groupwise.methods import METHODS
from groupwise.methods.update import Minibatches
from groupwise.objective import levels
from groupwise.objective.aggregate import TokenMean, UnitMean
from groupwise.objective.baselines import GroupMean
from groupwise.objective.batch import pack
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.penalties import Entropy
from groupwise.objective.returns import Gae
from groupwise.objective.terms import Policy, Term, ValueLoss

LONGEST = 8
CASES = {"grpo": {"kl": 0.3}, "dr_grpo": {"max_tokens": LONGEST}, "gspo": {"clip_low": 0.02, "clip_high": 0.02}}


def naive_loss(name, policy, ref, groups, old):
    """The paper's equation, from one forward per sequence; `old` holds the log-probs before the update, per rollout."""
    rewards = [np.array([r.reward for r in g.rollouts]) for g in groups]
    n, total, at = sum(len(r) for r in rewards), 0.0, [0] * len(groups)
    for (g, _, context, tokens), before in zip(each(groups), old, strict=True):
        r, i = rewards[g], at[g]
        at[g] += 1
        advantage = r[i] - r.mean()
        if name != "dr_grpo":
            advantage = 0.0 if np.ptp(r) == 0 else advantage / (r.std(ddof=1) + 1e-6)
        logp = logp_of(policy, context, tokens)
        ratio, eps = (logp - before).exp(), 0.2
        if name == "gspo":
            ratio, eps = (logp - before).mean().exp().expand(len(tokens)), 0.02
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - eps, 1 + eps) * advantage)
        if name == "grpo":
            u = logp_of(ref, context, tokens).detach() - logp
            gain = gain - 0.3 * (u.exp() - u - 1)
        total = total - gain.sum() / (n * (LONGEST if name == "dr_grpo" else len(tokens)))
    return total


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_one_plain_forward_per_sequence(name, double):
    groups, ready = groups_of(), exact if double else lambda p: p
    policy, ref = ready(tiny_policy(0)), ready(tiny_policy(1))
    method = METHODS[name](**CASES[name])
    learner = learner_of(policy, models=Models({"ref": ref}), micro_tokens=40)
    with torch.no_grad():
        old = [logp_of(policy, context, tokens) for _, _, context, tokens in each(groups)]
    batch = packed(learner, groups, method.objective, default="old", shake=0.01)
    found, stats = gradient(learner, method.objective.weigh(batch), method.objective)
    assert stats["clip_high"] + stats["clip_low"] > 0  # the shaken policy lies beyond the trust region somewhere
    expected = autograd(learner, naive_loss(name, policy, ref, groups, old))
    assert relative(found, expected) < (1e-10 if double else 1e-5)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", [*CASES, "dapo", "cispo", "gspo_token", "rloo", "reinforce"])
def test_gradients_do_not_depend_on_micro_batches(name, double):
    groups, ready = groups_of(3), exact if double else lambda p: p
    arguments = CASES.get(name, {"max_tokens": LONGEST} if name == "dapo" else {})
    objective = METHODS[name](**arguments).objective
    found = []
    for micro_tokens in (1, 30, 10_000):
        learner = learner_of(ready(tiny_policy()), micro_tokens=micro_tokens, models=Models({"ref": ready(tiny_policy(1))}))
        batch = packed(learner, groups, objective, default="old", shake=0.003)
        found.append(gradient(learner, objective.weigh(batch), objective)[0])
    assert float(found[0].norm()) > 1e-4
    assert max(relative(a, found[-1]) for a in found[:-1]) < (1e-12 if double else 1e-6)


@dataclass(frozen=True, kw_only=True)
class Listwise(Term):
    """-sum_i softmax(A)_i log softmax(log pi)_i over the siblings of a group: no sequence can be had alone."""

    name: str = "listwise"
    unit: str = "group"
    aggregate: UnitMean = field(default_factory=UnitMean)
    reach: str = "group"

    def losses(self, live, batch, mask, correction):
        of, size = batch.ids("token", "episode"), batch.layout.size("episode")
        total = levels.reduce(live.logp, of, size, "sum", mask=mask)
        kept = levels.reduce(mask.to(live.logp.dtype), of, size, "sum") > 0
        group, groups = batch.ids("episode", "group"), batch.layout.groups
        out = []
        for g in range(groups):
            mine = (group == g) & kept
            target = torch.softmax(batch.at("advantage", "episode")[mine], 0)
            out.append(-(target * torch.log_softmax(total[mine], 0)).sum())
        return torch.stack(out)


def naive_listwise(policy, groups, skip=()):
    total, place = 0.0, 0
    for group in groups:
        rewards = torch.tensor([r.reward for r in group.rollouts], dtype=torch.float64)
        sums, kept = [], []
        for i, (_, _, context, tokens) in enumerate(each([group])):
            if place not in skip:
                sums.append(logp_of(policy, context, tokens).sum())
                kept.append(i)
            place += 1
        target = torch.softmax((rewards - rewards.mean())[kept], 0)
        total = total - (target * torch.log_softmax(torch.stack(sums), 0)).sum() / len(groups)
    return total


def test_a_loss_over_siblings_is_exact_on_any_split():
    groups, objective = groups_of(5), Objective(Advantage(baseline=GroupMean()), (Listwise(),))
    for micro_tokens in (1, 10_000):
        learner = learner_of(exact(tiny_policy()), micro_tokens=micro_tokens)
        batch = objective.weigh(packed(learner, groups, objective))
        found, stats = gradient(learner, batch, objective)
        assert relative(found, autograd(learner, naive_listwise(learner.policy, groups))) < 1e-12
        assert stats["loss"] == pytest.approx(float(naive_listwise(learner.policy, groups).detach()), rel=1e-12)


def test_two_passes_carry_the_gradient_of_an_entropy_term_too():
    groups = groups_of(6)
    objective = Objective(Advantage(baseline=GroupMean()), (Listwise(), Entropy(coef=0.7, aggregate=TokenMean())))
    learner = learner_of(exact(tiny_policy()), micro_tokens=1)
    found, _ = gradient(learner, objective.weigh(packed(learner, groups, objective)), objective)
    tokens = sum(len(t) for *_, t in each(groups))
    entropy = 0.0
    for _, _, context, completion in each(groups):
        logp = torch.log_softmax(logits_of(learner.policy, context, completion), -1)
        entropy = entropy - (logp.exp() * logp).sum() / tokens
    expected = autograd(learner, naive_listwise(learner.policy, groups) - 0.7 * entropy)
    assert relative(found, expected) < 1e-12


def test_each_optimiser_step_of_a_batch_has_weights_of_its_own():
    groups, method = groups_of(1, groups=5), METHODS["dapo"](max_tokens=LONGEST, overlong_cache=0)
    learner, update = learner_of(lr=3e-3), Minibatches(2)
    batch = packed(learner, groups, method.objective, default="old")
    ratios, tokens = [], []
    for part in update.split(batch, 7):
        weighed = method.objective.weigh(part)
        assert float(weighed.weights["policy"].values.double().sum()) == pytest.approx(1.0, abs=1e-6)
        stats = update.step(learner, weighed, method.objective)
        ratios.append(stats["ratio_max"])
        tokens.append(int(part.counted.sum()))
    assert tokens[0] != tokens[1]
    assert ratios[0] == pytest.approx(1.0, abs=1e-5)
    assert abs(ratios[1] - 1.0) > 1e-3
    assert learner.steps == 2


def test_the_prepass_is_the_live_logp_before_the_first_step():
    groups, learner = groups_of(2), learner_of(micro_tokens=50)
    batch = packed(learner, groups, METHODS["grpo"](kl=0.0).objective, default="old")
    expected = torch.cat([logp_of(learner.policy, context, tokens) for _, _, context, tokens in each(groups)]).detach()
    assert torch.allclose(batch.columns["old_logp"], expected, atol=1e-5)


def test_idle_sequences_need_no_forward(monkeypatch):
    groups = groups_of(4)
    flat = tuple(replace(r, components=groups[1].rollouts[0].components) for r in groups[1].rollouts)
    groups[1] = replace(groups[1], rollouts=flat)  # all rewards equal
    objective = METHODS["dr_grpo"](max_tokens=LONGEST).objective
    learner = learner_of(exact(tiny_policy()))
    batch = objective.weigh(packed(learner, groups, objective, default="old", shake=0.01))
    found, stats = gradient(learner, batch, objective)
    assert stats["idle_share"] >= 4 / 12
    monkeypatch.setattr(Objective, "idle", lambda self, batch: np.zeros(batch.layout.size("sequence"), dtype=np.bool_))
    everything, stats = gradient(learner, batch, objective)
    assert stats["idle_share"] == 0.0
    assert relative(found, everything) < 1e-12


def poison(policy, token, value=float("inf")):
    """From now on, reading this token breaks the hidden states of its sequence (and of no other)."""
    def broken(module, inputs, output):
        return output.masked_fill((inputs[0] == token)[..., None], value)
    return policy.model.get_input_embeddings().register_forward_hook(broken)


@pytest.mark.parametrize("micro_tokens", [1, 10_000])
@pytest.mark.parametrize("name", ["dr_grpo", "gspo"])
def test_a_sequence_with_a_broken_logp_is_dropped_and_counted(name, micro_tokens):
    groups, objective = groups_of(8, special=28), METHODS[name](**CASES[name]).objective
    learner = learner_of(exact(tiny_policy()), micro_tokens=micro_tokens)
    batch = objective.weigh(packed(learner, groups, objective))
    expected, _ = gradient(learner, batch.take([0, *range(2, 12)]), objective)  # with the weights of the whole step
    poison(learner.policy, 28)
    found, stats = gradient(learner, batch, objective)
    assert stats["dropped_sequences"] == 1.0
    assert np.isfinite(stats["loss"])
    assert relative(found, expected) < 1e-12


@pytest.mark.parametrize("micro_tokens", [1, 10_000])
def test_a_broken_sequence_leaves_its_siblings_their_loss(micro_tokens):
    groups, objective = groups_of(8, special=28), Objective(Advantage(baseline=GroupMean()), (Listwise(),))
    learner = learner_of(exact(tiny_policy()), micro_tokens=micro_tokens)
    batch = objective.weigh(packed(learner, groups, objective))
    expected = autograd(learner, naive_listwise(learner.policy, groups, skip={1}))
    poison(learner.policy, 28)
    found, stats = gradient(learner, batch, objective)
    assert stats["dropped_sequences"] == 1.0
    assert relative(found, expected) < 1e-12


def test_a_batch_of_broken_sequences_has_no_gradient():
    groups, objective = groups_of(8), METHODS["dr_grpo"](max_tokens=LONGEST).objective
    learner = learner_of()
    batch = objective.weigh(packed(learner, groups, objective))
    learner.policy.model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output * float("nan"))
    before = learner.snapshot()
    stats = learner.gradients(batch, objective) | learner.apply()
    assert stats["dropped_sequences"] == 12.0 - 12.0 * stats["idle_share"]
    assert stats["grad_norm"] == 0.0
    assert all(torch.equal(p, before[name]) for name, p in learner.parameters.items())


def test_half_precision_gives_nearly_the_same_gradient():
    groups, objective, found = groups_of(9), METHODS["grpo"](kl=0.0).objective, []
    for precision in (torch.float32, torch.bfloat16):
        learner = learner_of(precision=precision)
        batch = objective.weigh(packed(learner, groups, objective, default="old"))
        assert batch.columns["old_logp"].dtype == torch.float32
        found.append(gradient(learner, batch, objective)[0])
    assert float(torch.cosine_similarity(found[0], found[1], dim=0)) > 0.99
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize(("precision", "longest", "expected"), [
    (torch.bfloat16, 512, "eager"), (torch.bfloat16, 8, "sdpa"), (torch.float32, 512, "sdpa")])
def test_attention_is_written_out_for_short_rows_in_half_precision(precision, longest, expected, monkeypatch):
    monkeypatch.setattr(forward, "EAGER", longest)
    learner, seen = learner_of(precision=precision), set()
    model = learner.policy.model
    model.get_input_embeddings().register_forward_hook(lambda *_: seen.add(model.config._attn_implementation))
    learner.logprobs(pack(groups_of(2)), [], frozenset({"old"}))
    assert seen == {expected}
    assert model.config._attn_implementation == "sdpa"


def test_a_value_head_learns_the_returns():
    groups = groups_of(10)
    objective = Objective(Gae(gamma=1.0, lam=1.0), (Policy(aggregate=TokenMean()), ValueLoss(coef=1.0, clip=None)))
    learner = learner_of(needs=frozenset({"values"}), lr=3e-3)
    errors = []
    for _ in range(25):
        batch = packed(learner, groups, objective)
        rewards = torch.from_numpy(batch.credit["returns"].values).float()
        errors.append(float((batch.columns["values"] - rewards)[batch.counted].pow(2).mean()))
        learner.gradients(objective.weigh(batch), objective)
        learner.apply()
    assert errors[-1] < 0.5 * errors[0]


def test_values_get_the_gradient_of_the_value_loss_alone():
    groups = groups_of(10)
    objective = Objective(Gae(), (Policy(aggregate=TokenMean()), ValueLoss(coef=0.5, clip=None)))
    learner = learner_of(exact(tiny_policy()), needs=frozenset({"values"}))
    batch = objective.weigh(packed(learner, groups, objective))
    learner.gradients(batch, objective)
    # The head starts at zero, so V = 0 and the bias's gradient is coef times the mean of (0 - R).
    rewards = torch.cat([torch.full((len(tokens),), rollout.reward) for _, rollout, _, tokens in each(groups)])
    assert float(learner.parameters["value_head.linear.bias"].grad) == pytest.approx(-0.5 * float(rewards.mean()), rel=1e-5)


def test_a_learner_trains_on_its_own_episodes_only():
    groups = groups_of(11, policy=lambda g, i: "critic" if i == 3 else "policy")
    objective = METHODS["dr_grpo"](max_tokens=LONGEST).objective
    learner = learner_of(exact(tiny_policy()))
    batch = packed(learner, groups, objective)
    own = batch.written_by(learner.policy_id)
    assert own.layout.size("sequence") == 9
    assert own.policy == ("policy",) * 9
    found, _ = gradient(learner, objective.weigh(own), objective)
    loss = 0.0
    for _, rollout, context, tokens in each(groups):
        if rollout.episode.policy == "policy":
            rewards = next(g for g in groups if rollout in g.rollouts).rewards  # the critic's reward is in the baseline
            loss = loss - (rollout.reward - rewards.mean()) * logp_of(learner.policy, context, tokens).sum() / (9 * LONGEST)
    assert relative(found, autograd(learner, loss)) < 1e-10
    assert batch.written_by("critic").layout.size("sequence") == 3
