"""A process that shares another one's work: `python -m groupwise.run.worker SOCKET MEMORY`, two inherited descriptors.

It answers ("setup", Setup), ("work", (Task, whether the method's own objective is meant)) and ("generate", (version, requests))
with ("done", ...) or ("raised", (class, message, traceback)), and ends when the other end of the socket is closed.
"""

import contextlib
import socket
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import transformers

from groupwise.core.rollout import Completion
from groupwise.core.services import Request
from groupwise.engines.native import Native
from groupwise.learner.work import Outcome, Task
from groupwise.run import shared
from groupwise.run.assemble import engine_of, learner_of
from groupwise.run.compose import method_of
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

    def generate(self, version: int, requests: Sequence[Request]) -> tuple[list[list[Completion]], dict[str, float]]:
        """Completions and the engine's statistics."""
        self.engine.version = version
        return self.engine.generate(requests), self.engine.stats


def serve(end: socket.socket, memory: int) -> None:
    """Answer until the other end is closed."""
    copy: Copy | None = None
    while True:
        name, given = shared.receive(end)
        answer: Any = None
        try:
            if name == "setup":
                copy = Copy(given, memory)
            elif copy is not None:
                answer = copy.work(*given) if name == "work" else copy.generate(*given)
            reply: tuple[str, Any] = ("done", answer)
        except Exception as error:
            reply = ("raised", (type(error).__name__, str(error), traceback.format_exc()))
        shared.send(end, reply)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as connection, contextlib.suppress(EOFError, ConnectionError):
        serve(connection, int(sys.argv[2]))
