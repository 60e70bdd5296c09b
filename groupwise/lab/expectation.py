"""The expectation and the spread of a method's gradient over the groups that a policy samples: by listing them, or by drawing.

A group of G answers is a multiset of them, whose chance is multinomial; a step holds n independent groups, each of a prompt drawn
with equal chances. Of a method whose step is the mean of what its groups give by themselves, single groups are enough. Of any
other (a mean over tokens, statistics of the batch) the steps are listed, or drawn if there are too many of them.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from groupwise.core.keyed import generator
from groupwise.core.rollout import Group
from groupwise.core.services import MethodState
from groupwise.lab.rehearsal import Found, Rehearsal, Stage
from groupwise.sampling.intervention import Intervention
from groupwise.sampling.planner import Shuffled

PROBES = 12
"""Steps on which is looked whether groups can be taken one by one."""
SAME = 1e-9
"""Relative to the larger gradient: what counts as equal."""
BLOCKS = 20
"""Blocks of drawn steps, between whose means the error is estimated: steps of a method with a state depend on each other."""


@dataclass(frozen=True)
class Kind:
    """A group that is admitted: the group, and its chance among all groups that a prompt can get."""

    group: Group
    chance: float


@dataclass(frozen=True)
class Moments:
    """Of the gradient [n] by the parameters: mean, trace of the covariance, standard error of the mean (0: exact).

    `slopes` [r, 3] is the mean gradient by the table's values, `seen` and `stopped` [r] are mean numbers of tokens, `steps`
    counts the optimiser steps that were made for it, `why` says why they were drawn.
    """

    mean: Float[Tensor, " n"]
    spread: float
    slopes: Float[Tensor, "r k"]
    seen: Float[Tensor, " r"]
    stopped: Float[Tensor, " r"]
    steps: int
    error: float = 0.0
    why: str = ""


@dataclass(frozen=True)
class Limits:
    """How much is listed, and how many steps are drawn beyond that."""

    listed: int = 4000
    drawn: int = 2000


def moments(stage: Stage, rehearsal: Rehearsal, limits: Limits) -> Moments:
    """Exact if that can be done within the limits."""
    why = _beyond(stage)
    groups = _groups(stage)
    if not why and groups > limits.listed:
        why = f"{groups} different groups are more than --listed {limits.listed}"
    if why:
        return _drawn(stage, rehearsal, limits, why)
    kinds = list(_kinds(stage))
    if not kinds:
        return _drawn(stage, rehearsal, limits, "no group would be admitted")
    why, alone = _looked_at(stage, rehearsal, kinds)
    if why:
        return _drawn(stage, rehearsal, limits, why)
    sizes = _sizes(stage, sum(kind.chance for kind in kinds))
    if alone:
        return _alone(rehearsal, kinds, sizes)
    many = sum(math.comb(len(kinds) + k - 1, k) for k in sizes)
    if many > limits.listed:
        return _drawn(stage, rehearsal, limits, f"{many} different steps are more than --listed {limits.listed}")
    return _listed(rehearsal, kinds, sizes)


def _groups(stage: Stage) -> int:
    return sum(math.comb(len(own.answers) + stage.group_size - 1, stage.group_size) for own in stage.table.space.world)


def _beyond(stage: Stage) -> str:
    """Why groups cannot be listed; empty if they can."""
    method = stage.method
    if type(method.state()) is not MethodState:
        return "the method has a state"
    if method.planner is not Shuffled:
        return "the method plans its prompts"
    kinds: list[type[Intervention]] = [type(one) for one in method.intervene]
    for own in kinds:
        if own.after_score is not Intervention.after_score or own.before_update is not Intervention.before_update:
            return "an intervention changes groups"
    return ""


def _kinds(stage: Stage) -> Iterator[Kind]:
    """All groups that are admitted."""
    space, size, chance = stage.table.space, stage.group_size, stage.table.chance.tolist()
    for p in range(len(space.world)):
        for answers in itertools.combinations_with_replacement(range(space.first[p], space.first[p + 1]), size):
            ways = math.factorial(size)
            for a in set(answers):
                ways //= math.factorial(answers.count(a))
            for group in stage.scripted(p, answers):
                yield Kind(group, ways * math.prod(chance[a] for a in answers) / len(space.world))


def _sizes(stage: Stage, admitted: float) -> dict[int, float]:
    """How many groups a step has, given that it has any, and the chance of each number: refused ones are missing, or replaced by
    those of further rounds of as many prompts.
    """
    wanted, refill = stage.prompts_per_step, stage.method.refill
    if admitted > 1 - 1e-12 or (refill and refill.short == "stop"):
        return {wanted: 1.0}
    tries = wanted * (refill.rounds if refill else 1)
    few = {k: math.comb(tries, k) * admitted**k * (1 - admitted) ** (tries - k) for k in range(wanted)}
    found = {**few, wanted: 1 - sum(few.values())}
    return {k: chance / (1 - found[0]) for k, chance in found.items() if k}


def _apart(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) > SAME * max(float(a.abs().max()), float(b.abs().max()))


def _looked_at(stage: Stage, rehearsal: Rehearsal, kinds: Sequence[Kind]) -> tuple[str, bool]:
    """Why the gradient is no function of the multisets (empty: it is), and whether groups can be taken one by one."""
    rng, alone = generator(stage.seed, "audit", "probes"), True
    for _ in range(PROBES):
        chosen = [kinds[i].group for i in rng.integers(len(kinds), size=max(2, stage.prompts_per_step)).tolist()]
        whole = rehearsal.step(chosen).slopes
        mixed = [Group(g.key, g.prompt, tuple(g.rollouts[i] for i in rng.permutation(len(g.rollouts)))) for g in chosen[::-1]]
        if _apart(whole, rehearsal.step(mixed).slopes):
            return "the gradient depends on the order of the groups or answers, or on chance", False
        if alone:
            alone = not _apart(whole, torch.stack([rehearsal.step([group]).slopes for group in chosen]).mean(0))
    return "", alone


def _alone(rehearsal: Rehearsal, kinds: Sequence[Kind], sizes: dict[int, float]) -> Moments:
    """From single groups: the mean of a step is theirs, its covariance theirs over the number of groups."""
    found = [rehearsal.step([kind.group]) for kind in kinds]
    chance = torch.tensor([kind.chance for kind in kinds], dtype=torch.float64)
    made = _weighted(rehearsal, found, chance / chance.sum())
    each = sum(p / k for k, p in sizes.items())
    groups = sum(p * k for k, p in sizes.items())
    return Moments(made.mean, made.spread * each, made.slopes, made.seen * groups, made.stopped * groups, len(kinds))


def _listed(rehearsal: Rehearsal, kinds: Sequence[Kind], sizes: dict[int, float]) -> Moments:
    """From every step."""
    total, found, chances = sum(kind.chance for kind in kinds), [], []
    for k, often in sizes.items():
        for chosen in itertools.combinations_with_replacement(range(len(kinds)), k):
            ways = math.factorial(k)
            for i in set(chosen):
                ways //= math.factorial(chosen.count(i))
            found.append(rehearsal.step([kinds[i].group for i in chosen]))
            chances.append(often * ways * math.prod(kinds[i].chance / total for i in chosen))
    return _weighted(rehearsal, found, torch.tensor(chances, dtype=torch.float64))


def _drawn(stage: Stage, rehearsal: Rehearsal, limits: Limits, why: str) -> Moments:
    """From drawn steps, through the sampler with its refills; a method with a state is first let go on for a tenth of them."""
    found: list[Found] = []
    early = limits.drawn // 10 if type(rehearsal.state) is not MethodState else 0
    for n in range(limits.drawn + early):
        if groups := stage.collect(stage.draw(n), n):
            one = rehearsal.step(groups)
            rehearsal.state.after_update(stage)
            if n >= early:
                found.append(one)
    if not found:
        rows = len(rehearsal.now.values)
        found = [Found(torch.zeros_like(rehearsal.now.values), *torch.zeros(2, rows, dtype=torch.float64))]
    made = _weighted(rehearsal, found, torch.full((len(found),), 1 / len(found), dtype=torch.float64))
    slopes = torch.stack([one.slopes.flatten() for one in found])
    blocks = [part.mean(0) @ rehearsal.now.jacobian for part in slopes.tensor_split(min(BLOCKS, len(found)))]
    spread = sum(float((b - made.mean).square().sum()) for b in blocks)
    error = math.sqrt(spread / (len(blocks) * max(1, len(blocks) - 1)))
    return Moments(made.mean, made.spread, made.slopes, made.seen, made.stopped, len(found), error, why)


def _weighted(rehearsal: Rehearsal, found: Sequence[Found], chance: Tensor) -> Moments:
    """Mean and spread of steps with these chances."""
    slopes = torch.stack([one.slopes.flatten() for one in found])
    mean = chance @ slopes
    gram = rehearsal.now.jacobian @ rehearsal.now.jacobian.T
    off = slopes - mean
    spread = float(chance @ ((off @ gram) * off).sum(1).clamp(min=0))
    seen, stopped = (chance @ torch.stack([getattr(one, name) for one in found]) for name in ("seen", "stopped"))
    return Moments(mean @ rehearsal.now.jacobian, spread, mean.view_as(found[0].slopes), seen, stopped, len(found))
