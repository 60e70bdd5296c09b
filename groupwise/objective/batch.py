"""The flat batch: every token of the rollouts once, never padded, with the ids of the units it belongs to."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from groupwise.core.episode import Runs, TrainSequence, blank, sequences
from groupwise.core.layout import Ids, Key, Layout
from groupwise.core.rollout import BEHAVIOURS, Behaviour, Group, Rollout
from groupwise.errors import ObjectiveError, nearest

_EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Column:
    """Named credit at a stated unit (or key): one value per unit, detached."""

    unit: str
    values: np.ndarray


@dataclass(frozen=True)
class Weight:
    """A term's weights: one per unit of the term."""

    unit: str
    values: Tensor


@dataclass(frozen=True)
class Batch:
    """Tokens [t] of all sequences, one after the other.

    contexts    the tokens before each sequence's first token
    counted     trained on according to its tags: the tokens of every denominator
    loss_mask   counted, less what a mask dropped: the tokens of every numerator
    behaviour   index into BEHAVIOURS: what the ratio divides by
    columns     per token: engine_logp, and what was asked for (old_logp, ref_logp, values, teacher:NAME/CONTEXT)
    credit      per unit: advantage and whatever else the credit named
    weights     per term: one weight per unit of the term, fixed for the whole optimiser step
    extras      per token, and per sequence for the tokens of its context: what engines add (-1 where nobody knows)
    policy      the name of the weights that wrote each episode
    """

    layout: Layout
    contexts: tuple[tuple[int, ...], ...]
    tokens: Int[Tensor, " t"]
    counted: Bool[Tensor, " t"]
    loss_mask: Bool[Tensor, " t"]
    behaviour: Int[Tensor, " t"]
    version: Int[Tensor, " t"]
    columns: Mapping[str, Tensor] = field(default_factory=lambda: _EMPTY)
    credit: Mapping[str, Column] = field(default_factory=lambda: _EMPTY)
    weights: Mapping[str, Weight] = field(default_factory=lambda: _EMPTY)
    extras: Mapping[str, Tensor] = field(default_factory=lambda: _EMPTY)
    context_extras: Mapping[str, tuple[np.ndarray, ...]] = field(default_factory=lambda: _EMPTY)
    policy: tuple[str, ...] = ()

    def ids(self, child: str, parent: str) -> Int[Tensor, " n"]:
        """For every `child`, the id of its `parent` unit or key cell."""
        return torch.from_numpy(self.layout.ids(child, parent)).to(self.tokens.device)

    def column(self, name: str) -> Float[Tensor, " t"]:
        """A per-token column; credit columns are spread over their unit's tokens."""
        if name in self.columns:
            return self.columns[name]
        return self.at(name, "token")

    def at(self, name: str, unit: str) -> Float[Tensor, " n"]:
        """A credit column at a unit no coarser than its own."""
        if name not in self.credit:
            raise ObjectiveError(f"no column {name!r} in the batch; {nearest(name, (*self.columns, *self.credit))}")
        column = self.credit[name]
        values = column.values[self.layout.ids(unit, column.unit)]
        return torch.from_numpy(values).to(self.tokens.device, self.columns["engine_logp"].dtype)

    def with_columns(self, columns: Mapping[str, Tensor], credit: Mapping[str, Column]) -> "Batch":
        """The batch with what was scored and credited; tokens whose credit is nan leave the numerators."""
        mask = self.loss_mask.clone()
        for column in credit.values():
            dropped = np.isnan(column.values)[self.layout.ids("token", column.unit)]
            mask &= torch.from_numpy(~dropped).to(mask.device)
        clean = {name: replace(c, values=np.nan_to_num(c.values, nan=0.0)) for name, c in credit.items()}
        return replace(self, columns={**self.columns, **columns}, credit={**self.credit, **clean}, loss_mask=mask)

    def take(self, chosen: Sequence[int] | np.ndarray) -> "Batch":
        """The batch of some sequences; weights and credit go with their units."""
        layout, kept = self.layout.take(chosen)
        index = torch.from_numpy(kept["token"]).to(self.tokens.device)
        return Batch(
            layout=layout, contexts=tuple(self.contexts[s] for s in kept["sequence"].tolist()),
            tokens=self.tokens[index], counted=self.counted[index], loss_mask=self.loss_mask[index],
            behaviour=self.behaviour[index], version=self.version[index],
            columns={name: x[index] for name, x in self.columns.items()},
            credit={name: replace(c, values=c.values[kept[c.unit]]) for name, c in self.credit.items()},
            weights={name: replace(w, values=w.values[torch.from_numpy(kept[w.unit]).to(w.values.device)])
                     for name, w in self.weights.items()},
            extras={name: x[index] for name, x in self.extras.items()},
            context_extras={name: tuple(x[s] for s in kept["sequence"].tolist()) for name, x in self.context_extras.items()},
            policy=tuple(self.policy[e] for e in kept["episode"].tolist()))

    def written_by(self, policy: str) -> "Batch":
        """The batch of the episodes of one policy, without sequences that have no token to train on (such as those of a greedy
        baseline): what one learner trains on.
        """
        own = np.array([name == policy for name in self.policy])[self.layout.episode]
        trained = np.zeros(len(own), dtype=np.bool_)
        trained[self.layout.ids("token", "sequence")[self.counted.cpu().numpy()]] = True
        chosen = own & trained if (own & trained).any() else own
        return self if chosen.all() else self.take(np.flatnonzero(chosen))

    def with_parts(self, parts: Sequence[Sequence[int] | np.ndarray]) -> "Batch":
        """The batch with its micro-batches as the key `micro` over sequences: lists of sequences that hold each one once."""
        of = np.full(self.layout.size("sequence"), -1, dtype=np.int64)
        for k, part in enumerate(parts):
            of[np.asarray(part, dtype=np.int64)] = k
        if sum(map(len, parts)) != len(of) or (of < 0).any():
            raise ObjectiveError(f"the parts hold {sum(map(len, parts))} sequences of {len(of)}: each must be in exactly one")
        keys = {**self.layout.keys, "micro": Key("sequence", of, len(parts))}
        return replace(self, layout=replace(self.layout, keys=keys))

    def groups(self, chosen: Sequence[int] | np.ndarray) -> "Batch":
        """The batch of some whole groups, in the order of their sequences."""
        wanted = np.isin(self.layout.ids("sequence", "group"), np.asarray(chosen))
        return self.take(np.flatnonzero(wanted))


