"""The two sides, each a process of its own: `groupwise train`, and TRL's trainer."""

import json
import math
import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from groupwise.run.disk import read_lines
from groupwise.run.machine import cores
from versus.setting import Setting
from versus.watch import Watched, environment

ROOT = Path(__file__).resolve().parent.parent.parent
THREADS: dict[str, dict[str, str]] = {"all cores, passive": {"OMP_WAIT_POLICY": "PASSIVE"}, "one thread": {}, "all cores": {}}
"""How TRL may use the processor; threads that spin while they wait can be a gain or, where others work too, a disaster."""


def threads_of(name: str) -> tuple[int, dict[str, str]]:
    """Number of threads and environment of a thread setting."""
    number = 1 if name == "one thread" else cores()
    return number, THREADS[name] | {"OMP_NUM_THREADS": str(number)}


def ours(setting: Setting, room: Path, *, steps: int, every: int, deadline: float, more: Sequence[str] = ()) -> dict[str, Any]:
    """Run `groupwise train` in a folder and read what it wrote. FailedError if it fails."""
    name = f"ours-{sum(1 for _ in room.glob('ours-*.log'))}"
    command = [sys.executable, "-m", "groupwise", "train", *setting.words, "--run", name, "--steps", str(steps), "--eval-every",
               str(every), "--checkpoint-every", "0", *more]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH", "")])])
    with Watched(command, log=room / f"{name}.log", deadline=deadline, cwd=room, env=environment(PYTHONPATH=path)) as run:
        run.wait()
        return read_run(room / "runs" / name) | run.report()


def read_run(folder: Path) -> dict[str, Any]:
    """Steps and accuracy curve of a run folder, in the words of this comparison, and what computed.

    `train` is all that follows collection: packing, credit, forward, backward, optimiser, and the new weights for the engine.
    """
    timing, metrics = read_lines(folder / "timing.jsonl"), read_lines(folder / "metrics.jsonl")
    steps = [{"step": clock["seconds"], "generation": clock["generate"], "train": clock["train"], "verify": clock["verify"],
              "tokens": sum(x for name, x in row.items() if name.startswith("tokens/") and name.endswith("/generate"))}
             for clock, row in zip(timing, metrics, strict=True)]
    clock = [0.0]
    for one in steps:
        clock.append(clock[-1] + one["step"])
    curve = [{"step": row["step"], "seconds": clock[row["step"]], "value": row["value"], "n": row["n"], "length": row["length"]}
             for row in read_lines(folder / "evaluations.jsonl")]
    settings = tomllib.loads((folder / "run.toml").read_text())
    return {"steps": steps, "curve": curve, "compute": settings["meta"]["compute"], "settings": settings,
            "idle": [row.get("idle_share", 0.0) for row in metrics]}


class Trl:
    """TRL's trainer at work. A context manager: it is ended when the block is left."""

    def __init__(self, python: Path, setting: Setting, room: Path, *, threads: str, deadline: float,
                 **job: Any) -> None:
        number, env = threads_of(threads)
        name = f"trl-{sum(1 for _ in room.glob('trl-*.log'))}"
        self.threads, self.out, given = threads, room / f"{name}.result.json", room / f"{name}.job.json"
        given.write_text(json.dumps(setting.job(threads=number, **({"check": 0, "pause": False} | job))))
        command = [str(python), str(ROOT / "bench" / "trl_side.py"), str(given), str(self.out)]
        self.run = Watched(command, log=room / f"{name}.log", deadline=deadline, cwd=room,
                           env=environment(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", **env))
        self._seen, self._at = 0, ""

    def __enter__(self) -> "Trl":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.run.end()

    def paused(self, patience: float = math.inf) -> bool:
        """Wait until it pauses, or has run for so many seconds (True), or ends (False). FailedError if it fails."""
        return self.run.wait(lambda: self._now().startswith("paused") or self.run.seconds > patience)

    def go(self, on: bool = True) -> None:
        """End the pause: go on, or stop."""
        self._at = ""
        self.run.tell("go" if on else "stop")

    def result(self) -> dict[str, Any]:
        """What it wrote so far."""
        found: Mapping[str, Any] = json.loads(self.out.read_text()) if self.out.is_file() else {"steps": [], "curve": []}
        return dict(found) | {"setting": self.threads} | self.run.report()

    def _now(self) -> str:
        """What it is doing; the file is read again only when it is a new one."""
        if self.out.is_file() and (stamp := self.out.stat().st_mtime_ns) != self._seen:
            self._seen, self._at = stamp, json.loads(self.out.read_text())["at"]
        return self._at
