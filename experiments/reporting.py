"""The declaration and the report of an experiment, as Markdown, data and a picture; and the command line of a script."""

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common import HERE, RULE, STOP, Experiment, Measure, Runs, Setting, check, judged, least, make_bases, run
from groupwise.errors import GroupwiseError
from groupwise.run.machine import cores
from groupwise.run.paired import band
from groupwise.run.plot import COLOURS, DASHES, STYLE

REPORTS = HERE / "reports"
DRAWN = ("value", "length_wrong", "length_right", "entropy")
TITLES = {"value": "held-out accuracy", "length_wrong": "tokens of wrong answers", "length_right": "tokens of right answers",
          "entropy": "entropy, nats a token"}


def main(experiment: Experiment, words: Sequence[str] | None = None) -> int:
    """The command line of an experiment's script."""
    parser = argparse.ArgumentParser(description=experiment.question)
    parser.add_argument("--plan", action="store_true", help="print what was declared, and run nothing")
    parser.add_argument("--report", action="store_true", help="write the report anew from its data, and run nothing")
    parser.add_argument("--jobs", type=int, default=0, help="runs at a time; 0: one for each core")
    parser.add_argument("--only", default="", help="run this setting alone; the others are reported as they are")
    own = parser.parse_args(words)
    check(experiment)
    if own.plan:
        print(plan(experiment))
        return 0
    if own.report:
        write(experiment, {})
        return 0
    make_bases(experiment, print)
    for setting in experiment.settings:
        if own.only in ("", setting.name):
            print(f"{experiment.name}: {setting.name}", flush=True)
            write(experiment, _outcome(experiment, setting, own.jobs))
    return 0


def _outcome(experiment: Experiment, setting: Setting, jobs: int) -> dict[str, Any]:
    """What a setting came to, as JSON values; why, if it could not be run."""
    began = time.perf_counter()
    try:
        found, runs = run(setting, jobs, lambda text: print(text, flush=True))
    except GroupwiseError as error:
        return {"name": setting.name, "trouble": str(error)}
    made = [one["made_now_seconds"] for arm in found["arms"] for one in arm["runs"] if one]
    out = {"name": setting.name, "machine": {**machine(), **found["machine"]}, "made": time.strftime("%Y-%m-%d"),
           "seconds": round(time.perf_counter() - began), "process_seconds": round(sum(made)),
           "new_runs": sum(x > 0 for x in made), "jobs": jobs or cores(),
           **{key: found[key] for key in ("matched", "unmatched", "notes", "prompts")},
           "seeds": [one[next(iter(one))].record.wanted.run.seed for one in runs],
           "arms": {label: {"word": setting.arms[label], "base": arm["base"], "objective": arm["objective"],
                            "runs": [Path(r["folder"]).name if r else None for r in arm["runs"]],
                            "values": {m.name: values(m, runs, label) for m in setting.shows}}
                    for label, arm in zip(setting.arms, found["arms"], strict=True)},
           "tests": [judged(test, experiment, runs) for test in experiment.tests if test.setting == setting.name]}
    picture(found["curves"]["steps"], list(setting.arms), f"{experiment.name}, {setting.name}", file(experiment, setting, "png"))
    return out


def values(measure: Measure, runs: Sequence[Runs], label: str) -> list[float]:
    """A measure of an arm, seed by seed."""
    return [float(f"{measure.of(one[label]):.5g}") for one in runs]


def machine() -> dict[str, Any]:
    """What it ran on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {"processor": name, "cores": cores(), "python": platform.python_version(),
            "load": [round(x, 1) for x in os.getloadavg()] if hasattr(os, "getloadavg") else []}


def file(experiment: Experiment, setting: Setting, ending: str) -> Path:
    """A file of a setting's report."""
    return REPORTS / f"{experiment.name}-{setting.name.replace(' ', '-').replace(',', '')}.{ending}"


