"""Numbers of a run that experiments compare."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from experiments.common import Measure, Runs, Seen
from groupwise.run.look import generated

LATE = 0.25
"""The part of a run's steps that "at the end" is a mean over."""
COLLAPSED = 0.5


def at_end(column: str, meaning: str, name: str = "") -> Measure:
    """The mean of a column of metrics.jsonl over the last quarter of the steps."""
    def of(run: Seen) -> float:
        rows = run.record.look.metrics
        found = [row[column] for row in rows[-max(1, int(LATE * len(rows))):] if row.get(column) is not None]
        return float(np.mean(found)) if found else float("nan")
    return Measure(name or column, meaning, of)


def end(name: str, meaning: str) -> Measure:
    """A number of `groupwise compare`."""
    return Measure(name, meaning, lambda run: run.ends.get(name, float("nan")))


def average(column: str, meaning: str) -> Measure:
    """The mean of a column of metrics.jsonl over all steps."""
    def of(run: Seen) -> float:
        found = [row[column] for row in run.record.look.metrics if row.get(column) is not None]
        return float(np.mean(found)) if found else float("nan")
    return Measure(column, meaning, of)


ACCURACY = end("accuracy", "held-out accuracy, greedy, after the last step")
AT_TOKENS = end("accuracy_at_tokens", "held-out accuracy, greedy, at the tokens that all runs of the setting had sampled")
AVERAGE = end("avg", "held-out accuracy of drawn answers, after the last step")
STEPS_TOKENS = end("tokens", "tokens sampled in the run")
REWARD = at_end("accuracy", "share of right answers in the last quarter of the steps", "right")
WRONG = at_end("length_wrong", "tokens of wrong answers, last quarter of the steps")
RIGHT = at_end("length_right", "tokens of right answers, last quarter of the steps")
ENTROPY = at_end("entropy", "entropy, nats a token, last quarter of the steps")
CUT = at_end("truncated", "share of answers that ran out of tokens, last quarter of the steps")
INFORMATIVE = average("informative", "share of sampled groups with unequal rewards")


def _clipped(run: Seen) -> float:
    found = [row["clip_high"] + row["clip_low"] for row in run.record.look.metrics if row.get("clip_high") is not None]
    return float(np.mean(found)) if found else float("nan")


CLIPPED = Measure("clipped", "share of trained tokens stopped by the trust rule, mean over the steps", _clipped)


def _collapsed(run: Seen) -> float:
    values = [row["value"] for row in run.record.look.evaluations]
    return float(values[-1] < COLLAPSED * max(values))


COLLAPSE = Measure("collapsed", f"1 if the last held-out accuracy is below {COLLAPSED:g} of the run's best", _collapsed)


def _first(run: Seen) -> float:
    return float(run.record.look.evaluations[0]["value"])


START = Measure("at first", "held-out accuracy, greedy, before the first step", _first)


def _rough(run: Seen) -> float:
    norms = np.array([row["grad_norm"] for row in run.record.look.metrics if row.get("grad_norm")], dtype=np.float64)
    return float(np.diff(np.log(norms)).std(ddof=1) / np.sqrt(2.0)) if len(norms) > 2 else float("nan")


ROUGH = Measure("unevenness", "standard deviation of the logarithm of the gradient's norm from step to step (differences / √2)",
                _rough)


def wrong_at_equal_reward(more: str, other: str) -> Callable[[Runs], float]:
    """Tokens by which wrong answers of one arm are longer than the other's after 100 steps, at equal accuracy.

    The last coefficient of the least squares length_wrong = a + b step + c accuracy + d step [arm] over all steps of both runs.
    Both begin with the same policy, so there is no difference at step 0.
    """
    def statistic(runs: Runs) -> float:
        rows = [(row["step"] / 100.0, row["accuracy"], float(label == more), row["length_wrong"])
                for label in (more, other) for row in runs[label].record.look.metrics if row.get("length_wrong") is not None]
        step, right, arm, length = np.array(rows, dtype=np.float64).T
        found, *_ = np.linalg.lstsq(np.stack([np.ones_like(step), step, right, step * arm], axis=1), length, rcond=None)
        return float(found[3])
    return statistic


def right_at_equal_tokens(more: str, other: str) -> Callable[[Runs], float]:
    """The share of right sampled answers of one arm less that of another, late and at equal tokens.

    Over the last quarter before the tokens that the shorter of both runs sampled; answers of refused groups count too.
    """
    def statistic(runs: Runs) -> float:
        rows = {label: runs[label].record.look.metrics for label in (more, other)}
        spent = {label: np.cumsum([generated(row) for row in some]) for label, some in rows.items()}
        budget = min(float(each[-1]) for each in spent.values())
        late = {label: (each > (1.0 - LATE) * budget) & (each <= budget) for label, each in spent.items()}
        right = {label: float(np.mean(np.array([row["accuracy"] for row in some])[late[label]])) for label, some in rows.items()}
        return right[more] - right[other]
    return statistic


def thirds(run: Seen) -> tuple[float, float, float]:
    """Gains in the accuracy of drawn answers on the hard, middle and easy third of the held-out problems.

    Thirds are by the base policy's own drawn answers, ties in the order of the problems' ids.
    """
    before, after = by_problem(run.base), by_problem(run.record.answers())
    ids = sorted((i for i in before if i in after), key=lambda i: (before[i], i))
    parts = np.array_split(np.array([after[i] - before[i] for i in ids]), 3)
    hard, middle, easy = (float(part.mean()) for part in parts)
    return hard, middle, easy


def by_problem(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The share of right drawn answers of every problem."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["mode"] != "greedy" and row["verdict"]["correct"] is not None:
            found.setdefault(row["id"], []).append(float(row["verdict"]["correct"]))
    return {key: float(np.mean(some)) for key, some in found.items()}


def _third(i: int, name: str) -> Measure:
    return Measure(f"gain, {name} third", f"gain in drawn accuracy on the {name} third of the held-out problems",
                   lambda run: thirds(run)[i])


HARD, MIDDLE, EASY = _third(0, "hard"), _third(1, "middle"), _third(2, "easy")


def _outer(run: Seen) -> float:
    hard, middle, easy = thirds(run)
    return (hard + easy) / 2.0 - middle


OUTER = Measure("outer thirds", "gain on the hard and easy thirds less the gain on the middle one", _outer)


def spread(measure: Measure, groups: Sequence[Sequence[str]]) -> Callable[[Runs], float]:
    """The mean absolute difference of a measure between two arms of a group, over all pairs of every group."""
    pairs = [pair for group in groups for pair in combinations(group, 2)]
    return lambda runs: float(np.mean([abs(measure.of(runs[a]) - measure.of(runs[b])) for a, b in pairs]))
