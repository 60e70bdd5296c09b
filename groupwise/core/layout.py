"""The ids of the ragged batch: which token belongs to which unit, and the named keys beside the tree of units.

    token < segment (turn) < sequence < episode < group

A unit of one level has exactly one parent at the next. A *key* partitions the units of one level by anything else:
`(group, state)` over segments, role over episodes, prompt variant over groups. This file holds ids only; the operations on
them are `groupwise.objective.levels`.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from jaxtyping import Int64

from groupwise.errors import ObjectiveError, nearest

Label = TypeVar("Label", bound=Hashable)
Ids = Int64[np.ndarray, " _"]  # any length: one layout holds several
UNITS = ("token", "segment", "sequence", "episode", "group")


@dataclass(frozen=True)
class Key:
    """A partition of the units of one level: `ids[u]` is the cell of unit u, in 0..size-1."""

    unit: str
    ids: Ids
    size: int

    @staticmethod
    def of(unit: str, labels: Sequence[Hashable]) -> "Key":
        """The partition by equal labels, cells numbered by first appearance.

        >>> Key.of("segment", ["a", "b", "a"]).ids.tolist()
        [0, 1, 0]
        """
        ids, cells = _numbered(labels)
        return Key(unit, ids, len(cells))


@dataclass(frozen=True)
class Layout:
    """The tree of units of a flat batch, from the token up, as one array of parents per level."""

    segment: Ids  # of each token
    sequence: Ids  # of each segment
    episode: Ids  # of each sequence
    group: Ids  # of each episode
    groups: int
    keys: Mapping[str, Key] = field(default_factory=lambda: MappingProxyType({}))
    _firsts: dict[tuple[str, str], Ids] = field(default_factory=dict, init=False, repr=False, compare=False)

    def size(self, unit: str) -> int:
        """How many units of this level, or cells of this key, there are."""
        if unit in self.keys:
            return self.keys[unit].size
        sizes = (len(self.segment), len(self.sequence), len(self.episode), len(self.group), self.groups)
        return sizes[self._level(unit)]

    def ids(self, child: str, parent: str) -> Ids:
        """For every unit of `child`, the id of the `parent` unit (or key cell) that holds it."""
        if parent in self.keys:
            key = self.keys[parent]
            return key.ids[self.ids(child, key.unit)]
        low, high = self._level(child), self._level(parent)
        if low > high:
            raise ObjectiveError(f"a {child} does not lie in one {parent}: ask for the ids the other way round")
        parents = (self.segment, self.sequence, self.episode, self.group)[low:high]
        ids = parents[0] if parents else np.arange(self.size(child), dtype=np.int64)
        for above in parents[1:]:
            ids = above[ids]
        return ids

    def first_token(self, unit: str, child: str = "token") -> Ids:
        """The place of each unit's first token (or other child), plus the total: slices for units in a row."""
        if (unit, child) not in self._firsts:  # asked for once a micro-batch: counting all tokens each time would be quadratic
            counts = np.bincount(self.ids(child, unit), minlength=self.size(unit))
            self._firsts[unit, child] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return self._firsts[unit, child]

    def take(self, sequences: Sequence[int] | np.ndarray) -> tuple["Layout", dict[str, Ids]]:
        """The layout of some sequences (in this order), and for every level and key the old ids of what is kept."""
        chosen = np.asarray(sequences, dtype=np.int64)
        segments, sequence = _children(self.first_token("sequence", "segment"), chosen)
        tokens, segment = _children(self.first_token("segment"), segments)
        episode, episodes = _numbered(self.episode[chosen].tolist())
        kept = {"token": tokens, "segment": segments, "sequence": chosen, "episode": np.array(episodes, dtype=np.int64)}
        group, groups = _numbered(self.group[kept["episode"]].tolist())
        kept["group"] = np.array(groups, dtype=np.int64)
        keys = {}
        for name, key in self.keys.items():
            ids, cells = _numbered(key.ids[kept[key.unit]].tolist())
            keys[name], kept[name] = Key(key.unit, ids, len(cells)), np.array(cells, dtype=np.int64)
        return Layout(segment, sequence, episode, group, len(groups), keys), kept

    def _level(self, unit: str) -> int:
        if unit not in UNITS:
            raise ObjectiveError(f"unknown unit or key {unit!r}; {nearest(unit, (*UNITS, *self.keys))}")
        return UNITS.index(unit)


def _numbered(labels: Sequence[Label]) -> tuple[Ids, list[Label]]:
    """Numbers of equal labels in the order of their first appearance, and the different labels."""
    cells = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return np.array([cells[label] for label in labels], dtype=np.int64), list(cells)


def _children(starts: Ids, chosen: Ids) -> tuple[Ids, Ids]:
    """The places of the children of the chosen units, whose children lie one after the other, and which chosen unit has each."""
    counts = starts[chosen + 1] - starts[chosen]
    parents = np.repeat(np.arange(len(chosen)), counts)
    return np.arange(len(parents)) + (starts[chosen] - np.cumsum(counts) + counts)[parents], parents