def write(experiment: Experiment, outcome: Mapping[str, Any]) -> None:
    """A setting's outcome (or none) beside those that are there, and the report of all of them anew."""
    REPORTS.mkdir(exist_ok=True)
    data = REPORTS / f"{experiment.name}.json"
    kept = json.loads(data.read_text(encoding="utf-8"))["settings"] if data.is_file() else []
    rows = {one["name"]: one for one in (*kept, *([outcome] if outcome else []))}
    rows = {s.name: rows[s.name] for s in experiment.settings if s.name in rows}
    found = {"name": experiment.name, "question": experiment.question, "settings": list(rows.values())}
    data.write_text(json.dumps(found, indent=1).replace("NaN", "null") + "\n", encoding="utf-8")
    (REPORTS / f"{experiment.name}.md").write_text(report(experiment, rows), encoding="utf-8")


def plan(experiment: Experiment) -> str:
    """What was declared before anything was run."""
    lines = [f"## {experiment.title}", "", f"`python -m experiments.{experiment.name}`", "", experiment.question, "",
             f"Claimed: {experiment.claim}", ""]
    for s in experiment.settings:
        lines += [f"**Setting: {s.name}.** {s.seeds} seeds, every arm with `{' '.join(s.words)}`; after training {s.problems} "
                  f"held-out problems, once greedily and {s.samples} times drawn{_repeats(s)}.", ""]
        lines += [f"- {label}: `{word}`" for label, word in s.arms.items()]
        lines += [""]
    lines += ["| statistic | setting | claimed sign | standard deviation expected | smallest detectable effect |",
              "| --- | --- | :---: | ---: | ---: |"]
    lines += [f"| {t.name} | {t.setting} | {claimed(t.sign, t.margin)} | {t.sd:g} | {least(t, experiment):.3g} |"
              for t in experiment.tests]
    bases = [f"Base policy `{name}`: `groupwise warmup --out runs/bases/{name} {' '.join(words)}`." for name, words
             in experiment.bases.items()]
    return "\n".join([*lines, "", f"Expected standard deviations: {experiment.spread}", *bases, experiment.extra]).rstrip() + "\n"


def claimed(sign: int, margin: float) -> str:
    """What a test's claim is, for a table."""
    return f"within {margin:g}" if margin else "+-"[sign < 0] if sign else "none"


def _repeats(setting: Setting) -> str:
    return f"; the first batch answered {setting.repeats} times over" if setting.repeats else ""


