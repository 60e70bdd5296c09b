"""Toy batches that a check works on: small, keyed, easy to print, and easy to make smaller.

Every token has an id of its own, which is its row in a table of values. So a token keeps its log-probs, and gets its
gradient, wherever a permutation, a split or a process puts it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import torch
from torch import Tensor

from groupwise.core.keyed import generator
from groupwise.core.rollout import Behaviour, Completion, Context, Episode, Group, Prompt, Rollout, Span, Turn
from groupwise.core.verdict import Component, Verdict

LIVE = ("logp", "entropy", "sum_p2", "values")
"""Columns of the table that the current policy gives, and that gradients are taken by."""
SCORED = ("old_logp", "ref_logp", "engine_logp", "old_values")
"""Columns of the table that were scored before; `old_values` is the batch's column `values`."""


@dataclass(frozen=True)
class Part:
    """One turn: token ids; how many of the last are not trained on; what the environment says after it; whether the history
    is rewritten before it (a training sequence of its own); who the tokens are by.
    """

    tokens: tuple[int, ...]
    off: int = 0
    gap: tuple[int, ...] = ()
    cut: bool = False
    state: str | None = None
    behaviour: Behaviour = "default"
    reward: float | None = None


@dataclass(frozen=True)
class Row:
    """One rollout: the prompt's token, its turns, one reward per component of the sample."""

    start: int
    parts: tuple[Part, ...]
    rewards: tuple[float, ...]
    masked: bool = False
    truncated: bool = False
    role: str = "policy"

    @property
    def tokens(self) -> tuple[int, ...]:
        """The ids of its completions' tokens."""
        return tuple(t for part in self.parts for t in part.tokens)


Rows = tuple[tuple[Row, ...], ...]


@dataclass(frozen=True)
class Sample:
    """Groups of rows, a table [ids] of float64 values per column, and the behaviour that tokens have by default."""

    groups: Rows
    table: Mapping[str, Tensor]
    default: Behaviour = "old"
    names: tuple[str, ...] = ("reward",)

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rollouts."""
        return tuple(row for group in self.groups for row in group)

    def map(self, change: Callable[[Row], Row]) -> "Sample":
        """The sample with every row changed."""
        return replace(self, groups=tuple(tuple(change(row) for row in group) for group in self.groups))

    def rewarded(self, change: Callable[[float], float]) -> "Sample":
        """The sample with every reward changed (of several components, each)."""
        return self.map(lambda row: replace(row, rewards=tuple(change(r) for r in row.rewards)))

    def columns(self, **changed: Tensor) -> "Sample":
        """The sample with other columns in the table."""
        return replace(self, table={**self.table, **changed})

    def flags(self, marked: Callable[[Row, Part], tuple[int, ...]]) -> Tensor:
        """[ids] whether a row or part marks a token id."""
        found = torch.zeros(len(self.table["logp"]), dtype=torch.bool)
        for row in self.rows:
            for part in row.parts:
                found[list(marked(row, part))] = True
        return found

    @property
    def trained(self) -> Tensor:
        """[ids] tokens that are trained on according to their tags."""
        return self.flags(lambda row, part: part.tokens[:len(part.tokens) - part.off] if part.behaviour != "none" else ())

    @property
    def masked(self) -> Tensor:
        """[ids] tokens of masked rollouts."""
        return self.flags(lambda row, part: part.tokens if row.masked else ())


def groups(sample: Sample) -> list[Group]:
    """The sample as the sampler would have collected it."""
    return [Group(f"g{g}", Prompt(f"g{g}", "", None), tuple(_rollout(sample, row, g) for row in rows))
            for g, rows in enumerate(sample.groups)]


def _rollout(sample: Sample, row: Row, g: int) -> Rollout:
    context: tuple[int, ...] = (row.start,)
    turns, components = [], [Component(name, value) for name, value in zip(sample.names, row.rewards, strict=True)]
    for index, part in enumerate(row.parts):
        n, here = len(part.tokens), Context(context)
        spans = (Span(0, n - part.off, behaviour=part.behaviour), Span(n - part.off, n, behaviour="none"))
        logp = tuple(sample.table["engine_logp"][list(part.tokens)].tolist())
        last = index == len(row.parts) - 1
        done = Completion(part.tokens, logp, finish="length" if row.truncated and last else "stop")
        turns.append(Turn(here, done, spans, train_context=here if part.cut else None, state=part.state))
        if part.reward is not None:
            components.append(Component("turn", part.reward, target="turn", index=index))
        context = (*context, *part.tokens, *part.gap)
    episode = Episode(Prompt(f"g{g}", "", None), tuple(turns), role=row.role)
    return Rollout(episode, Verdict(sum(row.rewards) > 0.5 * len(row.rewards)), tuple(components), masked=row.masked)


@dataclass(frozen=True)
class Wishes:
    """What the samples for a subject must have: the smallest group, reward components, turn rewards, foreign tokens, a rollout of
    a role in every group, columns.
    """

    least: int = 1
    names: tuple[str, ...] = ("reward",)
    turn_rewards: bool = False
    foreign: bool = False
    role: str = ""
    columns: tuple[str, ...] = ()


def generate(seed: int, wishes: Wishes, default: Behaviour) -> Sample:
    """A ragged sample: groups of unequal size (one of them alone, where that is allowed), unequal lengths and rewards, several
    turns with environment tokens between them, a group without variance, masked and truncated rollouts, untrained tokens.

    Rewards are eighths in [0, 1], or 0 and 1 for odd seeds, so that sums of them are exact.
    """
    rng, ids = generator("check", "sample", seed), count()
    sizes = [max(wishes.least, 2), max(wishes.least, 3), wishes.least, *rng.integers(max(wishes.least, 2), 5, size=seed % 2)]
    made: list[tuple[Row, ...]] = []
    for g, size in enumerate(sizes):
        drawn = [_reward(rng, seed) for _ in range(size)]
        if g == 0:  # without variance
            drawn = [drawn[0]] * size
        elif size > 1:
            drawn[:2] = [0.0, 1.0]
        start = next(ids)
        rows = [_row(rng, ids, start, wishes, reward, masked=g == 1 and i == 2, truncated=i == 1)
                for i, reward in enumerate(drawn)]
        if wishes.role:
            rows.append(replace(_row(rng, ids, start, wishes, drawn[0], masked=False, truncated=False), role=wishes.role))
        made.append(tuple(rows))
    return Sample(tuple(made), table(rng, next(ids), wishes.columns), default, wishes.names)


def _reward(rng: np.random.Generator, seed: int) -> float:
    return float(rng.integers(0, 2)) if seed % 2 else float(rng.integers(0, 9)) / 8


def _row(rng: np.random.Generator, ids: Iterator[int], start: int, wishes: Wishes, reward: float, *, masked: bool,
         truncated: bool) -> Row:
    parts = []
    for index in range(int(rng.integers(1, 4))):
        tokens = tuple(next(ids) for _ in range(int(rng.integers(1, 5))))
        parts.append(Part(
            tokens, off=int(rng.integers(0, len(tokens))) if rng.random() < 0.4 else 0,
            gap=tuple(next(ids) for _ in range(int(rng.integers(0, 3)))), cut=index > 0 and bool(rng.random() < 0.25),
            state=f"s{rng.integers(3)}", behaviour="unknown" if wishes.foreign and rng.random() < 0.3 else "default",
            reward=float(rng.integers(0, 3)) / 2 if wishes.turn_rewards else None))
    others = tuple(float(rng.integers(0, 9)) / 8 for _ in wishes.names[1:])
    return Row(start, tuple(parts), (reward, *others), masked, truncated)


def table(rng: np.random.Generator, n: int, more: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Values for n token ids: log-probs of the policy, and of the others not far from them."""
    logp = -rng.gamma(2.0, 0.7, n) - 0.05
    made = {"logp": logp, "entropy": rng.gamma(2.0, 0.5, n), "sum_p2": rng.uniform(0.2, 1.0, n), "values": rng.normal(size=n),
            "old_values": rng.normal(size=n)}
    for name in ("old_logp", "ref_logp", "engine_logp", *more):
        made[name] = logp + 0.3 * rng.normal(size=n)
    return {name: torch.from_numpy(x) for name, x in made.items()}


