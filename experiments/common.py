"""What an experiment is, declared before it is run: settings, statistics, the effect that it could detect; and running it.

    python -m experiments.a_length              run what is missing, and write reports/a_length.md, .json and .png
    python -m experiments.a_length --plan       the declaration

From the checkout's root. Runs are those of `groupwise compare`: in runs/, known by their content, not made twice.
"""

import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.traces import write
from groupwise.errors import ConfigError
from groupwise.lab import comparison
from groupwise.lab.arm_record import Record
from groupwise.lab.arm_run import Wanted
from groupwise.lab.arms import Arm, arms
from groupwise.run.paired import detectable, paired
from groupwise.run.settings import Run
from groupwise.run.toml import text_of

HERE = Path(__file__).resolve().parent
BASES = Path("runs") / "bases"
EMBEDDED = ("--model", "groupwise/tasks/policies/reduce")
"""The embedded policy, for tasks that have none of their own."""
SMALL = ("--prompts-per-step", "16", "--steps", "60", "--max-tokens", "96", "--eval-prompts", "200", "--eval-every", "15",
         "--checkpoint-every", "0", "--keep-rollouts", "0", "--device", "cpu")
"""What most experiments share: 60 batches of 16 problems with 8 answers, of at most 96 tokens where 63 are enough."""
FOUR = (*SMALL, "--updates-per-batch", "4")
"""The same, a batch cut into four optimiser steps."""
REASONS = ("--model", "runs/bases/reasons")
"""A policy that always reasons, of which seeds end much nearer to each other than of the embedded one."""
SHORTER = (*FOUR, *REASONS, "--steps", "40")
MAKE_REASONS = {"reasons": ("--start", EMBEDDED[1], "--traces", "runs/bases/reasons.jsonl", "--steps", "150", "--lr", "3e-4",
                            "--threads", "1")}
CHANGED = ("First declared with the embedded policy; changed before it was run, as (a) and (f) had shown that seeds of that "
           "policy end 20 points apart.")
ALPHA = 0.05


@dataclass(frozen=True)
class Seen:
    """A finished run as statistics see it: its record, its numbers at the end, and the answers of the policy it began with."""

    record: Record
    ends: Mapping[str, float]
    base: Sequence[Mapping[str, Any]]


Runs = Mapping[str, Seen]
"""The runs of one seed, by the label of their arm."""


@dataclass(frozen=True)
class Measure:
    """A number of a run, with what it is, unit included."""

    name: str
    meaning: str
    of: Callable[[Seen], float]


@dataclass(frozen=True)
class Setting:
    """Arms (label -> word of `groupwise compare`) with the same words behind them, over seeds, and what is shown of them."""

    name: str
    arms: Mapping[str, str]
    words: tuple[str, ...]
    shows: tuple[Measure, ...]
    seeds: int = 6
    samples: int = 4
    problems: int = 200
    repeats: int = 0


@dataclass(frozen=True)
class Test:
    """A statistic of the runs of a seed, the sign that the claim gives it (0: none), and the standard deviation over seeds that
    was expected when it was declared, from which the smallest detectable effect follows. With a margin it asks whether the
    difference is smaller than that.
    """

    name: str
    setting: str
    statistic: Callable[[Runs], float]
    sign: int
    sd: float
    margin: float = 0.0


@dataclass(frozen=True)
class Experiment:
    """A question, what the papers claim, how it is answered, and where the expected standard deviations come from."""

    name: str
    title: str
    question: str
    claim: str
    settings: tuple[Setting, ...]
    tests: tuple[Test, ...]
    spread: str
    bases: Mapping[str, tuple[str, ...]]
    extra: str = ""


STOP = ("All seeds of a setting are run, none is added or left out after looking. A run that fails is left out with the others "
        "of its seed, and named. A setting that has not ended when the machine's time is up is reported as not run.")
RULE = ("A claim is seen if the 95 % interval of the statistic lies on its side of 0 and p of the sign-flip test is below "
        f"{ALPHA}; the opposite is seen if it lies on the other side. Where a margin is declared, the arms are equal if the 95 % "
        "interval lies within it. Everything else in a report is description.")


def contrast(measure: Measure, parts: Mapping[str, float]) -> Callable[[Runs], float]:
    """A sum of a measure over arms, each with its coefficient."""
    return lambda runs: sum(c * measure.of(runs[label]) for label, c in parts.items())


