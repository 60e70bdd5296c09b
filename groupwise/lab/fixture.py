"""A golden vector's numbers as a batch: its rows are rollouts, its columns their tokens; every token has an id of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groupwise.core.rollout import Behaviour, Completion, Component, Context, Episode, Group, Prompt, Rollout, Span, Turn, Verdict
from groupwise.objective.batch import Batch, pack
from groupwise.objective.objective import Objective

Matrix = Sequence[Sequence[float]]
LOGP = {"logp": "new_logprobs", "old_logp": "old_logprobs", "ref_logp": "ref_logprobs", "values": "values",
        "entropy": "entropies"}


@dataclass(frozen=True)
class Case:
    """How a vector is run here.

    rewards     one per row (None: it abstains); without any, the fixture's advantages are the rewards and credit passes them on
    components  further rewards by name, one per row, instead of `rewards`, with their weights
    greedy      the reward of each row's group's greedy rollout
    masked      rows that a mask dropped
    unknown     rows of behaviour `unknown`
    columns     per-token values [rows, width] in place of the fixture's
    parts       micro-batches, as lists of rows; `ranks` share them in order
    outputs     what of ours is compared with what is expected, by the vector's name for it (`Outcome`)
    note        what a reader should know of this translation
    """

    objective: Objective
    outputs: Mapping[str, str]
    rewards: Sequence[float | None] | None = None
    components: Mapping[str, Sequence[float]] = field(default_factory=dict)
    greedy: Sequence[float] = ()
    masked: Sequence[int] = ()
    unknown: Sequence[int] = ()
    behaviour: Behaviour = "old"
    columns: Mapping[str, Matrix] = field(default_factory=dict)
    parts: Sequence[Sequence[int]] = ()
    ranks: int = 1
    note: str = ""


@dataclass(frozen=True)
class Table:
    """The rows of a fixture for one case. `padded` keeps the places that are not trained on, as untrained tokens full of garbage:
    nothing may change by that.
    """

    case: Case
    fixture: Mapping[str, Any]
    padded: bool = False

    @property
    def mask(self) -> np.ndarray:
        """[rows, width] True: trained on."""
        return np.array(self.fixture["response_mask"], dtype=np.float64) > 0

    def column(self, name: str) -> Tensor:
        """[rows * width] per-token values by token id; nan where the fixture has none."""
        given = self.case.columns.get(name, self.fixture.get(LOGP.get(name, name)))
        values = np.full(self.mask.shape, np.nan) if given is None else np.array(given, dtype=np.float64)
        if self.padded:
            values = np.where(self.mask, values, np.nan if name == "logp" else 1e9)
        return torch.from_numpy(values.flatten())

    def groups(self) -> list[Group]:
        """The rows as groups of rollouts, in the order of their first rows, each group's greedy rollout last."""
        rows, width = self.mask.shape
        keys = self.fixture.get("group_ids", range(rows))
        engine = self.column("rollout_logprobs").reshape(rows, width).numpy()
        made: dict[Any, list[Rollout]] = {}
        for row in range(rows):
            places = [place for place in range(width) if self.padded or self.mask[row, place]]
            tokens = [width * row + place for place in places]
            spans = _spans(self.mask[row][places], "unknown" if row in self.case.unknown else "default")
            made.setdefault(keys[row], []).append(_rollout(tokens, [engine[row, t % width] for t in tokens], spans,
                                                           self._components(row), masked=row in self.case.masked))
        for row in range(rows) if len(self.case.greedy) else ():
            if all(r.episode.role != "greedy" for r in made[keys[row]]):
                component = (Component("reward", self.case.greedy[row]),)
                made[keys[row]].append(_rollout([0], [0.0], (Span(0, 1, behaviour="none"),), component, role="greedy"))
        return [Group(str(key), Prompt(str(key), "", None), tuple(found)) for key, found in made.items()]

    def batch(self, groups: Sequence[Group]) -> Batch:
        """Packed in float64."""
        return pack(groups, default=self.case.behaviour, dtype=torch.float64)

    def _components(self, row: int) -> tuple[Component, ...]:
        if self.case.components:
            return tuple(Component(name, float(values[row])) for name, values in self.case.components.items())
        rewards = self.fixture.get("advantages", self.fixture.get("rewards")) if self.case.rewards is None else self.case.rewards
        assert rewards is not None
        reward = rewards[row]
        return () if reward is None else (Component("reward", float(reward)),)


def _spans(trained: np.ndarray, behaviour: Behaviour) -> tuple[Span, ...]:
    """One span for each run of trained or untrained tokens [n]."""
    edges = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), len(trained)]
    return tuple(Span(a, b, behaviour=behaviour if trained[a] else "none") for a, b in pairwise(edges) if b > a)


def _rollout(tokens: Sequence[int], logp: Sequence[float], spans: tuple[Span, ...], components: tuple[Component, ...],
             masked: bool = False, role: str = "policy") -> Rollout:
    known = [float(x) if np.isfinite(x) else None for x in logp]
    completion = Completion(tuple(tokens), tuple(-1.0 if x is None else x for x in known))
    episode = Episode(Prompt("p", "", None), (Turn(Context((1,)), completion, spans=spans),), role=role)
    return Rollout(episode, Verdict(True), components, masked=masked)
