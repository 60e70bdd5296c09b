"""What a run of a comparison left: its curves against steps, tokens and seconds, its end, and its answers problem by problem."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from groupwise.lab.arm_run import Wanted
from groupwise.lab.results import Scores, scores
from groupwise.run import responses
from groupwise.run.disk import read_json, read_lines
from groupwise.run.look import Look, generated, look, smooth

AXES = {"tokens": "thousand tokens sampled", "seconds": "seconds", "steps": "steps"}
METRICS = ("reward", "length_right", "length_wrong", "entropy", "clip_high", "clip_low", "ess", "informative", "grad_norm",
           "truncated")
"""Columns of `metrics.jsonl` that are drawn."""
SMOOTH = 15
"""A curve is smoothed over this part of its steps, before means over seeds are taken."""
Points = Float64[np.ndarray, " n"]


@dataclass(frozen=True)
class Record:
    """A finished run of an arm."""

    wanted: Wanted
    seconds: float

    @cached_property
    def look(self) -> Look:
        """The run's folder."""
        return look(self.wanted.folder)

    @cached_property
    def clocks(self) -> dict[str, Points]:
        """After each step, and at first: steps, tokens (thousands), seconds of steps without evaluations."""
        tokens = [generated(row) / 1000.0 for row in self.look.metrics]
        seconds = [float(row.get("seconds") or 0.0) for row in self.look.timing]
        return {name: np.cumsum([0.0, *each]) for name, each in
                (("tokens", tokens), ("seconds", seconds), ("steps", [1.0] * len(tokens)))}

    def curve(self, name: str, axis: str) -> tuple[Points, Points]:
        """A metric, smoothed, where it is there; `value` is that of the evaluations (as it is)."""
        rows = self.look.evaluations if name == "value" else self.look.metrics
        kept = [(int(row["step"]), float(row[name])) for row in rows if row.get(name) is not None]
        values = [value for _, value in kept]
        if name != "value":
            values = smooth(values, max(1, len(values) // SMOOTH))
        return self.clocks[axis][[step for step, _ in kept]], np.array(values, dtype=np.float64)

    def at(self, tokens: float) -> float:
        """Held-out accuracy when so many thousand tokens had been sampled, between two evaluations on the line through them."""
        x, y = self.curve("value", "tokens")
        return float(np.interp(tokens, x, y)) if len(x) else float("nan")

    def answers(self, which: str = "") -> list[dict[str, Any]]:
        """Every answer to a held-out problem with its verdict; none where problems have several turns."""
        folder = self.wanted.answers(which)
        rows, verdicts = read_lines(folder / responses.RESPONSES), read_lines(folder / responses.VERDICTS)
        return [row | {"verdict": verdict} for row, verdict in zip(rows, verdicts, strict=True)]

    @cached_property
    def scores(self) -> Scores:
        """For each metric (greedy, avg, pass@k) the score of each problem."""
        found = scores(self.answers(), powers(self.wanted.samples))
        return {name: table for name, table in found.items() if not name.startswith("maj@")}

    @cached_property
    def repeats(self) -> dict[str, Any]:
        """What repeated groups showed."""
        file = Path(self.wanted.groups)
        return read_json(file) if self.wanted.repeats and file.is_file() else {}

    def ends(self, tokens: float) -> dict[str, float]:
        """The numbers that arms are compared by; `tokens` is what every run of the comparison has sampled at least, in
        thousands.
        """
        x, y = self.curve("value", "tokens")
        out = {"accuracy": float(y[-1]), "accuracy_at_tokens": self.at(tokens),
               "accuracy_over_run": float(np.trapezoid(y, x) / (x[-1] - x[0]))} if len(y) > 1 else {}
        out |= {name: float(np.mean(list(table.values()))) for name, table in self.scores.items() if name != "pass@1"}
        out |= spoken([row for row in self.answers() if row["mode"] != "greedy"] or self.answers())
        rows = self.look.metrics
        out |= {name: found for name in ("clip_high", "clip_low", "ess", "informative", "grad_norm")
                if (found := _mean(rows, name)) is not None}
        if (entropy := _mean(rows[-max(1, len(rows) // 10):], "entropy")) is not None:
            out["entropy"] = entropy
        for when, found in self.repeats.items():
            out |= {f"{name}_{when}": float(found[name]) for name in ("noise", "flipped", "lost", "empty")
                    if found.get(name) is not None}
        return out | {"steps": float(len(rows)), "tokens": float(sum(map(generated, rows))),
                      "seconds": float(self.clocks["seconds"][-1])}


def spoken(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of some answers: mean tokens by verdict, the share that ran out of them, and how many different texts and answers a problem
    got, as a share of its answers.
    """
    if not rows:
        return {}
    out = {"cut": float(np.mean([row["finish"] == "length" for row in rows]))}
    for name, correct in (("tokens_right", True), ("tokens_wrong", False)):
        if found := lengths(rows, correct):
            out[name] = float(np.mean(found))
    by: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by.setdefault(row["id"], []).append(row)
    if any(len(some) > 1 for some in by.values()):
        out["distinct_texts"] = float(np.mean([len({r["text"] for r in some}) / len(some) for some in by.values()]))
        out["distinct_answers"] = float(np.mean([len({r["verdict"]["extracted"] for r in some}) / len(some) for some
                                                 in by.values()]))
    return out


def lengths(rows: Sequence[Mapping[str, Any]], correct: bool) -> list[int]:
    """Tokens of the answers with a verdict."""
    return [row["tokens"] for row in rows if row["verdict"]["correct"] is correct and row["finish"] != responses.OVERLONG]


def powers(samples: int) -> list[int]:
    """The k of pass@k."""
    return [2**i for i in range(samples.bit_length()) if 2**i <= samples]


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    found = [row[name] for row in rows if row.get(name) is not None]
    return float(np.mean(found)) if found else None
