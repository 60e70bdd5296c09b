"""What a machine offers a run: cores, a GPU, and how a run is spread over them."""

import os
import sys
from dataclasses import replace

import torch

from groupwise.errors import ConfigError
from groupwise.run.settings import Run

MAX_THREADS = 16
"""More threads than this slow down models of the size that one trains on a processor."""
SMALL = 20_000_000
"""Below so many parameters one thread is faster than several: waking the others costs more than a small matrix product."""


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def device_of(run: Run) -> str:
    """The device's name; ConfigError if it is not there."""
    wanted = run.learner.device
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {wanted!r} was asked for, but torch sees no CUDA device; take --device cpu or auto")
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"device {wanted!r} cannot be used ({reason}); take --device cpu, cuda, cuda:1 ... or auto") from error
    return wanted


def with_threads(run: Run, parameters: int, kernels: bool = False, device: str = "cpu") -> Run:
    """The run with its numbers of processes and threads filled in, for a model of so many parameters, run by kernels or not.

    ConfigError: several processes where they cannot be (a GPU, Windows).
    """
    own, small = run.learner, parameters < SMALL and not kernels
    if own.parallel == "fsdp2":
        threads = own.threads or (1 if small else max(1, min(cores() // own.ranks, MAX_THREADS)))
        return replace(run, learner=replace(own, threads=threads, workers=1))
    able = device == "cpu" and sys.platform != "win32"
    workers = own.workers or (2 if small and able and own.threads <= 1 and cores() > 1 else 1)
    if workers > 1 and not able:
        where = sys.platform if device == "cpu" else device
        raise ConfigError(f"workers={workers} on {where}: several processes share a processor's memory, on Linux and macOS; take "
                          "workers=1")
    free = cores() // 2 or 1 if run.max_staleness else cores()  # the sampler and the learner work side by side
    threads = own.threads or (1 if small or workers > 1 else min(free, MAX_THREADS))
    return replace(run, learner=replace(own, threads=threads, workers=workers))