def pack(groups: Sequence[Group], *, default: Behaviour = "self", version: int = 0, dtype: torch.dtype = torch.float32,
         device: str = "cpu") -> Batch:
    """The flat batch of groups; `default` is the behaviour of tokens that do not name their own and are not older than `version`
    of the weights; older ones are `recorded`.

    Keys: `turn` and `state` over segments (within the group; a segment of unknown state is alone), `role` over episodes
    (within the group), `policy` over episodes.
    """
    rows: list[TrainSequence] = []
    of: list[int] = []
    episodes: list[tuple[int, Rollout]] = []
    for g, group in enumerate(groups):
        for rollout in group.rollouts:
            found = list(sequences(rollout.episode))
            if found:
                rows += found
                of += [len(episodes)] * len(found)
                episodes.append((g, rollout))
    if not rows:
        raise ObjectiveError("no rollout has a token: nothing to train on")
    layout = _layout(rows, of, episodes, len(groups))
    behaviour = _tags([row.behaviour for row in rows])
    versions, free = _tags([row.version for row in rows]), behaviour == BEHAVIOURS.index("default")
    behaviour[free] = BEHAVIOURS.index(default)
    behaviour[free & (versions >= 0) & (versions < version)] = BEHAVIOURS.index("recorded")
    counted = behaviour != BEHAVIOURS.index("none")
    masked = np.array([rollout.masked for _, rollout in episodes])[layout.ids("token", "episode")]
    logp = np.fromiter(chain.from_iterable([row.engine_logp for row in rows]), dtype=np.float64)
    return Batch(
        layout=layout, contexts=tuple([row.context.tokens for row in rows]),
        tokens=_tensor(np.fromiter(chain.from_iterable([row.tokens for row in rows]), dtype=np.int64), device),
        counted=_tensor(counted, device), loss_mask=_tensor(counted & ~masked, device), behaviour=_tensor(behaviour, device),
        version=_tensor(versions, device),
        columns={"engine_logp": _tensor(logp, device).to(dtype)}, extras=_extras(rows, device),
        context_extras=_context_extras(rows),
        policy=tuple([rollout.episode.policy for _, rollout in episodes]))


def _tags(rows: Sequence[Runs[int]]) -> Ids:
    """A tag of all tokens."""
    values, lengths = np.array([run for runs in rows for run in runs], dtype=np.int64).T
    return np.repeat(values, lengths)


def _layout(rows: Sequence[TrainSequence], of: Sequence[int], episodes: Sequence[tuple[int, Rollout]], groups: int) -> Layout:
    """The layout of sequences, with the episode of each."""
    sequence_of_segment: list[int] = []
    lengths: list[int] = []
    turns: list[Hashable] = []
    states: list[Hashable] = []
    for s, (row, e) in enumerate(zip(rows, of, strict=True)):
        g, rollout = episodes[e]
        for index, n in row.segment:
            sequence_of_segment.append(s)
            lengths.append(n)
            state = rollout.episode.turns[index].state
            turns.append((g, index))
            states.append((g, state) if state is not None else (g, e, index))
    keys = {"turn": Key.of("segment", turns), "state": Key.of("segment", states),
            "role": Key.of("episode", [(g, r.episode.role) for g, r in episodes]),
            "policy": Key.of("episode", [r.episode.policy for _, r in episodes])}
    return Layout(segment=np.repeat(np.arange(len(lengths)), lengths),
                  sequence=np.array(sequence_of_segment, dtype=np.int64),
                  episode=np.array(of, dtype=np.int64),
                  group=np.array([g for g, _ in episodes], dtype=np.int64), groups=groups, keys=keys)


def _extras(rows: Sequence[TrainSequence], device: str) -> dict[str, Tensor]:
    out = {}
    for name, like in _kinds(row.extras for row in rows).items():
        each = [row.extras[name] if name in row.extras else blank(len(row.tokens), like) for row in rows]
        out[name] = _tensor(np.concatenate(each), device)
    return out


def _context_extras(rows: Sequence[TrainSequence]) -> dict[str, tuple[np.ndarray, ...]]:
    out = {}
    for name, like in _kinds(row.context_extras for row in rows).items():
        out[name] = tuple(row.context_extras[name] if name in row.context_extras else blank(len(row.context.tokens), like)
                          for row in rows)
    return out


def _kinds(extras: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The names of all extras, in order, with one array of each."""
    return dict(sorted({name: array for one in extras for name, array in one.items()}.items()))


def _tensor(array: np.ndarray, device: str) -> Tensor:
    return torch.from_numpy(array).to(device)
