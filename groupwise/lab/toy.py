"""A small fixed batch on which an objective can be watched: two groups, thirteen tokens, ratios off 1.

Its numbers are written out here; what an objective makes of them comes from the very functions that training calls.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groupwise.core.rollout import Completion, Component, Context, Episode, Group, Prompt, Rollout, Turn, Verdict
from groupwise.errors import ObjectiveError
from groupwise.methods.method import Method
from groupwise.objective.batch import Batch, pack
from groupwise.objective.objective import Objective
from groupwise.objective.ratio import Ratio
from groupwise.objective.terms import Live, Policy
from groupwise.objective.trust import Trust

LENGTH_LIMIT = 64
"""Tokens: what methods that ask for the longest completion are given, unless --args says otherwise."""

RATIOS = (((1.0, 1.25, 1.5), (0.9, 0.7, 1.3, 3.5), (0.8, 1.25), (1.0,)), ((1.1,), (0.6, 1.05)))
"""pi / pi_old per group, completion and token: on both sides of the usual bands, one far above; one completion's product is 1."""
REWARDS = ((1.0, 0.0, 0.5, 0.0), (1.0, 0.0))
CUT = (0, 1)
"""The completion that ran into the limit."""
MISMATCH = (1.0, 1.02, 0.97, 1.0, 2.6, 0.98, 1.0, 1.01, 0.99, 0.4, 1.0, 1.03, 0.96)
"""pi_old / mu_eng: the learner over the engine that sampled, per token."""
REFERENCE = (0.0, 0.1, -0.3, 0.2, -0.1, 0.05, -0.6, 0.0, 0.15, -0.05, 0.1, 0.3, -0.2)
"""log pi_ref - log pi_old, per token."""


@dataclass(frozen=True)
class Token:
    """One row of the worked table; `gradient` is d loss / d log-prob, `by_term` its summands. None: the objective has none."""

    group: int
    completion: int
    token: int
    reward: float
    advantage: float | None
    ratio: float | None
    stopped: bool
    correction: float
    weight: float
    gradient: float
    by_term: Mapping[str, float]


@dataclass(frozen=True)
class Worked:
    """The table, the loss, and what else is to be said; `other` are the largest gradients to what is not a log-prob."""

    rows: tuple[Token, ...]
    loss: float
    notes: tuple[str, ...] = ()
    other: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Scene:
    """The toy batch scored, credited and weighed for one objective, and its live forward."""

    groups: tuple[Group, ...]
    batch: Batch
    live: Live


def groups() -> tuple[Group, ...]:
    """The two groups, rewarded."""
    mismatch, out = iter(MISMATCH), []
    for g, (ratios, rewards) in enumerate(zip(RATIOS, REWARDS, strict=True)):
        prompt, rollouts = Prompt(f"p{g + 1}", "", None), []
        for i, (row, reward) in enumerate(zip(ratios, rewards, strict=True)):
            engine = tuple(_old(t) - math.log(next(mismatch)) for t in range(len(row)))
            turn = Turn(Context((1,)), Completion(tuple(range(2, 2 + len(row))), engine, "length" if (g, i) == CUT else "stop"))
            rollouts.append(Rollout(Episode(prompt, (turn,)), Verdict(reward == 1.0), (Component("reward", reward),)))
        out.append(Group(f"g{g + 1}", prompt, tuple(rollouts)))
    return tuple(out)


def scene(method: Method) -> Scene:
    """The batch that training would make of the toy groups, in float64, as at a later optimiser step of a rollout batch."""
    made = groups()
    for shape in method.shape:
        made = tuple(shape(group) for group in made)
    batch, state = pack(made, default="old", dtype=torch.float64), method.state()
    state.observe(made)
    old = torch.tensor([_old(t) for row in _rows() for t in range(len(row))], dtype=torch.float64)
    count = torch.arange(len(old), dtype=torch.float64)
    needed = {"old_logp": old, "ref_logp": old + torch.tensor(REFERENCE, dtype=torch.float64), "values": 0.2 + 0.05 * count,
              "entropy": 0.5 + 0.1 * count, "sum_p2": 1 / (2 + 0.5 * count)}
    needed |= {name: old + 0.1 * torch.cos(count) for name in method.needs if name.startswith("teacher:")}
    batch = batch.with_columns(needed, method.objective.credit(made, batch, needed, state))
    logp = old + torch.tensor([math.log(ratio) for row in _rows() for ratio in row], dtype=torch.float64)
    live = Live(logp=logp, entropy=needed["entropy"], sum_p2=needed["sum_p2"], values=needed["values"] + 0.3 * torch.cos(count),
                hidden=torch.outer(torch.sin(count), torch.ones(4, dtype=torch.float64)))
    return Scene(made, method.objective.weigh(batch), live)


