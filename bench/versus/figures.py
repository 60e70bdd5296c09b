"""What is made of the measurements: medians, ratios, the time to an accuracy, and whether two accuracies differ."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from groupwise.run.evaluate import wilson

LADDER = tuple(round(0.05 * i, 2) for i in range(1, 20))
"""The accuracies that a time may be taken to: the highest that both sides reach is."""
WARM = 1
"""Steps at the beginning of a process that are not counted: they allocate, and wake what sleeps."""

Step = Mapping[str, float]
Curve = Sequence[Mapping[str, float]]


def phases(runs: Sequence[Sequence[Step]], last: int | None = None) -> dict[str, float]:
    """Medians over the steps of all runs, up to `last` and without the first.

    A step has seconds of `step`, `generation` and `train`, and the `tokens` generated.
    """
    steps = [one for run in runs for one in run[WARM:last]]
    if not steps:
        return {}
    out = {name: statistics.median(one[name] for one in steps) for name in ("step", "generation", "train", "tokens")}
    out |= {f"{name}_per_token": statistics.median(one[name] / one["tokens"] for one in steps)
            for name in ("step", "generation", "train")}
    return out | {"tokens_per_second": 1.0 / out["generation_per_token"], "counted": len(steps)}


def ratios(trl: Mapping[str, float], ours: Mapping[str, float]) -> dict[str, float]:
    """TRL / ours, larger is better: seconds of a step and of its training, seconds of a generated token."""
    if not trl or not ours:
        return {}
    return {"step": trl["step"] / ours["step"], "generation": trl["generation_per_token"] / ours["generation_per_token"],
            "train": trl["train"] / ours["train"]}


def per_token(trl: Mapping[str, float], ours: Mapping[str, float]) -> dict[str, float]:
    """The ratios with all seconds divided by the tokens that the step generated."""
    if not trl or not ours:
        return {}
    return {name: trl[f"{name}_per_token"] / ours[f"{name}_per_token"] for name in ("step", "generation", "train")}


def crossing(curve: Curve, accuracy: float) -> float | None:
    """Seconds of training until the curve is first at an accuracy, linear between evaluations; None if it never is.

    >>> crossing([{"seconds": 0, "value": 0.5}, {"seconds": 10, "value": 0.7}], 0.6)
    5.0
    """
    for before, after in itertools.pairwise(curve):
        if before["value"] < accuracy <= after["value"]:
            share = (accuracy - before["value"]) / (after["value"] - before["value"])
            return float(before["seconds"] + share * (after["seconds"] - before["seconds"]))
    return None


def race(trl: Curve, ours: Sequence[Curve]) -> dict[str, Any]:
    """Time to the highest accuracy of the ladder that all curves reach from below, and its ratio; empty if there is none.

    Of several curves of ours (one run, timed several times) the median time counts.
    """
    for accuracy in reversed(LADDER):
        theirs, own = crossing(trl, accuracy), [crossing(curve, accuracy) for curve in ours]
        known = [seconds for seconds in own if seconds is not None]
        if theirs is not None and known and len(known) == len(own):
            mine = statistics.median(known)
            return {"accuracy": accuracy, "trl_seconds": theirs, "our_seconds": mine, "ratio": theirs / mine}
    return {}


def same(trl: Curve, ours: Curve) -> list[dict[str, Any]]:
    """At every step that both were evaluated at (after the first): both accuracies with 95 % intervals, and the p-value of their
    being one proportion.
    """
    mine = {one["step"]: one for one in ours}
    return [{"step": one["step"], "trl": shown(one), "ours": shown(mine[one["step"]]), "p": p_value(one, mine[one["step"]])}
            for one in trl if one["step"] in mine and one["step"] > 0]


def parity(seeds: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Over the tables of `same` of several seeds: at every shared step the accuracies of all prompts of all seeds, their p-value,
    and the mean difference (ours - TRL) with the range over seeds.
    """
    out = []
    for step in sorted(set.intersection(*({row["step"] for row in rows} for rows in seeds))) if seeds else ():
        rows = [row for some in seeds for row in some if row["step"] == step]
        n = sum(row["trl"]["n"] for row in rows)
        pooled = {side: {"value": sum(row[side]["value"] * row[side]["n"] for row in rows) / n, "n": n}
                  for side in ("trl", "ours")}
        gaps = [row["ours"]["value"] - row["trl"]["value"] for row in rows]
        out.append({"step": step, "seeds": len(rows), **{side: shown(one) for side, one in pooled.items()},
                    "p": p_value(pooled["trl"], pooled["ours"]), "difference": statistics.mean(gaps), "differences": gaps})
    return out


def shown(one: Mapping[str, float]) -> dict[str, float]:
    """An accuracy with its interval (Wilson)."""
    low, high = wilson(round(one["value"] * one["n"]), int(one["n"]))
    return {"value": one["value"], "low": low, "high": high, "n": one["n"]}


def p_value(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """The two-sided chance of so large a difference if both were one proportion: the pooled z-test.

    The prompts are the same on both sides, which the test does not use: it knows nothing of the variation between runs either.

    >>> round(p_value({"value": 0.6, "n": 500}, {"value": 0.5, "n": 500}), 4)
    0.0015
    """
    pooled = (a["value"] * a["n"] + b["value"] * b["n"]) / (a["n"] + b["n"])
    spread = math.sqrt(pooled * (1 - pooled) * (1 / a["n"] + 1 / b["n"]))
    return 1.0 if spread == 0.0 else math.erfc(abs(a["value"] - b["value"]) / spread / math.sqrt(2))


def rounded(value: Any, digits: int = 6) -> Any:
    """The same with all its floats to so many significant digits; what is not finite becomes None."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: rounded(one, digits) for name, one in value.items()}
    return [rounded(one, digits) for one in value] if isinstance(value, list | tuple) else value