def less(measure: Measure, more: str, other: str) -> Callable[[Runs], float]:
    """What an arm has more than another."""
    return contrast(measure, {more: 1.0, other: -1.0})


def least(test: Test, experiment: Experiment) -> float:
    """The smallest effect that the test finds in 80 % of cases, if seeds differ as expected."""
    return detectable(test.sd, setting_of(test, experiment).seeds)


def setting_of(test: Test, experiment: Experiment) -> Setting:
    """The setting of a test."""
    return next(s for s in experiment.settings if s.name == test.setting)


def arms_of(setting: Setting) -> list[Arm]:
    """The arms of a setting, composed and checked."""
    return arms(list(setting.arms.values()), setting.words, Run())


def make_bases(experiment: Experiment, say: Callable[[str], None]) -> None:
    """The base policies that are not there yet."""
    for name, words in experiment.bases.items():
        if not (BASES / name).is_dir():
            say(f"making the base policy {name}")
            if "--traces" in words:
                write(Path(words[words.index("--traces") + 1]))
            subprocess.run([sys.executable, "-m", "groupwise", "warmup", "--out", str(BASES / name), *words], check=True)


def run(setting: Setting, jobs: int, say: Callable[[str], None]) -> tuple[dict[str, Any], list[Runs]]:
    """The comparison of a setting as JSON values, and its runs seed by seed, without seeds of which one failed."""
    plan = comparison.Plan(seeds=setting.seeds, jobs=jobs, samples=setting.samples, problems=setting.problems,
                           repeats=setting.repeats)
    found = comparison.compare(arms_of(setting), plan, say)
    return found, seen(found, list(setting.arms))


def seen(found: Mapping[str, Any], labels: Sequence[str]) -> list[Runs]:
    """The runs of a comparison's results, seed by seed."""
    plan, out, bases = found["plan"], list[Runs](), dict[int, list[dict[str, Any]]]()
    for s in range(found["seeds"]):
        rows = [arm["runs"][s] for arm in found["arms"]]
        if any(row is None for row in rows):
            continue
        runs: dict[str, Seen] = {}
        for a, (label, row) in enumerate(zip(labels, rows, strict=True)):
            folder = Path(row["folder"])
            wanted = Wanted(text_of(folder / "run.toml"), plan["samples"], plan["problems"], plan["repeats"], s == 0,
                            str(folder.parent))
            record = Record(wanted, 0.0)
            if s == 0:
                bases[a] = record.answers("base")
            runs[label] = Seen(record, {k: v for k, v in row.items() if isinstance(v, float)}, bases.get(a, []))
        out.append(runs)
    return out


def judged(test: Test, experiment: Experiment, runs: Sequence[Runs]) -> dict[str, Any]:
    """A test's outcome: the statistic of every seed, its mean with interval and p, and the verdict by the rule."""
    values = np.array([test.statistic(one) for one in runs], dtype=np.float64)
    values = values[np.isfinite(values)]
    out: dict[str, Any] = {"name": test.name, "setting": test.setting, "sign": test.sign, "margin": test.margin,
                           "sd_expected": test.sd, "least_expected": least(test, experiment), "values": values.tolist()}
    if len(values) < 2:
        return out | {"verdict": "not run"}
    p = paired(values, np.zeros_like(values))
    return out | asdict(p) | {"verdict": verdict(p.value, p.low, p.high, p.p, test.sign, test.margin)}


def verdict(value: float, low: float, high: float, p: float, sign: int, margin: float = 0.0) -> str:
    """What a statistic says of the claim, by the rule."""
    if margin and -margin < low and high < margin:
        return "equal"
    if low <= 0.0 <= high or not p < ALPHA:
        return "not settled" if margin else "not seen"
    if sign == 0:
        return "a difference"
    return "as claimed" if math.copysign(1.0, value) == sign else "the opposite"


def check(experiment: Experiment) -> None:
    """ConfigError: a test of no setting, more than three settings, or two of one name."""
    names = [s.name for s in experiment.settings]
    if len(names) > 3 or len(set(names)) < len(names) or any(t.setting not in names for t in experiment.tests):
        raise ConfigError(f"experiment {experiment.name!r}: at most three settings with names of their own, and tests of these")
