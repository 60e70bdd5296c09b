"""A run folder as it can be looked at: finished, going on or cut off. What is drawn of it is declared here, for all drawings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from groupwise.errors import ConfigError, nearest
from groupwise.run import toml
from groupwise.run.disk import read_lines
from groupwise.run.lock import running

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Series:
    """A number of one of the run's files; `band` are the columns of its interval."""

    column: str
    label: str
    source: str = "metrics"
    band: tuple[str, str] | None = None


@dataclass(frozen=True)
class Panel:
    """Curves that are drawn together; `zero`: the axis begins at 0."""

    title: str
    unit: str
    series: tuple[Series, ...]
    zero: bool = True


PANELS = (
    Panel("Reward and accuracy", "", (
        Series("value", "held-out accuracy (greedy)", "evaluations", ("low", "high")), Series("reward", "sampled reward"),
        Series("accuracy", "sampled accuracy"))),
    Panel("Completion length", "tokens", (Series("length_right", "right answers"), Series("length_wrong", "wrong answers"))),
    Panel("Entropy of the policy", "nats a token", (Series("entropy", "entropy"),)),
    Panel("Truncated completions", "share", (Series("truncated", "all"), Series("truncated_right", "of right answers"))),
    Panel("Gradient norm", "before clipping", (Series("grad_norm", "gradient norm"),)),
    Panel("KL and mismatch", "nats a token", (
        Series("kl_behaviour_k3", "KL to the sampling policy (k3)"), Series("kl_reference_k3", "KL to the reference (k3)"),
        Series("mismatch_mean", "|learner - engine|"))),
    Panel("Groups", "share", (
        Series("informative", "mixed rewards"), Series("groups_all_correct", "all right"),
        Series("groups_all_wrong", "all wrong"))),
    Panel("Ratios", "", (
        Series("ess", "effective sample size"), Series("clip_high", "clipped above"), Series("clip_low", "clipped below"))),
    Panel("Time of a step", "seconds", (
        Series("generate", "generate", "timing"), Series("verify", "verify", "timing"), Series("train", "train", "timing"),
        Series("evaluate", "evaluate", "timing"))),
)


@dataclass(frozen=True)
class Look:
    """What a run folder holds. `settings` is its run.toml as a table."""

    folder: Path
    settings: Mapping[str, Any]
    metrics: Rows
    timing: Rows
    evaluations: Rows

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.settings.get("name") or self.folder.name)

    @property
    def title(self) -> str:
        """What was run."""
        own = self.settings
        return f"{own.get('method')} on {own.get('task')}, seed {own.get('seed')}"

    @property
    def steps(self) -> tuple[int, int]:
        """Steps done, and steps wanted."""
        return (int(self.metrics[-1]["step"]) if self.metrics else 0), int(self.settings.get("steps", 0))

    @property
    def status(self) -> str:
        """Whether it is finished, in words."""
        done, wanted = self.steps
        budget = int(self.settings.get("token_budget", 0))
        whole = done >= wanted or 0 < budget <= sum(map(generated, self.metrics))
        if (self.folder / "summary.json").exists() and whole:
            return f"finished, {done} steps"
        return f"{'going on' if running(self.folder) else 'cut off'} after step {done} of {wanted}"

    @property
    def seconds(self) -> float:
        """What its steps and evaluations took."""
        return float(sum((row.get("seconds") or 0.0) + (row.get("evaluate") or 0.0) for row in self.timing))

    @cached_property
    def rollouts(self) -> list[dict[str, Any]]:
        """The groups that were kept (read when they are asked for: it is the largest file)."""
        return read_lines(self.folder / "rollouts.jsonl")

    def curve(self, series: Series) -> tuple[list[float], list[float]]:
        """Steps and values of a series, where there is one."""
        return column(getattr(self, series.source), series.column)

    def band(self, series: Series) -> list[tuple[float, float, float]]:
        """Steps with both ends of the interval."""
        low, high = series.band or ("", "")
        return [(float(row["step"]), float(row[low]), float(row[high])) for row in getattr(self, series.source)
                if row.get(low) is not None and row.get(high) is not None]


def look(folder: Path) -> Look:
    """Read a run. Raises ConfigError if the folder holds none, CheckpointError if a file of it is corrupt."""
    file = folder / "run.toml"
    if not file.is_file():
        raise ConfigError(f"{folder} holds no run (no run.toml): give the folder or the name of a run that has begun")
    return Look(folder, toml.read(file.read_text(encoding="utf-8"), str(file)),
                *(read_lines(folder / f"{name}.jsonl") for name in ("metrics", "timing", "evaluations")))


def run_folder(run: str) -> Path:
    """The folder of a run, given as it or as the run's name in runs/. ConfigError with the nearest name if there is none."""
    folder = Path(run) if Path(run).is_dir() else Path("runs") / run
    if not folder.is_dir():
        known = [path.parent.name for path in Path("runs").glob("*/run.toml")]
        raise ConfigError(f"there is no run folder {str(folder)!r}; "
                          f"{nearest(folder.name, known) if known else 'there are no runs here yet'}")
    return folder


def column(rows: Rows, name: str) -> tuple[list[float], list[float]]:
    """Steps and values of a number, where there is one."""
    kept = [(float(row["step"]), float(row[name])) for row in rows if row.get(name) is not None]
    return [step for step, _ in kept], [value for _, value in kept]


def generated(row: Mapping[str, Any]) -> int:
    """Tokens sampled in a step, by its row of metrics."""
    return int(sum(x for name, x in row.items() if name.startswith("tokens/") and name.endswith("/generate")))


def smooth(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and those within half a window of it, narrower towards the ends so that it never lags."""
    out = []
    for i in range(len(values)):
        half = min(window // 2, i, len(values) - 1 - i)
        part = values[i - half:i + half + 1]
        out.append(sum(part) / len(part))
    return out


def drawn(panel: Panel, looks: Sequence[Look]) -> list[tuple[int, int]]:
    """Which curves of a panel there are: index of the run, index of the series. What lies on an earlier curve is left out, as the
    accuracy does where it is the whole reward.
    """
    out = []
    for i, one in enumerate(looks):
        curves = [one.curve(series) for series in panel.series]
        out += [(i, j) for j, curve in enumerate(curves) if curve[1] and (curve not in curves[:j] or len(set(curve[1])) == 1)]
    return out


def limits(panel: Panel, looks: Sequence[Look]) -> tuple[float, float, float, float]:
    """First and last step, lowest and highest value of a panel, intervals included; never empty ranges."""
    steps, values = [], [0.0] if panel.zero else []
    for i, j in drawn(panel, looks):
        own, found = looks[i].curve(panel.series[j])
        steps += own
        values += found
        if panel.series[j].band:
            values += [end for _, *ends in looks[i].band(panel.series[j]) for end in ends]
    low, high = min(values, default=0.0), max(values, default=1.0)
    first, last = min(steps, default=0.0), max(steps, default=1.0)
    return first, last if last > first else first + 1.0, low, high if high > low else low + 1.0


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between two, at most so many and one.

    >>> ticks(0.0, 1.0), ticks(0.0, 37.0)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 10.0, 20.0, 30.0])
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.999)
    return [round(step * k, 12) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