def report(experiment: Experiment, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The report of the settings that have been run."""
    lines = [f"# {experiment.title}", "", experiment.question, "", f"Claimed: {experiment.claim}", "", RULE, "",
             "| statistic | setting | claimed | value | 95 % | p | detectable, seen (declared) | verdict |",
             "| --- | --- | :---: | ---: | ---: | ---: | ---: | --- |"]
    for setting in experiment.settings:
        found = rows.get(setting.name, {}).get("tests")
        lines += [_test(one) for one in found or []]
        if found is None:
            lines += [f"| all | {setting.name} | | | | | | not run |"]
    for setting in experiment.settings:
        if one := rows.get(setting.name):
            lines += ["", f"## {setting.name}", "", *_setting(experiment, setting, one)]
    return "\n".join([*lines, "", "## As declared", "", STOP, "", plan(experiment)])


def _test(one: Mapping[str, Any]) -> str:
    sign = claimed(one["sign"], one.get("margin", 0.0))
    if "value" not in one:
        return f"| {one['name']} | {one['setting']} | {sign} | | | | ({one['least_expected']:.3g}) | {one['verdict']} |"
    return (f"| {one['name']} | {one['setting']} | {sign} | {one['value']:+.3g} | [{one['low']:+.3g}, {one['high']:+.3g}] | "
            f"{one['p']:.2g} | {one['detectable']:.3g} ({one['least_expected']:.3g}) | {one['verdict']} |")


def _setting(experiment: Experiment, setting: Setting, one: Mapping[str, Any]) -> list[str]:
    """Arms with the mean of what is shown and its interval, what differs, what it ran on."""
    if "trouble" in one:
        return [f"Not run: {one['trouble']}"]
    lines = ["| mean over seeds, 95 % | " + " | ".join(setting.arms) + " |", "| --- |" + " ---: |" * len(setting.arms)]
    for m in (m for m in setting.shows if m.name in one["arms"][next(iter(setting.arms))]["values"]):
        lines += [f"| {m.meaning} | " + " | ".join(_mean(one["arms"][label]["values"][m.name]) for label in setting.arms) + " |"]
    lines += ["", f"![{setting.name}]({file(experiment, setting, 'png').name})", ""]
    if one["unmatched"]:
        lines += ["Differs besides the method: " + "; ".join(one["unmatched"]) + ".", ""]
    lines += [f"Prompts: {one['prompts']}.", *(f"Note: {text}." for text in one["notes"])]
    at_once = {1: "one", 2: "two"}.get(jobs := one.get("jobs", 2), str(jobs))
    m, before = one["machine"], ", the others made before" if one["new_runs"] < len(one["seeds"]) * len(setting.arms) else ""
    return [*lines, "", f"Seeds {', '.join(map(str, one['seeds']))}; base weights "
            f"{', '.join(sorted({a['base'] for a in one['arms'].values()}))}; {m['processor']}, {m['cores']} cores shared with "
            f"other work (load {', '.join(map(str, m['load']))}), one thread a run, torch {m['torch']}, transformers "
            f"{m['transformers']}; {one['new_runs']} runs in {one['seconds']} s, {at_once} at a time{before}; {one['made']}.", "",
            f"    python -m experiments.{experiment.name}"]


def _mean(found: Sequence[float]) -> str:
    """A mean over seeds with Student's interval."""
    there = np.array([x for x in found if x is not None and math.isfinite(x)])
    if not len(there):
        return "-"
    centre, low, high = band(there[:, None])[0]
    return f"{_short(centre)} [{_short(low)}, {_short(high)}]"


def _short(x: float) -> str:
    """Three figures, or whole thousands written out.

    >>> [_short(x) for x in (145123.4, 0.5, 0.000521, -3e-5)]
    ['145,123', '0.5', '0.00052', '0']
    """
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}" if abs(x) >= 0.001 else f"{x:.2g}" if abs(x) >= 1e-4 else "0"


def picture(curves: Sequence[Mapping[str, Any]], labels: Sequence[str], title: str, path: Path) -> None:
    """Curves of all arms against steps, means over seeds with their intervals."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    path.parent.mkdir(exist_ok=True)
    with rc_context(STYLE):
        figure = Figure(figsize=(10.0, 5.6), layout="constrained")
        for axes, name in zip(figure.subplots(2, 2).flat, DRAWN, strict=True):
            for i, (label, found) in enumerate(zip(labels, curves, strict=True)):
                rows = found.get(name, [])
                x = [row["step"] for row in rows]
                colour = COLOURS[i % len(COLOURS)]
                axes.plot(x, [row[name] for row in rows], DASHES[i // 4 % 4], color=colour, label=label, lw=1.4)
                axes.fill_between(x, [row[f"{name}/low"] for row in rows], [row[f"{name}/high"] for row in rows],
                                  color=colour, alpha=0.12, lw=0)
            axes.set_title(TITLES[name], fontsize=10)
        figure.suptitle(f"{title}: mean over seeds with 95 % intervals, against steps", x=0.01, ha="left", fontsize=11)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=4)
        figure.savefig(path, dpi=80, facecolor="white")
    smaller(path)


def smaller(path: Path) -> None:
    """The picture in 256 colours, less than half of the bytes."""
    from PIL import Image  # comes with matplotlib
    with Image.open(path) as full:
        small = full.convert("RGB").quantize(256)
    small.save(path, optimize=True)
