"""Processes that share generation and gradients with this one. Each runs few threads: two processes of one thread are faster
than one of two, where a model is so small that waking a thread costs as much as its work.

This process is the first worker. The others build the same learner from the run's settings (`groupwise.run.worker`); the
parameters lie in memory that all of them map, so a new version of the weights costs nothing. Who does what is a function of
lengths alone, and gradients are added in the order of the workers, so a run repeats itself bit for bit.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor

from groupwise.core.rollout import Completion
from groupwise.core.services import Request
from groupwise.engines.native import Native
from groupwise.errors import GroupwiseError, TrainingError
from groupwise.learner.learner import Learner
from groupwise.learner.work import Outcome, Task
from groupwise.models.load import Policy
from groupwise.models.memory import tried
from groupwise.objective.objective import Objective
from groupwise.run import shared
from groupwise.run.settings import Run

PATIENCE = 300.0
"""Seconds that an answer may take, or ten times as long as this process took for its own share."""
_TAIL = 4000
"""Bytes of what a worker printed that an error shows."""
_ERRORS = {cls.__name__: cls for cls in GroupwiseError.__subclasses__()}

Made = TypeVar("Made")
Stats = dict[str, float]


@dataclass(frozen=True)
class Setup:
    """What a worker builds its copy of the learner from: resolved settings, where the base policy and (others than its) weights
    lie.

    It is the one with this index of so many others.
    """

    run: Run
    base: str
    weights: str | None = None
    index: int = 0
    others: int = 1


class Worker:
    """One other process, as this one sees it; started without waiting for it."""

    def __init__(self, threads: int, memory: int) -> None:
        self.end, theirs = socket.socketpair()
        self.said = os.fdopen(shared.unnamed_file(), "w+b")
        self.owed = 0
        # -P and PYTHONPATH give it this process's import path; a session of its own, so that Ctrl-C is this process's alone.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "groupwise.run.worker", str(theirs.fileno()), str(memory)],
                stdin=subprocess.DEVNULL, stdout=self.said, stderr=self.said, pass_fds=(theirs.fileno(), memory),
                env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}, start_new_session=True)

    def ask(self, name: str, given: Any) -> None:
        """Send a request. TrainingError: the process has ended, or does not read."""
        self.end.settimeout(PATIENCE)
        try:
            shared.send(self.end, (name, given))
        except TimeoutError:
            raise TrainingError(f"a worker process took no work for {PATIENCE:g} s and was ended") from None
        except OSError:
            raise TrainingError(self._gone()) from None
        self.owed += 1

    def answer(self, seconds: float) -> Any:
        """The reply to the last request, after those to all before it.

        What the worker raised is raised here, with its class if it is one of ours. MemoryError: it had none left, and goes on.
        TrainingError: it ended, or took too long.
        """
        value = None
        while self.owed:
            value = self._next(seconds)
        return value

    def _next(self, seconds: float) -> Any:
        self.end.settimeout(seconds)
        try:
            kind, value = shared.receive(self.end)
        except TimeoutError:
            raise TrainingError(f"a worker process gave no answer within {seconds:g} s and was ended; learner.workers=1 does "
                                f"without it. It printed:\n{self._tail()}") from None
        except (EOFError, OSError):
            raise TrainingError(self._gone()) from None
        self.owed -= 1
        if kind == "done":
            return value
        if kind == "full":
            raise MemoryError(f"in a worker process: {value}")
        name, message, trace = value
        if name in _ERRORS:
            raise _ERRORS[name](message)
        raise TrainingError(f"a worker process failed: {name}: {message}\n{trace}")

    def close(self) -> None:
        """End the process."""
        self.end.close()
        self.process.kill()
        self.process.wait()
        self.said.close()

    def _gone(self) -> str:
        try:
            code = self.process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            code = 0
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return (f"a worker process ended ({how}): resume the run; if it was killed for want of memory, learner.workers=1 needs "
                f"half of it. It printed:\n{self._tail()}")

    def _tail(self) -> str:
        size = self.said.seek(0, os.SEEK_END)
        self.said.seek(max(0, size - _TAIL))
        return self.said.read().decode(errors="replace").strip() or "(nothing)"


class Workers:
    """`size` processes, this one included; with 1 there are no others. They end with this object, or with this process."""

    def __init__(self, size: int, threads: int = 1) -> None:
        self.size, self.closed = size, False
        self.memory = shared.unnamed_file() if size > 1 else -1
        self.others = [Worker(threads, self.memory) for _ in range(size - 1)]
        self.objective: Objective | None = None
        self.parameters: Mapping[str, Tensor] = {}
        self.gradients: list[dict[str, Tensor]] = []

    def join(self, learner: Learner, setup: Setup, objective: Objective) -> None:
        """Share a learner, whose method has this objective. The others are not waited for."""
        if not self.others:
            return
        os.ftruncate(self.memory, shared.bytes_of(learner, len(self.others)))
        self.gradients = shared.place(learner, self.memory, len(self.others), fill=True)
        self.parameters, self.objective = learner.parameters, objective
        for index, worker in enumerate(self.others):
            worker.ask("setup", replace(setup, index=index, others=len(self.others)))

    def wait(self) -> None:
        """Until the others are ready; raises what kept them from it."""
        for worker in self.others:
            worker.answer(PATIENCE)

    def run(self, tasks: Sequence[Task], own: Callable[[Task], Outcome]) -> list[Outcome]:
        """One task for each process; the first is this one's. The gradients of the others are added in their order."""
        sent = [self._lean(task) if task.parts else None for task in tasks[1:]]
        first, answers = self._share("work", lambda: own(tasks[0]), sent)
        found = [answer or (Outcome(), ()) for answer in answers]
        for gradients, (_, touched) in zip(self.gradients, found, strict=True):
            for name in touched:
                parameter, more = self.parameters[name], gradients[name]
                parameter.grad = more.clone() if parameter.grad is None else parameter.grad.add_(more)
        return [first, *(outcome for outcome, _ in found)]

    def generate(self, shares: Sequence[Sequence[Request]], engine: Native) -> list[tuple[list[list[Completion]], Stats]]:
        """One share of requests for each process, the first for this one's engine: completions and statistics."""
        sent = [(engine.version, engine.max_rows, list(share)) if share else None for share in shares[1:]]
        first, answers = self._share("generate", lambda: (Native.generate(engine, shares[0]), engine.stats), sent)
        engine.max_rows = min([engine.max_rows, *(rows for _, _, rows in filter(None, answers))])  # one that had to take fewer
        return [first, *((answer[0], answer[1]) if answer else ([], {}) for answer in answers)]

    def close(self) -> None:
        """End the others."""
        self.closed = True
        while self.others:
            self.others.pop().close()
        if self.memory >= 0:
            os.close(self.memory)
            self.memory = -1

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _lean(self, task: Task) -> tuple[Task, bool]:
        """A task as it is sent, and whether to take the method's own objective, which the others have: it need not pickle."""
        own = task.objective is self.objective and self.objective is not None
        return replace(task, objective=None if own else task.objective).alone(), own

    def _share(self, name: str, own: Callable[[], Made], sent: Sequence[Any]) -> tuple[Made, list[Any]]:
        """Have the others do what is sent to each (None: nothing) while this process does its own; after an error all end.

        MemoryError: one of them or this process had too little memory; all have answered, and can be asked again.
        """
        if self.closed and self.size > 1:
            raise TrainingError("the worker processes of this run have ended: resume it")
        try:
            for worker, given in zip(self.others, sent, strict=True):
                if given is not None:
                    worker.ask(name, given)
            began = time.monotonic()
            made, full = tried(own)
            seconds, answers = max(PATIENCE, 10.0 * (time.monotonic() - began)), []
            for worker, given in zip(self.others, sent, strict=True):
                answer, said = tried(partial(worker.answer, seconds)) if given is not None else (None, "")
                answers.append(answer)
                full = full or said
        except BaseException:
            self.close()
            raise
        if full:
            raise MemoryError(full)
        return made, answers  # type: ignore[return-value]


