"""The rank split, really: processes that each hold some groups, and add their counts and gradients with torch.distributed (gloo).

Every wait has a deadline. Processes are spawned once for all subjects: what costs is their start.
"""

import contextlib
import multiprocessing
import pickle
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from groupwise.errors import GroupwiseError, TrainingError
from groupwise.lab.invariance import uneven
from groupwise.lab.samples import Sample
from groupwise.lab.trials import Found, Slopes, Subject, compared, gradient, leaves, prepared, worst
from groupwise.methods import METHODS
from groupwise.objective.batch import Batch
from groupwise.objective.objective import Objective

Job = tuple[Objective, list[Batch], Tensor]
"""An objective, the batches of its optimiser steps (credited, not weighed), and the live values."""


def jobs_of(subject: Subject, sample: Sample) -> Job:
    """What the processes are given: the steps of the method's own update strategy."""
    return subject.objective, list(subject.method.update.split(prepared(subject, sample), 1)), leaves(sample).detach()


def across(subjects: Sequence[Subject], samples: Sequence[Sequence[Sample]], size: int, *, deadline: float = 120.0) -> list[Found]:
    """One finding per subject: `size` processes, uneven shares, each subject's samples.

    A subject whose parts cannot be sent to another process, or that is late, is skipped with the reason.
    """
    found: list[Found | None] = [None] * len(subjects)
    jobs: dict[int, list[Job]] = {}
    for i, (subject, own) in enumerate(zip(subjects, samples, strict=True)):
        if subject.objective.reach == "step":
            found[i] = Found(skipped="a loss reaches over the step: processes share the work of one batch (see micro-batches)")
            continue
        jobs[i] = [jobs_of(subject, sample) for sample in own]
        with contextlib.suppress(Exception):
            pickle.dumps(subject.objective)
            continue
        del jobs[i]
        found[i] = Found(skipped="its parts cannot be sent to another process: write them as functions and classes of a module")
    answers = _run(jobs, size, deadline) if jobs else {}
    for i, own_jobs in jobs.items():
        found[i] = worst([_judge(job, answer, size) for job, answer in zip(own_jobs, answers[i], strict=True)])
    return [one for one in found if one is not None]


def _judge(job: Job, answer: list[Tensor] | str, size: int) -> Found:
    if isinstance(answer, str):
        return Found(float("inf"), f"{size} processes failed: {answer}")
    objective, steps, values = job
    one = [gradient(objective, [objective.weigh(step)], values.clone().requires_grad_()) for step in steps]
    return worst([compared(a, b, f"{size} processes that add their counts and gradients get another gradient than one process",
                           ("one process", f"{size} processes")) for a, b in zip(one, answer, strict=True)])


def _run(jobs: dict[int, list[Job]], size: int, deadline: float) -> dict[int, list[list[Tensor] | str]]:
    """What the first of `size` processes came to, by subject."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="groupwise-ranks-") as folder:
        path = Path(folder)
        (path / "jobs").write_bytes(pickle.dumps({i: pickle.dumps(job) for i, job in jobs.items()}))
        processes = [context.Process(target=member, args=(rank, size, folder, deadline), daemon=True) for rank in range(size)]
        end = time.monotonic() + deadline
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join(max(0.0, end - time.monotonic()))
            late = [rank for rank, process in enumerate(processes) if process.is_alive()]
            if late or not (path / "answers").is_file():
                codes = [process.exitcode for process in processes]
                raise TrainingError(f"{size} processes did not come to an end in {deadline:g} s (late: {late or 'none'}, exit codes "
                                    f"{codes}): is another process holding all cores? Run the check again, or leave this part "
                                    "out with --quick")
            answers: dict[int, list[list[Tensor] | str]] = torch.load(path / "answers", weights_only=True)
            return answers
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                    process.join(5.0)


def member(rank: int, size: int, folder: str, deadline: float) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size,
                            timeout=timedelta(seconds=deadline))
    answers: dict[int, list[list[Tensor] | str]] = {}
    jobs: dict[int, bytes] = pickle.loads((Path(folder) / "jobs").read_bytes())
    for i, packed in jobs.items():
        answers[i] = [_share(job, rank, size) for job in pickle.loads(packed)]
    if rank == 0:
        torch.save(answers, Path(folder) / "answers")
    dist.barrier()
    dist.destroy_process_group()


def _share(job: Job, rank: int, size: int) -> list[Tensor] | str:
    objective, steps, values = job
    done: list[Tensor] = []
    for step in steps:
        mine = uneven(step.layout.groups, size)[rank]
        own = step.groups(mine)
        done.append(_added(_own_gradient(objective, own, values)))
    return done


def _own_gradient(objective: Objective, own: Batch, values: Tensor) -> Slopes:
    """The gradient of this process's share, its weights from the totals of all."""
    return gradient(objective, [objective.weigh(own, _added)], values.clone().requires_grad_())


def _added(x: Tensor) -> Tensor:
    """The sum over processes."""
    total = x.clone()
    dist.all_reduce(total)
    return total
