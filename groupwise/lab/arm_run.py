"""One run of a comparison in a process of its own: train it or go on with it, ask its model the held-out problems, repeat its
groups.

    python -m groupwise.lab.arm_run FILE     a file of JSON: `Wanted`

Everything lies in the run's folder: an ordinary one of `groupwise train`, with the folder of a `groupwise eval` and
`repeats.json`.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from groupwise.errors import GroupwiseError
from groupwise.lab.evals import evaluate
from groupwise.lab.repeats import measured
from groupwise.run.config import from_toml
from groupwise.run.disk import read_json, write_json
from groupwise.run.eval_settings import Eval
from groupwise.run.lock import running
from groupwise.run.loop import SETTINGS, resume, train
from groupwise.run.settings import Run
from groupwise.run.toml import text_of
from groupwise.tasks import make

REFUSED = 2
PATIENCE = 60.0
"""Seconds that another process of the same run is waited for."""


@dataclass(frozen=True)
class Wanted:
    """A run and what is measured of it: settings as TOML, drawn answers for each held-out problem, problems at most, repeats of
    its groups, whether its base policy is asked too, and the folder that runs lie in.
    """

    settings: str
    samples: int
    problems: int
    repeats: int
    base: bool
    root: str = "runs"

    @property
    def run(self) -> Run:
        """The settings."""
        return from_toml(self.settings)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.root) / self.run.name

    def answers(self, which: str = "") -> Path:
        """The folder of the answers of its trained model, or of the one that it began with (`base`)."""
        return self.folder / f"answers{which and f'-{which}'}-{self.samples}x{self.problems}"

    @property
    def groups(self) -> Path:
        """The file of the repeated groups."""
        return self.folder / f"repeats-{self.repeats}.json"

    @property
    def one_turn(self) -> bool:
        """Whether held-out problems can be asked in one turn."""
        return make(self.run.task, self.run.task_args).environment is None

    @property
    def whole(self) -> bool:
        """Whether there is nothing left to do."""
        asked = [self.answers(which) for which in self.asked]
        return (trained(self.folder) and (not self.repeats or self.groups.is_file())
                and (all((folder / "results.json").is_file() for folder in asked) or not self.one_turn))

    @property
    def asked(self) -> list[str]:
        """The models that are asked."""
        return ["", "base"] if self.base else [""]

    def write(self, file: Path) -> None:
        """Put it into a file, for the process."""
        write_json(file, asdict(self))


def trained(folder: Path) -> bool:
    """Whether a run is finished: its summary is written last."""
    return (folder / "summary.json").is_file()


def work(wanted: Wanted) -> None:
    """Do what is not done yet. A process of a comparison that was killed may still be saving the run: it is waited for."""
    folder = wanted.folder
    until = time.monotonic() + PATIENCE
    while running(folder) and time.monotonic() < until:
        time.sleep(0.2)
    if not trained(folder):
        if (folder / SETTINGS).is_file():
            resume(folder)
        else:
            train(wanted.run, Path(wanted.root))
    own = from_toml(text_of(folder / SETTINGS))
    for which in wanted.asked if wanted.one_turn else ():
        if not (wanted.answers(which) / "results.json").is_file():
            evaluate(Eval(models=(f"{folder}@{which}" if which else str(folder),), samples=wanted.samples, limit=wanted.problems,
                          out=str(wanted.answers(which)), threads=own.learner.threads, device=own.learner.device,
                          temperature=own.sampling.temperature, overlong="wrong"))
    if wanted.repeats and not wanted.groups.is_file():
        write_json(wanted.groups, measured(own, folder, wanted.repeats))


def _watch() -> None:
    """Stop, as at SIGTERM, when the process that started this one is gone: its end of our input is closed then."""
    os.read(0, 1)  # not by way of sys.stdin, whose lock would be held when this process ends
    os.kill(os.getpid(), signal.SIGTERM)


def main(file: str) -> int:
    """The process: its exit code says whether the run is whole."""
    given: dict[str, Any] = read_json(Path(file))
    threading.Thread(target=_watch, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        try:
            work(Wanted(**given))
            return 0
        except GroupwiseError as error:
            print(f"groupwise: {error}", file=sys.stderr)
            return REFUSED
    return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
