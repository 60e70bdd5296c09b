"""The ids of the ragged batch: which token belongs to which unit, and the named keys beside the tree of units.

    token < segment (turn) < sequence < episode < group

A unit of one level has exactly one parent at the next. A *key* partitions the units of one level by anything else:
`(group, state)` over segments, role over episodes, prompt variant over groups. This file holds ids only; the operations on
them are `groupwise.objective.levels`.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from jaxtyping import Int64

from groupwise.errors import ObjectiveError, nearest

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
        cells: dict[Hashable, int] = {}
        ids = np.array([cells.setdefault(label, len(cells)) for label in labels], dtype=np.int64)
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
        ids = np.arange(self.size(child), dtype=np.int64)
        for parents in (self.segment, self.sequence, self.episode, self.group)[low:high]:
            ids = parents[ids]
        return ids

    def first_token(self, unit: str, child: str = "token") -> Ids:
        """The place of each unit's first token (or other child), plus the total: slices for units in a row."""
        counts = np.bincount(self.ids(child, unit), minlength=self.size(unit))
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def take(self, sequences: Sequence[int] | np.ndarray) -> tuple["Layout", dict[str, Ids]]:
        """The layout of some sequences (in this order), and for every level and key the old ids of what is kept."""
        chosen = np.asarray(sequences, dtype=np.int64)
        kept = {"sequence": chosen, "segment": _runs(self.first_token("sequence", "segment"), chosen),
                "token": _runs(self.first_token("sequence"), chosen)}
        kept["episode"] = _distinct(self.episode[chosen])
        kept["group"] = _distinct(self.group[kept["episode"]])
        keys = {name: Key.of(key.unit, key.ids[kept[key.unit]].tolist()) for name, key in self.keys.items()}
        kept |= {name: _distinct(key.ids[kept[key.unit]]) for name, key in self.keys.items()}
        layout = Layout(
            segment=_renumber(self.segment[kept["token"]], kept["segment"]),
            sequence=_renumber(self.sequence[kept["segment"]], chosen),
            episode=_renumber(self.episode[chosen], kept["episode"]),
            group=_renumber(self.group[kept["episode"]], kept["group"]),
            groups=len(kept["group"]), keys=keys)
        return layout, kept

    def _level(self, unit: str) -> int:
        if unit not in UNITS:
            raise ObjectiveError(f"unknown unit or key {unit!r}; {nearest(unit, (*UNITS, *self.keys))}")
        return UNITS.index(unit)


def _distinct(ids: Ids) -> Ids:
    """The distinct ids in order of first appearance."""
    return np.array(list(dict.fromkeys(ids.tolist())), dtype=np.int64)


def _runs(starts: Ids, chosen: Ids) -> Ids:
    """The places of the children of the chosen units, whose children lie one after the other."""
    return np.concatenate([np.arange(starts[i], starts[i + 1]) for i in chosen] or [chosen]).astype(np.int64)


def _renumber(ids: Ids, kept: Ids) -> Ids:
    """Positions of `ids` in `kept`."""
    place = np.zeros(int(kept.max()) + 1 if len(kept) else 0, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    return place[ids]
