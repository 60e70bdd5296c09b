"""The work on some micro-batches: the same function in the learner's process and in those that share its work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from groupwise.learner.forward import lengths
from groupwise.learner.observe import Meter
from groupwise.models.head import Want
from groupwise.models.routing import Routed
from groupwise.objective.batch import Batch
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Live

NONE = np.zeros(0, dtype=np.int64)


@runtime_checkable
class AnyScorer(Protocol):
    """Per-token values of a batch, with gradient where grad is enabled: a model's own modules, compiled kernels, a table."""

    def __call__(self, batch: Batch, want: Want) -> Live:
        """[t] of a micro-batch; entries that are not trained on are 0."""
        ...

    def plan(self, batch: Batch, chosen: Sequence[int] | np.ndarray, micro_tokens: int) -> list[np.ndarray]:
        """Micro-batches of the chosen sequences."""
        ...

    def routed(self) -> Routed | None:
        """What the routers of a mixture of experts did in the last forward; asked once."""
        ...

    def finish(self) -> None:
        """The last gradient of a minibatch has been taken."""
        ...

    def rest(self) -> None:
        """Nothing is to be computed for a while."""
        ...

    def refresh(self) -> None:
        """The parameters have changed."""
        ...


@dataclass(frozen=True)
class Task:
    """Sequences of a batch, cut into micro-batches (`parts`), and what is wanted of them, by the first of these that is set.

    objective   the gradient of its loss
    slopes      the gradient of sum(slope * value), the slopes [t] by the name of the value: the second of two passes
    (neither)   the values of a model ("policy", or a frozen one's name), without gradient

    `balance` [experts] are the slopes of a loss that is linear in the routers' probabilities; its gradient is taken along.
    `passes` is how often the model is run where processes must run it equally often (`Pace`): after the parts with nothing.
    """

    batch: Batch
    parts: tuple[np.ndarray, ...]
    want: Want
    objective: Objective | None = None
    slopes: Mapping[str, Tensor] | None = None
    model: str = "policy"
    balance: Tensor | None = None
    passes: int = 0

    def turns(self) -> tuple[np.ndarray, ...]:
        """The parts, then as many without a sequence as are missing to `passes`."""
        return self.parts + (NONE,) * (self.passes - len(self.parts))

    def alone(self) -> "Task":
        """The same on a batch of these sequences only: what is sent to another process."""
        if not self.parts:
            return replace(self, batch=self.batch.take([0]), slopes=None if self.slopes is None else {})
        chosen = np.concatenate(self.parts)
        ends = np.cumsum([len(part) for part in self.parts])
        index = torch.from_numpy(tokens_of(self.batch, chosen))
        slopes = {name: slope[index] for name, slope in self.slopes.items()} if self.slopes is not None else None
        parts = tuple(np.split(np.arange(len(chosen)), ends[:-1]))
        return replace(self, batch=self.batch.take(chosen), parts=parts, slopes=slopes)


@dataclass(frozen=True)
class Outcome:
    """What a task came to: `live` the values asked for, in the order of its parts; what was seen; sequences dropped as broken;
    the `routes` of each sequence, if asked for.
    """

    live: Live | None = None
    meter: Meter = field(default_factory=Meter)
    lost: int = 0
    routes: tuple[np.ndarray, ...] = ()


@runtime_checkable
class Team(Protocol):
    """Who shares the work of a learner: `size` processes, one task each."""

    size: int

    def run(self, tasks: Sequence[Task], own: Callable[[Task], Outcome]) -> list[Outcome]:
        """The outcomes in order; `own` does the first task. All gradients are added to this process's parameters, in order."""
        ...


class Alone:
    """This process does everything."""

    size = 1

    def run(self, tasks: Sequence[Task], own: Callable[[Task], Outcome]) -> list[Outcome]:
        """One after the other."""
        return [own(task) for task in tasks]


@dataclass(frozen=True)
class Pace:
    """How processes keep in step that must run a model together, forward for forward and backward for backward, as when each
    holds a part of every weight: with `blank`, a batch of nothing, where one has no sequences, and by asking whether `any` of
    them had a broken one, after which all run again. By itself: a process that runs as often as it likes.
    """

    blank: Batch | None = None
    any: Callable[[bool], bool] = bool

    def tied(self, loss: Tensor | None, live: Live) -> Tensor | None:
        """The loss, to which every value that has a gradient is tied with weight 0: a backward then reaches the same parameters
        in all processes. None: nothing to go back from.
        """
        if self.blank is None:
            return loss
        tie = torch.stack([x.sum() * 0.0 for x in (live.logp, live.values) if x is not None and x.requires_grad]).sum()
        return tie if loss is None else loss + tie


