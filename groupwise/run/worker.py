"""A process that shares another one's work: `python -m groupwise.run.worker SOCKET MEMORY`, two inherited descriptors.

It answers ("setup", Setup), ("work", (Task, whether the method's own objective is meant)) and ("generate", (version, max_rows,
requests)) with ("done", ...), with ("full", message) if memory ran out, or with ("raised", (class, message, traceback)), and ends
when the other end of the socket is closed.
"""

import contextlib
import socket
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import transformers

from groupwise.core.rollout import Completion
from groupwise.core.services import Request
from groupwise.engines.native import Native
from groupwise.learner.work import Outcome, Task
from groupwise.models.memory import release, tried
from groupwise.run import shared
from groupwise.run.compose import method_of
from groupwise.run.compute import engine_of
from groupwise.run.learning import learner_of
from groupwise.run.policy import policy_for
from groupwise.run.workers import Setup


class Copy:
    """The learner and the engine of a run, on the weights of the process that trains."""

    def __init__(self, setup: Setup, memory: int) -> None:
        run = setup.run
        torch.set_num_threads(run.learner.threads)
        transformers.utils.logging.disable_progress_bar()
        policy = policy_for(run.learner, setup.base, setup.weights)
        self.method = method_of(run, run.sampling.max_tokens)
        self.learner = learner_of(run, policy, self.method, setup.base)
        self.gradients = shared.place(self.learner, memory, setup.others, fill=False)[setup.index]
        self.engine: Native = engine_of(policy)

    def work(self, task: Task, own: bool) -> tuple[Outcome, list[str]]:
        """Do a task; the names of the parameters that have a gradient, which lies in shared memory."""
        self.learner.discard()
        outcome = self.learner.work(replace(task, objective=self.method.objective) if own else task)
        found = {name: p.grad for name, p in self.learner.parameters.items() if p.grad is not None}
        for name, gradient in found.items():
            self.gradients[name].copy_(gradient)
        self.learner.discard()
        return outcome, list(found)

    def generate(self, version: int, max_rows: int,
                 requests: Sequence[Request]) -> tuple[list[list[Completion]], dict[str, float], int]:
        """Completions, the engine's statistics, and how many rows at a time there was memory for."""
        self.engine.version, self.engine.max_rows = version, max_rows
        return self.engine.generate(requests), self.engine.stats, self.engine.max_rows


def serve(end: socket.socket, memory: int) -> None:
    """Answer until the other end is closed."""
    copy: Copy | None = None
    while True:
        name, given = shared.receive(end)
        try:
            if name == "setup":
                copy = Copy(given, memory)
                reply: tuple[str, Any] = ("done", None)
            else:
                assert copy is not None
                answer, said = tried(partial(copy.work if name == "work" else copy.generate, *given))
                reply = ("full", said) if said else ("done", answer)
        except Exception as error:
            reply = ("raised", (type(error).__name__, str(error), traceback.format_exc()))
        if reply[0] == "full" and copy is not None:
            copy.learner.discard()
            release()
        shared.send(end, reply)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as connection, contextlib.suppress(EOFError, ConnectionError):
        serve(connection, int(sys.argv[2]))