class Split(Native):
    """As `Native`, with the requests dealt to several processes; completions depend on it through the rounding of logits only."""

    def __init__(self, policy: Policy, workers: Workers, *, max_rows: int = 256) -> None:
        super().__init__(policy, max_rows=max_rows)
        self.workers = workers

    @torch.no_grad()
    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """For each request one completion per stream, in order. EngineError as `Native` raises it, before anything is sent."""
        for request in requests:
            self._check(request)
        began, shares = time.perf_counter(), deal(requests, self.workers.size)
        done = self.workers.generate([[requests[i] for i in share] for share in shares], self)
        found = {i: one for share, (made, _) in zip(shares, done, strict=True) for i, one in zip(share, made, strict=True)}
        every = [stats for _, stats in done]
        self.stats = {name: sum(stats.get(name, 0.0) for stats in every) for name in ("tokens", "prefill_tokens")}
        self.stats |= {"seconds": time.perf_counter() - began, "steps": max(stats.get("steps", 0.0) for stats in every)}
        return [found[i] for i in range(len(requests))]


def deal(requests: Sequence[Request], hands: int) -> list[list[int]]:
    """Which requests each process answers: the largest first, each to the one with least to do. A function of lengths alone."""
    size = [len(r.context.tokens) + len(r.streams) * r.sampling.max_tokens for r in requests]
    shares: list[list[int]] = [[] for _ in range(hands)]
    load = [0] * hands
    for i in sorted(range(len(requests)), key=lambda i: (-size[i], i)):
        least = load.index(min(load))
        shares[least].append(i)
        load[least] += size[i]
    return [sorted(share) for share in shares]