def work(scorer: AnyScorer, task: Task, pace: Pace) -> Outcome:
    """Do a task; gradients are added to those of the parameters."""
    if task.objective is not None:
        return _of_loss(scorer, task, task.objective, pace)
    if task.slopes is not None:
        return _of_slopes(scorer, task, task.slopes, pace)
    return _of_values(scorer, task, pace)


@torch.no_grad()
def _of_values(scorer: AnyScorer, task: Task, pace: Pace) -> Outcome:
    lives, routes, meter = [], [], Meter()
    for part in task.turns():
        if not len(part) and pace.blank is not None:
            scorer(pace.blank, task.want)
            scorer.routed()
            continue
        micro = task.batch.take(part)
        lives.append(scorer(micro, task.want))
        if (seen := scorer.routed()) is not None:
            meter.route(seen)
            if task.want.routes:
                routes += seen.routes(lengths(micro).tolist())
    return Outcome(_joined(lives) if lives else None, meter, routes=tuple(routes))


def _of_loss(scorer: AnyScorer, task: Task, objective: Objective, pace: Pace) -> Outcome:
    meter, lost = Meter(), 0
    for part in task.turns():
        live, micro, good = _finite(scorer, task, part, pace)
        lost += len(part) - len(good)
        loss = objective.loss(live, micro) if len(good) else None
        _backward(pace.tied(None if loss is None else loss.value, live), task, scorer.routed(), meter, seen=len(good) > 0)
        if loss is not None:
            meter.add(loss, live, micro)
    return Outcome(meter=meter, lost=lost)


def _of_slopes(scorer: AnyScorer, task: Task, slopes: Mapping[str, Tensor], pace: Pace) -> Outcome:
    lost, meter = 0, Meter()
    for part in task.turns():
        live, _, good = _finite(scorer, task, part, pace)
        lost += len(part) - len(good)
        index = torch.from_numpy(tokens_of(task.batch, good)).to(task.batch.tokens.device)
        pairs = [(slope[index], vars(live)[name]) for name, slope in slopes.items() if len(good)]
        loss = torch.stack([(slope * x).sum() for slope, x in pairs]).sum() if pairs else None
        _backward(pace.tied(loss, live), task, scorer.routed(), meter, seen=len(good) > 0)
    return Outcome(meter=meter, lost=lost)


def _backward(loss: Tensor | None, task: Task, routed: Routed | None, meter: Meter, *, seen: bool) -> None:
    """Backward of a micro-batch's loss (None: of none), and of the load balance if that is on and there were sequences."""
    if routed is not None and seen:
        meter.route(routed)
        if task.balance is not None and loss is not None:
            loss = loss + routed.mass(task.balance)
    if loss is not None:
        loss.backward()  # type: ignore[no-untyped-call]


def _finite(scorer: AnyScorer, task: Task, part: np.ndarray, pace: Pace) -> tuple[Live, Batch, np.ndarray]:
    """The forward of the sequences whose log-probs are finite (0 * nan is not a mask), their micro-batch, and which they are."""
    micro = _micro(task, part, pace)
    live = scorer(micro, task.want)
    broken = ~torch.isfinite(live.logp.detach()) if len(part) else torch.zeros(1, dtype=torch.bool)
    if not pace.any(bool(broken.any())):
        return live, micro, part
    of_token = np.repeat(part, np.diff(task.batch.layout.first_token("sequence"))[part])
    good = part[~np.isin(part, of_token[broken.cpu().numpy()])] if len(part) else part
    if len(good) or pace.blank is not None:
        micro = _micro(task, good, pace)
        live = scorer(micro, task.want)
    return live, micro, good


def _micro(task: Task, part: np.ndarray, pace: Pace) -> Batch:
    """The batch of some sequences; a blank one for none."""
    return task.batch.take(part) if len(part) or pace.blank is None else pace.blank


def assemble(batch: Batch, tasks: Sequence[Task], outcomes: Sequence[Outcome]) -> Live:
    """The values of the tasks at their places in the whole batch."""
    live = _joined([o.live for o in outcomes if o.live is not None])
    places = np.concatenate([tokens_of(batch, part) for task in tasks for part in task.parts])
    index = torch.from_numpy(places).to(batch.tokens.device)
    return Live(**{name: x.new_zeros(len(batch.tokens), *x.shape[1:]).index_copy(0, index, x)
                   for name, x in vars(live).items() if x is not None})


def _joined(lives: Sequence[Live]) -> Live:
    """The values of micro-batches, one after the other."""
    return Live(**{name: torch.cat([vars(live)[name] for live in lives])
                   for name, x in vars(lives[0]).items() if x is not None})


def tokens_of(batch: Batch, part: np.ndarray) -> np.ndarray:
    """Places of the tokens of some sequences, in their order."""
    starts = batch.layout.first_token("sequence")
    return np.concatenate([NONE, *(np.arange(starts[s], starts[s + 1]) for s in part)])