def work(method: Method) -> Worked:
    """The worked table. Raises what the objective raises on this batch."""
    stage = scene(method)
    objective, batch = method.objective, stage.batch
    leaves = {name: x.clone().requires_grad_() for name, x in vars(stage.live).items() if x is not None}
    live = Live(**leaves)
    loss = objective.loss(live, batch)
    loss.value.backward()  # type: ignore[no-untyped-call]
    parts = {term.name: gradient(objective, batch, stage.live, term.name) for term in objective.terms}
    watched = next((seen for seen in loss.seen if isinstance(seen.term, Policy)), loss.seen[0])
    advantage = _advantage(batch, watched.term.credit if isinstance(watched.term, Policy) else "advantage")
    weight = batch.weights[watched.term.name]
    weights = weight.values[batch.ids("token", weight.unit)]
    rows, place, reward = [], _places(), [r.reward for g in stage.groups for r in g.rollouts]
    for t, (g, i, k) in enumerate(place):
        episode = int(batch.layout.ids("token", "episode")[t])
        rows.append(Token(
            group=g + 1, completion=i + 1, token=k + 1, reward=float(reward[episode] or 0.0),
            advantage=None if advantage is None else float(advantage[t]),
            ratio=None if watched.ratio is None else float(watched.ratio[t]),
            stopped=watched.stopped is not None and bool(watched.stopped[t]),
            correction=float(loss.correction[t]), weight=float(weights[t]),
            gradient=float(live.logp.grad[t]) if live.logp.grad is not None else 0.0,
            by_term={name: float(x[t]) for name, x in parts.items()}))
    other = {name: float(x.grad.abs().max()) for name, x in leaves.items()
             if name != "logp" and x.grad is not None and bool((x.grad != 0).any())}
    return Worked(tuple(rows), float(loss.value.detach()), _notes(method, stage), other)


def gradient(objective: Objective, batch: Batch, live: Live, term: str = "") -> Tensor:
    """[t] d loss / d log-prob of all terms, or of one: the others weigh nothing then."""
    kept = {name: w if term in ("", name) else replace(w, values=torch.zeros_like(w.values)) for name, w in batch.weights.items()}
    logp = live.logp.clone().requires_grad_()
    value = objective.loss(replace(live, logp=logp), replace(batch, weights=kept)).value
    if not value.requires_grad:
        return torch.zeros_like(logp)
    found = torch.autograd.grad(value, logp, allow_unused=True)[0]
    return torch.zeros_like(logp) if found is None else found


def through_ratio(trust: Trust) -> bool:
    """Whether a trust rule's gradient goes through the ratio (not through the log-prob alone, as in REINFORCE)."""
    ratio, logp = (torch.tensor([x, x], dtype=torch.float64).requires_grad_() for x in (1.0, -1.0))
    value = trust(ratio, torch.tensor([1.0, -1.0], dtype=torch.float64), logp)
    return torch.autograd.grad(value.sum(), (ratio, logp), allow_unused=True)[0] is not None


def is_local(ratio: Ratio) -> bool:
    """Whether a token's ratio has a gradient at no other token."""
    batch = pack(groups(), default="old", dtype=torch.float64)
    log_ratio = torch.zeros(len(batch.tokens), dtype=torch.float64).requires_grad_()
    value = ratio(log_ratio, batch.loss_mask, batch)
    found = torch.autograd.grad(value[0], log_ratio)[0]
    return not bool((found[1:] != 0).any())


def _advantage(batch: Batch, name: str) -> Tensor | None:
    try:
        return batch.column(name)
    except ObjectiveError:
        return None


def _notes(method: Method, stage: Scene) -> tuple[str, ...]:
    """What the table alone does not say: refusals, masks."""
    reasons = [(g, reason) for g, group in enumerate(groups()) for reason in [rule(group) for rule in method.admit]]
    refused = [f"group {g + 1} would not be admitted: {reason}" for g, reason in reasons if reason is not None]
    masked = [f"group {g + 1}, completion {i + 1} is masked" for g, group in enumerate(stage.groups)
              for i, rollout in enumerate(group.rollouts) if rollout.masked]
    return (*refused, *masked)


def _rows() -> list[tuple[float, ...]]:
    return [row for group in RATIOS for row in group]


def _places() -> list[tuple[int, int, int]]:
    return [(g, i, t) for g, group in enumerate(RATIOS) for i, row in enumerate(group) for t in range(len(row))]


def _old(t: int) -> float:
    return -1.6 - 0.2 * t


def vector(worked: Worked) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[t] the gradients of a table."""
    return np.array([row.gradient for row in worked.rows], dtype=np.float64)
