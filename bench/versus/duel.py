"""The measurements: both sides on one machine in turns, so that what slows the machine down slows both down."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from versus import figures
from versus.setting import WHOLE, Setting, agreement
from versus.sides import THREADS, Trl, ours

START, STEP = 300.0, 120.0
"""Seconds that a process may take to start and end, and that any one step may take: beyond, it hangs."""
SHOWN = 500
"""Completions that both sides judge."""
SPARE = 30.0
HOPELESS = 2.5
"""Times the wall time of another thread setting, after which one is given up."""


@dataclass
class Table:
    """Where the two meet: a folder to work in, TRL's python and threads, and what was measured so far."""

    room: Path
    python: Path
    threads: str = ""
    raw: dict[str, Any] = field(default_factory=dict)

    def ours(self, setting: Setting, steps: int, every: int = 0, more: Sequence[str] = ()) -> dict[str, Any]:
        """One run of ours."""
        return ours(setting, self.room, steps=steps, every=every, deadline=START + steps * STEP, more=more)

    def trl(self, setting: Setting, steps: int, every: int = 0, threads: str = "", spare: float = 0.0, **job: Any) -> Trl:
        """TRL at work."""
        return Trl(self.python, setting, self.room, threads=threads or self.threads, deadline=START + steps * STEP + spare,
                   steps=steps, eval_every=every, **job)


def probe(table: Table, setting: Setting, steps: int) -> None:
    """Try TRL's thread settings in a few steps each, between runs of ours, and keep the fastest; compare the rewards.

    A setting is given up that takes much longer than another did.
    """
    found: dict[str, Any] = {}
    table.raw["probes"] = {"steps": steps, "trl": found, "ours": []}
    for name in THREADS:
        table.raw["probes"]["ours"].append(table.ours(setting, steps))
        with table.trl(setting, steps, threads=name, check=0 if found else SHOWN) as trl:
            gave_up = trl.paused(HOPELESS * min((one["wall"] for one in found.values()), default=math.inf))
            result = trl.result() | {"gave_up": gave_up}
        if shown := result.pop("check", None):
            table.raw["rewards"] = agreement(setting, shown)
        found[name] = result | {"median": figures.phases([result["steps"]])}
        print(f"TRL, {name}: {found[name]['median'].get('step', math.nan):.2f} s a step{' (given up)' * gave_up}", flush=True)
    whole = [name for name, one in found.items() if not one["gave_up"]]
    table.threads = min(whole, key=lambda name: found[name]["median"]["step"])
    table.raw["probes"]["chosen"] = table.threads


def accuracy(table: Table, setting: Setting, *, steps: int, every: int, turns: int, until: float) -> dict[str, Any]:
    """Train on both sides with evaluations; TRL waits at some of its own while ours runs once more.

    At `until` (of time.monotonic) TRL stops at its next evaluation.
    """
    runs = [table.ours(setting, steps, every)]
    whole = runs[0]["wall"]
    with table.trl(setting, steps, every, spare=(turns + 1) * (START + 2 * whole), pause=True) as trl:
        while trl.paused():
            sofar = trl.result()
            made, clock = len(sofar["steps"]), sum(one["step"] for one in sofar["steps"])
            pace = clock / made + sofar["curve"][-1]["evaluate"] / every
            free = until - time.monotonic() - SPARE - whole - every * pace
            if len(runs) < turns - 1 and made * turns >= steps * len(runs) and free > whole:
                runs.append(table.ours(setting, steps, every))
            trl.go(on=until - time.monotonic() - SPARE - whole > every * pace)
        result = trl.result()
    if turns > 1:
        runs.append(table.ours(setting, steps, every))
    return compared(result, runs)


def compared(trl: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What a run of TRL and runs of ours from the same start say: medians over the steps that both made, ratios, accuracies."""
    last = len(trl["steps"])
    median = {"trl": figures.phases([trl["steps"]], last), "ours": figures.phases([run["steps"] for run in runs], last)}
    ratio: dict[str, float | None] = dict(figures.ratios(median["trl"], median["ours"]))
    held = [[run["memory_mb"].get("marks") for run in some] for some in ([trl], runs)]
    ratio["memory"] = max(held[0]) / max(held[1]) if all(x for some in held for x in some) else None
    race = figures.race(trl["curve"], [run["curve"] for run in runs])
    ratio["time_to_accuracy"] = race.get("ratio")
    return {"ratio": ratio, "per_token": figures.per_token(median["trl"], median["ours"]), "median": median, "race": race,
            "accuracy": figures.same(trl["curve"], runs[0]["curve"]),
            "ours_repeats_itself": len({tuple(one["value"] for one in run["curve"]) for run in runs}) == 1,
            "compute": runs[0]["compute"], "settings": runs[0]["settings"], "threads": trl["setting"], "trl": trl,
            "ours": [{name: value for name, value in run.items() if name not in ("compute", "settings")} for run in runs]}


def timing(table: Table, setting: Setting, *, steps: int, turns: int = 2) -> dict[str, Any]:
    """A few steps of TRL, and before and after it as many of ours, with and without the skipping of idle groups."""
    variants: dict[str, tuple[str, ...]] = {"skipping": (), "whole": ("--method", WHOLE)}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    result: dict[str, Any] = {}
    for turn in range(turns):
        for name, more in variants.items():
            runs[name].append(table.ours(setting, steps, more=more))
        if turn == 0:
            with table.trl(setting, steps) as trl:
                trl.paused()
                result = trl.result()
    out: dict[str, Any] = {name: compared(result, some) for name, some in runs.items()}
    for one in out.values():
        one.pop("trl")
    idle = [share for run in runs["skipping"] for share in run["idle"]]
    return {"ratio": {name: one["ratio"] for name, one in out.items()}, "idle_share": statistics.mean(idle), "trl": result, **out}
