"""A process that is watched while it runs: a deadline, the last lines that it printed, and the memory of all that it started."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

INTERVAL = 0.1
TAIL = 30
QUIET = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_")
"""Settings of threads that happen to be set in a shell and would reach both sides."""
LISTED = Path(f"/proc/self/task/{os.getpid()}/children").exists()
"""Whether the system says which processes a process has started (Linux)."""


class FailedError(RuntimeError):
    """A process ended badly or did not end; says its command and the last lines that it printed."""


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without settings of threads, and with what is given."""
    return {name: value for name, value in os.environ.items() if not name.startswith(QUIET)} | extra


class Watched:
    """A started process. A context manager: it and all that it started are ended at the latest when the block is left.

    `peak` is in MB (2**20 bytes), empty where the system does not list processes: `tree` is the largest sum of resident memory
    over the processes alive at one time, `marks` the same sum of what each of them held at most so far, so that a peak between
    two looks is not missed, `main` what the process itself held at most.
    """

    def __init__(self, command: Sequence[str], *, log: Path, deadline: float, cwd: Path, env: Mapping[str, str]) -> None:
        self.command, self.log, self.deadline = list(command), log, deadline
        self.peak: dict[str, float] = {}
        self.began = time.monotonic()
        self.load = os.getloadavg()[0]
        with log.open("wb") as out:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, cwd=cwd,
                                            env=dict(env), start_new_session=True)

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()

    def wait(self, until: Callable[[], bool] = lambda: False) -> bool:
        """Look on until the process ends (False) or something is so (True). FailedError if it fails or its time is up."""
        while not (done := until()):
            if self.process.poll() is not None:
                if self.process.returncode:
                    raise FailedError(self._message(f"ended with code {self.process.returncode}"))
                return False
            if self.seconds > self.deadline:
                self.end()
                raise FailedError(self._message(f"was not done after {self.deadline:.0f} s and was ended"))
            self._look()
            time.sleep(INTERVAL)
        return done

    @property
    def seconds(self) -> float:
        """How long it has been there."""
        return time.monotonic() - self.began

    def tell(self, line: str) -> None:
        """Write a line to the process."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def end(self) -> None:
        """End the process and what it started, politely first."""
        if self.process.poll() is None:
            started = family(self.process.pid)[1:]
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            self.process.kill()
            self.process.wait()
            for pid in started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def report(self) -> dict[str, Any]:
        """The command, how long it ran, its peaks of memory, and the machine's load when it began and now."""
        return {"command": self.command, "wall": round(self.seconds, 2), "memory_mb": self.peak,
                "load": [round(self.load, 2), round(os.getloadavg()[0], 2)]}

    def _look(self) -> None:
        found = [held for pid in family(self.process.pid) if (held := memory(pid))]
        if not found:
            return
        now = {"tree": sum(rss for rss, _ in found), "marks": sum(mark for _, mark in found), "main": found[0][1]}
        self.peak = {name: round(max(value, self.peak.get(name, 0.0)), 1) for name, value in now.items()}

    def _message(self, what: str) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-TAIL:]
        return f"{' '.join(self.command)}\n{what}; it printed\n" + "\n".join(f"    {line}" for line in lines)


def family(pid: int) -> list[int]:
    """The process and all its descendants, itself first; nothing where the system does not list them."""
    if not LISTED:
        return []
    out = [pid]
    for one in out:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # it has ended
                out += map(int, task.read_text().split())
    return out


def memory(pid: int) -> tuple[float, float] | None:
    """Resident memory now and at most so far, in MB; None if the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    held = {name: int(value.split()[0]) / 1024 for name, _, value in (line.partition(":") for line in lines)
            if name in ("VmRSS", "VmHWM")}
    return (held["VmRSS"], held["VmHWM"]) if len(held) == 2 else None
