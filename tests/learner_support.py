"""What the tests of the learner share: hand-made groups, a policy in double precision, a forward of one sequence at a time."""

from dataclasses import replace
from types import MethodType

import numpy as np
import torch
from run_support import tiny_policy

from groupwise.core.rollout import Completion, Context, Episode, Group, Prompt, Rollout, Span, Turn
from groupwise.core.verdict import Component, Verdict
from groupwise.learner.learner import Learner
from groupwise.learner.settings import Settings
from groupwise.objective.batch import pack

HINT = (5, 6, 7)


def groups_of(seed=0, groups=3, size=4, longest=9, policy=lambda group, i: "policy", special=None):
    """Groups of random tokens and rewards; `special` is a token put into the second rollout of the first group."""
    random = np.random.default_rng(seed)
    out = []
    for g in range(groups):
        prompt = Prompt(f"p{g}", "", 1, tokens=tuple(random.integers(3, 28, random.integers(2, 6)).tolist()))
        rollouts = []
        for i in range(size):
            tokens = random.integers(3, 28, random.integers(1, longest)).tolist()
            if special is not None and (g, i) == (0, 1):
                tokens[len(tokens) // 2] = special
                tokens.append(4)  # the special token must be read, not only predicted
            turn = Turn(Context(prompt.tokens), Completion(tuple(tokens), (-3.0,) * len(tokens)))
            reward = float(random.integers(0, 5)) / 4 if special is None or (g, i) != (0, 1) else 0.9
            episode = Episode(prompt, (turn,), policy=policy(g, i))
            rollouts.append(Rollout(episode, Verdict(reward > 0.5), (Component("r", reward),)))
        out.append(Group(f"g{g}", prompt, tuple(rollouts)))
    return out


def with_greedy(groups):
    """The groups with their last rollout as the greedy one, which is not trained on."""
    def aside(rollout):
        turns = tuple(replace(t, spans=(Span(0, len(t.completion.tokens), behaviour="none"),)) for t in rollout.episode.turns)
        return replace(rollout, episode=replace(rollout.episode, role="greedy", turns=turns))
    return [replace(g, rollouts=(*g.rollouts[:-1], aside(g.rollouts[-1]))) for g in groups]


def _exact_norm(self, x):
    return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def exact(policy):
    """The policy in double precision throughout: the library's norms would go through single precision."""
    policy.model.double()
    for module in policy.model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = MethodType(_exact_norm, module)
    return policy


def learner_of(policy=None, **settings):
    extra = {key: settings.pop(key) for key in ("needs", "models", "policy_id") if key in settings}
    return Learner(policy or tiny_policy(), Settings(**{"lr": 1e-3, **settings}), **extra)


def packed(learner, groups, objective, *, default="self", needs=None, shake=0.0):
    """The batch, scored, shaken (the policy moves on after scoring, so that ratios differ from 1) and credited; not weighed."""
    dtype = next(iter(learner.parameters.values())).dtype
    batch = pack(groups, default=default, dtype=dtype)
    needs = (objective.scored_before if needs is None else needs) | ({"old"} if default == "old" else set())
    needed = learner.logprobs(batch, groups, frozenset(needs))
    if shake:
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in learner.policy.model.parameters():
                parameter.add_(shake * torch.randn(parameter.shape, generator=draw))
    return batch.with_columns(needed, objective.credit(groups, batch, needed))


def gradient(learner, batch, objective):
    """The gradient as one vector (zeros where there is none), with the statistics; the gradients are cleared."""
    learner.discard()
    stats = learner.gradients(batch, objective)
    flat = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in learner.parameters.values()])
    learner.discard()
    return flat, stats


def autograd(learner, loss):
    """The gradient of a loss written down by hand, as one vector."""
    parameters = list(learner.parameters.values())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat([torch.zeros_like(p).flatten() if one is None else one.flatten()
                      for one, p in zip(found, parameters, strict=True)])


def logits_of(policy, context, tokens):
    """[tokens, vocabulary] the library's own logits, one sequence at a time, without padding."""
    ids = torch.tensor([[*context, *tokens]])
    return policy.model(input_ids=ids, use_cache=False).logits[0, len(context) - 1:-1]


def logp_of(policy, context, tokens, temperature=1.0):
    logp = torch.log_softmax(logits_of(policy, context, tokens) / temperature, -1)
    return logp.gather(-1, torch.tensor(tokens)[:, None])[:, 0]


def each(groups):
    """(group, rollout, context, tokens) of every rollout, in the batch's order."""
    for g, group in enumerate(groups):
        for rollout in group.rollouts:
            (turn,) = rollout.episode.turns
            yield g, rollout, turn.context.tokens, turn.completion.tokens


def relative(a, b):
    return float((a - b).norm() / b.norm())
