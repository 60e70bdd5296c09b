"""Sampling ahead of learning: while the learner works on a batch, the next ones are sampled in a thread, with older weights.

A batch that is learnt from at step s was begun with the weights of step s - max_staleness (of step 0 in the first steps), always:
what is sampled does not depend on how long anything takes, so a run can be repeated and resumed bit for bit. Its tokens carry
their version; those that are older than the weights are `recorded`: their ratio divides by the log-probs that the engine gave.
"""

import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from groupwise.core.plain import made, plain
from groupwise.core.rollout import Group
from groupwise.core.services import Budget, Plan
from groupwise.run.assemble import Job
from groupwise.run.collect import Sampler, Tally


@dataclass
class Made:
    """A batch that was sampled ahead: its groups, and what sampling them came to."""

    plans: Sequence[Plan]
    groups: list[Group]
    tally: Tally


class Ahead(Sampler):
    """A sampler of `steps` batches that is up to `staleness` batches ahead of the learner."""

    def __init__(self, own: Sampler, *, steps: int, staleness: int) -> None:
        vars(self).update(vars(own))  # planner, history, stores, grader and engine are one and the same
        self.own, self.steps, self.staleness = own, steps, staleness
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="sampler")
        self.waiting: deque[Future[Made]] = deque()
        self.next = 0
        self.idle = 0.0  # seconds that the learner has waited in this step

    def draw(self, step: int) -> list[Plan]:
        """The plans of the step's batch, which was drawn when it was begun; clears the tally."""
        began = time.perf_counter()
        if not self.waiting:
            self.next = step
            self._begin()
        found = self.waiting[0].result()
        self.idle, self.tally = time.perf_counter() - began, found.tally
        return list(found.plans)

    def collect(self, plans: Sequence[Plan], step: int) -> list[Group]:
        """The step's groups; begins batches until enough are on their way."""
        groups = self.waiting.popleft().result().groups
        self.tally.lags = lags(groups, self.engine.version)
        while len(self.waiting) < self.staleness and self.next < self.steps:
            self._begin()
        return groups

    def settle(self) -> None:
        """Wait until nothing is being sampled: the weights, the grader and the history are nobody's then."""
        began = time.perf_counter()
        wait(self.waiting)
        self.idle += time.perf_counter() - began

    def close(self) -> None:
        """Let the batch that is being sampled end, and begin no other."""
        self.thread.shutdown(cancel_futures=True)

    def state_dict(self) -> dict[str, Any]:
        """That of the sampler, and the batches that wait."""
        self.settle()
        return self.own.state_dict() | {"ahead": [_plain(future.result()) for future in self.waiting], "next": self.next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.own.load_state_dict(state)
        self.stores, self.next = self.own.stores, state["next"]
        for tree in state["ahead"]:
            self.waiting.append(Future())
            self.waiting[-1].set_result(_made(tree, self.marks))

    def _begin(self) -> None:
        self.waiting.append(self.thread.submit(self._batch, self.next))
        self.next += 1

    def _batch(self, step: int) -> Made:
        plans = self.own.draw(step)
        groups = self.own.collect(plans, step)
        return Made(plans, groups, self.own.tally)


def ahead(job: Job) -> Job:
    """The job with a sampler that goes ahead, if its settings want one."""
    if job.run.max_staleness:
        job.sampler = Ahead(job.sampler, steps=job.run.steps, staleness=job.run.max_staleness)
    return job


def lags(groups: Sequence[Group], version: int) -> list[tuple[int, int]]:
    """Of the tokens to train on, how many are so many versions old: (versions, tokens) of each span."""
    spans = [span for g in groups for r in g.own for turn in r.episode.turns for span in turn.completion.versions]
    return [(version - span.version, span.end - span.start) for span in spans]


def _plain(batch: Made) -> dict[str, Any]:
    tally = batch.tally
    return {"groups": plain(tuple(batch.groups)), "drawn": plain(tuple(tally.drawn)), "lost": plain(tuple(tally.lost)),
            "refused": dict(tally.refused), "rounds": tally.rounds, "surplus": tally.surplus, "budget": dict(tally.budget.tokens),
            "seconds": dict(tally.seconds)}


def _made(tree: Mapping[str, Any], marks: frozenset[int]) -> Made:
    tally = Tally(marks, list(made(tree["drawn"])), list(made(tree["lost"])), Counter(tree["refused"]), tree["rounds"],
                  tree["surplus"], Budget(dict(tree["budget"])), dict(tree["seconds"]))
    return Made((), list(made(tree["groups"])), tally)
