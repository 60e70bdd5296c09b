"""Runs of a comparison side by side, each in a process of its own; those that are whole already are not run again."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from groupwise.errors import TrainingError
from groupwise.lab.arm_run import Wanted

NOTES = ".compare"
"""The folder beside the runs of what their processes are told and say."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: whether it had been made before, its seconds, and what went wrong (empty: nothing)."""

    cached: bool
    seconds: float
    trouble: str = ""


def side_by_side(wanted: Sequence[tuple[str, Wanted]], jobs: int, say: Say) -> list[Outcome]:
    """Make the runs, each under a name to say, `jobs` at a time; a run that fails is an outcome.

    Stopped, by Ctrl-C too, the processes save their runs, and the next call goes on with them. TrainingError: none ended well.
    """
    done: dict[int, Outcome] = {i: Outcome(True, 0.0) for i, (_, one) in enumerate(wanted) if one.whole}
    if done:
        say(f"{len(done)} of {len(wanted)} runs have been made before")
    todo, at_work = [i for i in range(len(wanted)) if i not in done], dict[int, _Process]()
    try:
        while todo or at_work:
            while todo and len(at_work) < jobs:
                i = todo.pop(0)
                at_work[i] = _Process(*wanted[i])
            time.sleep(0.05)
            for i, process in list(at_work.items()):
                if (outcome := process.outcome()) is not None:
                    done[i] = outcome
                    del at_work[i]
                    say(f"{len(done)} of {len(wanted)}: {wanted[i][0]}, {outcome.trouble or f'{outcome.seconds:.0f} s'}")
    finally:
        for process in at_work.values():
            process.stop()
    found = [done[i] for i in range(len(wanted))]
    if all(one.trouble for one in found):
        raise TrainingError(f"no run of the comparison ended well: {found[0].trouble}")
    return found


class _Process:
    """A run's process."""

    def __init__(self, name: str, wanted: Wanted) -> None:
        self.name, self.began = name, time.perf_counter()
        place = wanted.folder.parent / NOTES
        file, self.log = place / f"{wanted.folder.name}.json", place / f"{wanted.folder.name}.log"
        wanted.write(file)
        threads = str(max(1, wanted.run.learner.threads))
        # -P and PYTHONPATH give it this process's import path; a session of its own, so that Ctrl-C is this process's alone; its
        # input is a pipe whose end it sees when this process is gone.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        with self.log.open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "groupwise.lab.arm_run", str(file)], stdin=subprocess.PIPE, stdout=said, stderr=said,
                env={**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": path}, start_new_session=True)

    def outcome(self) -> Outcome | None:
        """How it ended; None while it works."""
        code = self.process.poll()
        if code is None:
            return None
        assert self.process.stdin is not None
        self.process.stdin.close()
        return Outcome(False, time.perf_counter() - self.began, "" if code == 0 else self._trouble(code))

    def stop(self) -> None:
        """Let it save and end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _trouble(self, code: int) -> str:
        lines = [line for line in Path(self.log).read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return f"failed with exit code {code}: {lines[-1] if lines else 'it said nothing'} (all of it: {self.log})"
