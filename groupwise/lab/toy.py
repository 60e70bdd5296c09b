"""A small fixed batch on which an objective can be watched: two groups, thirteen tokens, ratios off 1.

Its numbers are written out here; what an objective makes of them comes from the very functions that training calls.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groupwise.core.rollout import BEHAVIOURS, Behaviour, Completion, Context, Episode, Group, Prompt, Rollout, Span, Turn
from groupwise.core.services import Plan
from groupwise.core.verdict import Component, Verdict
from groupwise.errors import ObjectiveError
from groupwise.methods.method import Method
from groupwise.objective.aggregate import live_units
from groupwise.objective.batch import Batch, Column, pack
from groupwise.objective.credit import Reward
from groupwise.objective.objective import Objective, Seen
from groupwise.objective.ratio import Ratio
from groupwise.objective.terms import Live, Policy, Term
from groupwise.objective.trust import Trust
from groupwise.sampling.intervention import Intervention

LENGTH_LIMIT = 64
"""Tokens: what methods that ask for the longest completion are given, unless --args says otherwise."""

RATIOS = (((1.0, 1.25, 1.5), (0.9, 0.7, 1.3, 3.5), (0.8, 1.25), (1.0,)), ((1.1,), (0.6, 1.05)))
"""pi / pi_old per group, completion and token: on both sides of the usual bands, one far above; one completion's product is 1."""
NONE = BEHAVIOURS.index("none")
ASIDE = 0.5
"""The reward of an answer made for the credit of others."""
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
    gated: bool
    correction: float
    weight: float
    gradient: float
    by_term: Mapping[str, float]

    @property
    def fate(self) -> str:
        """Who took the gradient away: the trust rule (stopped), a gate (gated), or nobody (empty)."""
        return "stopped" if self.stopped else "gated" if self.gated else ""


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


def groups(interventions: Sequence[Intervention] = (), components: Sequence[str] = ()) -> tuple[Group, ...]:
    """The two groups, rewarded, and what interventions add to them for the credit of others: one token, not trained on.

    The reward is the component `reward`; any other names are given components that do not count towards it.
    """
    mismatch, out = iter(MISMATCH), []
    for g, (ratios, rewards) in enumerate(zip(RATIOS, REWARDS, strict=True)):
        prompt, key, rollouts = Prompt(f"p{g + 1}", "", None), f"g{g + 1}", []
        for i, (row, reward) in enumerate(zip(ratios, rewards, strict=True)):
            engine = tuple(_old(t) - math.log(next(mismatch)) for t in range(len(row)))
            turn = Turn(Context((1,)), Completion(tuple(range(2, 2 + len(row))), engine, "length" if (g, i) == CUT else "stop"))
            others = [Component(name, (i + n) % 2 / (n + 1), weight=0.0) for n, name in enumerate(components) if name != "reward"]
            rollouts.append(Rollout(Episode(prompt, (turn,)), Verdict(reward == 1.0), (Component("reward", reward), *others)))
        plans = [Plan(prompt, len(rewards), visit=g, group=key)]
        for one in interventions:
            plans = one.before(plans)
        for plan in (plan for plan in plans if not plan.trained):
            turn = Turn(Context((1,)), Completion((2,), (_old(0),)), (Span(0, 1, behaviour="none"),))
            rollouts.append(Rollout(Episode(prompt, (turn,), role=plan.role), Verdict(False), (Component("reward", ASIDE),)))
        out.append(Group(key, prompt, tuple(rollouts)))
    return tuple(out)


def named_rewards(part: Any) -> list[str]:
    """The names of the reward components that a credit, or a part of it, asks for."""
    if isinstance(part, tuple | list):
        return [name for one in part for name in named_rewards(one)]
    if not is_dataclass(part) or isinstance(part, type):
        return []
    inside = [name for f in fields(part) for name in named_rewards(getattr(part, f.name))]
    return [*inside, *([part.component] if isinstance(part, Reward) and part.component else [])]


def scene(method: Method) -> Scene:
    """The batch that training would make of the toy groups, in float64, as at a later optimiser step of a rollout batch."""
    made = groups(method.intervene, named_rewards(method.objective.credit_by))
    for shape in method.shape:
        made = tuple(shape(group) for group in made)
    default: Behaviour = "old" if method.divides_by == "self" else method.divides_by
    batch, state = pack(made, default=default, dtype=torch.float64), method.state()
    state.observe(made)
    old, ratio, reference, count = _columns(batch)
    needed = {"old_logp": old, "ref_logp": old + reference, "values": 0.2 + 0.05 * count, "entropy": 0.5 + 0.1 * count,
              "sum_p2": 1 / (2 + 0.5 * count)}
    needed |= {name: old + 0.1 * torch.cos(count) for name in method.needs if name.startswith("teacher:")}
    batch = batch.with_columns(needed, method.objective.credit(made, batch, needed, state))
    own = live_units(batch, "sequence", batch.counted)[batch.ids("token", "sequence")]  # not what is made for others' credit
    batch, old, ratio, count = batch.written_by("policy"), old[own], ratio[own], count[own]
    needed = {name: x[own] for name, x in needed.items()}
    if method.objective.depends_on_microbatches:  # a micro-batch for each group
        batch = batch.with_parts([np.flatnonzero(batch.layout.ids("sequence", "group") == g) for g in range(len(made))])
    live = Live(logp=old + ratio.log(), entropy=needed["entropy"], sum_p2=needed["sum_p2"],
                values=needed["values"] + 0.3 * torch.cos(count),
                hidden=torch.outer(torch.sin(count), torch.ones(4, dtype=torch.float64)))
    return Scene(made, method.objective.weigh(batch, factors=state.coefficients()), live)