def smaller(sample: Sample) -> Iterator[Sample]:
    """Simpler samples, the boldest simplifications first."""
    for g, rows in enumerate(sample.groups):
        if len(sample.groups) > 1:
            yield replace(sample, groups=sample.groups[:g] + sample.groups[g + 1:])
        for r in range(len(rows)):
            if len(rows) > 1:
                yield _with(sample, g, rows[:r] + rows[r + 1:])
    for g, rows in enumerate(sample.groups):
        for r, row in enumerate(rows):
            for simpler in _simpler(row):
                yield _with(sample, g, (*rows[:r], simpler, *rows[r + 1:]))
    yield from _rounder(sample)


def _with(sample: Sample, g: int, rows: tuple[Row, ...]) -> Sample:
    return replace(sample, groups=(*sample.groups[:g], rows, *sample.groups[g + 1:]))


def _simpler(row: Row) -> Iterator[Row]:
    if row.masked or row.truncated:
        yield replace(row, masked=False, truncated=False)
    if row.masked and row.truncated:
        yield replace(row, truncated=False)
    for p, part in enumerate(row.parts):
        if len(row.parts) > 1:
            yield replace(row, parts=row.parts[:p] + row.parts[p + 1:])
        options = [replace(part, tokens=part.tokens[:-1], off=max(0, part.off - 1))] if len(part.tokens) > 1 else []
        options += [replace(part, tokens=part.tokens[:1], off=0)] if len(part.tokens) > 2 else []
        options += [replace(part, gap=())] if part.gap else []
        options += [replace(part, cut=False)] if part.cut else []
        options += [replace(part, off=0)] if part.off else []
        options += [replace(part, behaviour="default")] if part.behaviour != "default" else []
        for other in options:
            yield replace(row, parts=(*row.parts[:p], other, *row.parts[p + 1:]))


def _rounder(sample: Sample) -> Iterator[Sample]:
    if any(r not in (0.0, 1.0) for row in sample.rows for r in row.rewards):
        yield sample.rewarded(lambda r: float(r > 0.5))
    for name in sample.table:
        like = torch.full_like(sample.table[name], -1.0) if name == "logp" else sample.table["logp"]
        plain = like if name.endswith("logp") or name.startswith("teacher:") else torch.zeros_like(like)
        for simple in (plain, sample.table[name].round(decimals=1)):
            if not torch.equal(simple, sample.table[name]):
                yield sample.columns(**{name: simple})
