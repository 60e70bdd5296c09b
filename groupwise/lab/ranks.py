"""The rank split, really: processes that each hold some groups, and add their counts and gradients with torch.distributed (gloo).

Every wait has a deadline. Processes are spawned once for all subjects: what costs is their start.
"""

import multiprocessing
import pickle
import tempfile
import time
from collections.abc import Sequence
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
from groupwise.lab.subjects import subject_of
from groupwise.lab.trials import Found, Subject, compared, gradient, leaves, prepared, worst
from groupwise.objective.batch import Batch
from groupwise.objective.objective import Objective

Job = tuple[list[Batch], Tensor]
"""The batches of optimiser steps (credited, not weighed), and the live values."""
Answer = list[list[Tensor]] | str
"""The gradient of each step of each job, or what went wrong."""


@dataclass(frozen=True)
class Order:
    """What the processes do for one subject: its objective (pickled, or made again from its name), and jobs."""

    source: tuple[str, dict[str, Any]] | None
    objective: bytes
    jobs: list[Job]

    def made(self) -> Objective:
        """The objective, in another process."""
        made: Objective = pickle.loads(self.objective) if self.source is None else subject_of(*self.source).objective
        return made


def order_of(subject: Subject, samples: Sequence[Sample]) -> Order:
    """The steps of the method's own update strategy, on some samples. Raises whatever pickling the objective raises."""
    jobs = [([_plain(step) for step in subject.method.update.split(prepared(subject, sample), 1)], leaves(sample).detach())
            for sample in samples]
    return Order(subject.source, b"" if subject.source else pickle.dumps(subject.objective), jobs)


def _plain(batch: Batch) -> Batch:
    """The batch with plain dictionaries, which can be sent."""
    return replace(batch, columns=dict(batch.columns), credit=dict(batch.credit), weights=dict(batch.weights),
                   extras=dict(batch.extras), layout=replace(batch.layout, keys=dict(batch.layout.keys)))


def across(subjects: Sequence[Subject], samples: Sequence[Sequence[Sample]], size: int, *,
           deadline: float = 120.0) -> list[Found]:
    """One finding per subject: `size` processes, uneven shares, each subject's samples.

    A subject whose parts cannot be sent to another process, or that is late, is skipped with the reason.
    """
    found: dict[int, Found] = {}
    orders: dict[int, Order] = {}
    for i, (subject, own) in enumerate(zip(subjects, samples, strict=True)):
        if subject.objective.reach == "step":
            found[i] = Found(skipped="a loss reaches over the step: processes share the work of one batch (see micro-batches)")
            continue
        try:
            orders[i] = order_of(subject, own)
        except GroupwiseError as error:
            found[i] = Found(float("inf"), f"refused: {error}")
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            found[i] = Found(skipped=f"its parts cannot be sent to another process ({error}): check it by name")
    answers = _run(orders, size, deadline) if orders else {}
    for i, order in orders.items():
        found[i] = _judge(subjects[i].objective, order, answers[i], size)
    return [found[i] for i in range(len(subjects))]


def _judge(objective: Objective, order: Order, answer: Answer, size: int) -> Found:
    if isinstance(answer, str):
        return Found(float("inf"), f"{size} processes: {answer}")
    found = []
    for (steps, values), sums in zip(order.jobs, answer, strict=True):
        for step, total in zip(steps, sums, strict=True):
            one = gradient(objective, [objective.weigh(step)], values.clone().requires_grad_())
            found.append(compared(one, total, f"{size} processes that add their counts and gradients get another gradient than "
                                  "one process", ("one process", f"{size} processes")))
    return worst(found)


def _run(orders: dict[int, Order], size: int, deadline: float) -> dict[int, Answer]:
    """What the first of `size` processes came to, by subject."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="groupwise-ranks-") as folder:
        path = Path(folder)
        (path / "orders").write_bytes(pickle.dumps(orders))
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
                raise TrainingError(f"{size} processes did not come to an end in {deadline:g} s (late: {late or 'none'}, exit "
                                    f"codes {codes}): is another process holding all cores? Run the check again, or leave this part "
                                    "out with --quick")
            answers: dict[int, Answer] = torch.load(path / "answers", weights_only=True)
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
    orders: dict[int, Order] = pickle.loads((Path(folder) / "orders").read_bytes())
    answers = {i: _answer(order, rank, size) for i, order in orders.items()}
    if rank == 0:
        torch.save(answers, Path(folder) / "answers")
    dist.barrier()
    dist.destroy_process_group()


def _answer(order: Order, rank: int, size: int) -> Answer:
    """The gradients of this process's shares, added up over processes. What fails in one process fails in all of them before
    anybody waits for anybody, or ends at the deadline.
    """
    objective = order.made()
    sums: list[list[Tensor]] = []
    for steps, values in order.jobs:
        sums.append([])
        for step in steps:
            own = step.groups(uneven(step.layout.groups, size)[rank])
            sums[-1].append(_added(gradient(objective, [objective.weigh(own, _added)], values.clone().requires_grad_())))
    return sums


def _added(x: Tensor) -> Tensor:
    """The sum over processes."""
    total = x.clone()
    dist.all_reduce(total)
    return total