def work(method: Method) -> Worked:
    """The worked table. Raises what the objective raises on this batch."""
    stage = scene(method)
    objective, batch = method.objective, stage.batch
    leaves = {name: x.clone().requires_grad_() for name, x in vars(stage.live).items() if x is not None}
    loss = objective.loss(Live(**leaves), batch)
    loss.value.backward()  # type: ignore[no-untyped-call]
    parts = {term.name: gradient(objective, batch, stage.live, term.name) for term in objective.terms}
    watched = next((seen for seen in loss.seen if isinstance(seen.term, Policy)), loss.seen[0])
    weight, whole = batch.weights[watched.term.name], leaves["logp"].grad
    columns = {"advantage": _advantage(batch, watched.term), "ratio": watched.ratio, "correction": loss.correction,
               "weight": weight.values[batch.ids("token", weight.unit)],
               "gradient": torch.zeros_like(loss.correction) if whole is None else whole}
    stopped, gated, rewards = watched.stopped, _gated(watched, stage), [r.reward for g in stage.groups for r in g.rollouts]
    rows, place, episode = [], _places(batch), batch.layout.ids("token", "episode").tolist()
    for t in np.flatnonzero(batch.behaviour.numpy() != NONE).tolist():
        g, i, k = place[t]
        numbers = {name: None if x is None else float(x[t]) for name, x in columns.items()}
        rows.append(Token(
            group=g + 1, completion=i + 1, token=k + 1, reward=float(rewards[episode[t]] or 0.0),
            stopped=stopped is not None and bool(stopped[t]), gated=bool(gated[t]),
            by_term={name: float(x[t]) for name, x in parts.items()}, **numbers))  # type: ignore[arg-type]
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
    nothing = Column("token", np.zeros(len(batch.tokens)))
    batch = batch.with_columns({}, {getattr(ratio, "credit", "advantage"): nothing})
    log_ratio = torch.zeros(len(batch.tokens), dtype=torch.float64).requires_grad_()
    value = ratio(log_ratio, batch.loss_mask, batch)
    found = torch.autograd.grad(value[0], log_ratio)[0]
    return not bool((found[1:] != 0).any())


def _advantage(batch: Batch, term: Term) -> Tensor | None:
    try:
        return batch.column(getattr(term, "credit", "advantage"))
    except ObjectiveError:
        return None


def _gated(seen: Seen, stage: Scene) -> Tensor:
    """[t] tokens that a gate of the term leaves out."""
    if not isinstance(seen.term, Policy) or not seen.term.gates or seen.ratio is None:
        return torch.zeros_like(stage.batch.loss_mask)
    return ~seen.term.open(stage.live, stage.batch, seen.mask, seen.ratio) & seen.mask


def _notes(method: Method, stage: Scene) -> tuple[str, ...]:
    """What the table alone does not say: refusals, masks, what stands aside."""
    reasons = [(g, reason) for g, group in enumerate(groups(method.intervene))
               for reason in [rule(group) for rule in method.admit]]
    refused = [f"group {g + 1} would not be admitted: {reason}" for g, reason in reasons if reason is not None]
    each = [(g, i, rollout) for g, group in enumerate(stage.groups) for i, rollout in enumerate(group.rollouts)]
    masked = [f"group {g + 1}, completion {i + 1} is masked" for g, i, rollout in each if rollout.masked]
    aside = [f"group {g + 1} has a {rollout.episode.role} answer besides, with reward {rollout.reward:g}, not trained on"
             for g, _, rollout in each if rollout.episode.aside]
    screened = int((stage.batch.behaviour != NONE).sum() - stage.batch.counted.sum())
    return (*refused, *masked, *aside, *([f"{screened} tokens are screened out"] if screened else []))


def _columns(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[t] log pi_old, the ratio, log pi_ref - log pi_old and the number of the token; of tokens not trained on: old, 1, 0, 0."""
    trained = (batch.behaviour != NONE).numpy()
    old = torch.tensor([_old(t) for _, _, t in _places(batch)], dtype=torch.float64)
    out = []
    for values, rest in ((np.concatenate([row for group in RATIOS for row in group]), 1.0), (REFERENCE, 0.0),
                         (np.arange(len(REFERENCE)), 0.0)):
        column = np.full(len(trained), rest)
        column[trained] = values
        out.append(torch.from_numpy(column))
    return old, out[0], out[1], out[2]


def _places(batch: Batch) -> list[tuple[int, int, int]]:
    """Of each token its group, its completion within it, and its place in that."""
    group, episode = batch.layout.ids("token", "group").tolist(), batch.layout.ids("token", "episode").tolist()
    first = {g: episode[group.index(g)] for g in set(group)}
    return [(g, e - first[g], t - episode.index(e)) for t, (g, e) in enumerate(zip(group, episode, strict=True))]


def _old(t: int) -> float:
    return -1.6 - 0.2 * t


def vector(worked: Worked) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[t] the gradients of a table."""
    return np.array([row.gradient for row in worked.rows], dtype=np.float64)
