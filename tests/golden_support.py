"""The golden vectors and their fixture: rows as groups of rollouts, columns by token id."""

import json
from dataclasses import dataclass, field
from importlib.resources import files

import numpy as np
import torch
from objectives_support import group, rollout, tensor, turn

DATA = json.loads((files("groupwise.lab") / "vectors" / "objectives.json").read_text())
VECTORS = {v["id"]: v for v in DATA["vectors"]}
MAIN, EDGE = DATA["fixtures"]["main"], DATA["fixtures"]["edge"]
EXACT, SINGLE = 1e-9, 1e-7


def groups_of(rewards, *, padded, masked=(), fixture=MAIN):
    """The fixture's rows as groups: token id 6 * row + position (2 * row in the edge fixture, with groups of one)."""
    width = len(fixture["response_mask"][0])
    keys = fixture.get("group_ids", range(len(rewards)))
    engine = fixture.get("rollout_logprobs", np.full((len(rewards), width), -1.0))
    made = {}
    for row, (key, reward) in enumerate(zip(keys, rewards, strict=True)):
        length = int(sum(fixture["response_mask"][row]))
        kept = width if padded else length
        tokens = [width * row + place for place in range(kept)]
        made.setdefault(key, []).append(rollout(reward, turn(tokens, engine[row][:kept], untrained=kept - length),
                                                masked=row in masked))
    return [group(str(key), *rows) for key, rows in made.items()]


def table(padded):
    """Per token id; the fixture's own garbage at the padding is made worse."""
    spoilt = tensor(MAIN["response_mask"]).flatten() == 0
    names = {"logp": "new", "old_logp": "old", "ref_logp": "ref"}
    found = {name: tensor(MAIN[f"{key}_logprobs"]).flatten() for name, key in names.items()}
    return {name: torch.where(spoilt, torch.nan if name == "logp" else 1e9, x) if padded else x for name, x in found.items()}


def tolerance(vector):
    """1e-9, unless the reference itself is farther than that from the equation: then it computed in float32."""
    off = max(vector.get("crosscheck", {}).get("max_abs_diff", {"": 0.0}).values())
    return SINGLE if off > EXACT else EXACT


@dataclass
class Deviations:
    """Largest deviation of each vector: the table in the message of the last test."""

    worst: dict = field(default_factory=dict)

    def check(self, name, what, got, expected, limit):
        off = float(np.max(np.abs(np.asarray(got) - np.asarray(expected))))
        self.worst[name] = max(self.worst.get(name, 0.0), off)
        assert off <= limit, f"{name}: {what} is off by {off:.3g}, allowed {limit:g}"
