"""One optimiser step of a method in a world: the sampler and the objective that train, with a table in place of the model.

What a real run would do to the groups happens here too, in the same functions: interventions, admission, refills, shaping, the
method's state, credit, weights, the update strategy's minibatches. Parameters do not move.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from groupwise.core.keyed import generator
from groupwise.core.rollout import Completion, Episode, Group, Prompt, Rollout, Span, Turn
from groupwise.core.services import Plan, Sampling
from groupwise.core.verdict import Component, Verdict
from groupwise.errors import ConfigError
from groupwise.lab.enumerated import VALUES, Space, Table
from groupwise.lab.trials import Subject
from groupwise.learner.observe import Meter
from groupwise.methods.method import Method
from groupwise.methods.update import Minibatches, Once
from groupwise.objective.batch import Batch, pack
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Live, Policy
from groupwise.run.collect import Sampler, Tally
from groupwise.run.grade import Grader
from groupwise.sampling.history import History
from groupwise.sampling.planner import Planner, Shuffled


class Uniform(Shuffled):
    """Every prompt is drawn by itself, each with the same chance: steps are independent of one another."""

    def draw(self, k: int, n: int, history: History) -> list[Plan]:
        """K plans."""
        first, self.cursor = self.cursor, self.cursor + k
        chosen = generator(self.seed, "uniform", first).integers(len(self.prompts), size=k).tolist()
        return [Plan(self.prompts[i], n, visit=first + j, group=f"{first + j}") for j, i in enumerate(chosen)]


class Book(Grader):
    """The world's own verdicts. A method that asks for reward components by name gets the reward under each of these names."""

    def __init__(self, space: Space, names: Sequence[str]) -> None:
        self.names, self.answers_by_number = names, [a for own in space.world for a in own.answers]

    def rollouts(self, episodes: Sequence[Episode], earned: Sequence[tuple[Component, ...]]) -> list[Rollout]:
        """Episodes with verdicts and rewards; an episode's text is the number of its answer."""
        answers, share = [self.answers_by_number[int(e.text)] for e in episodes], 1 / len(self.names)
        return [Rollout(e, Verdict(a.correct), tuple(Component(name, a.reward, weight=share) for name in self.names))
                for e, a in zip(episodes, answers, strict=True)]


class Stage(Sampler):
    """The sampler of a world: it answers plans by the policy of a table, or, where `script` has a plan's group, as written."""

    def __init__(self, subject: Subject, table: Table, *, prompts_per_step: int, group_size: int, seed: int) -> None:
        method, space = subject.method, table.space
        self.method, self.table, self.seed, self.sampling = method, table, seed, Sampling()
        self.grader = self.book = Book(space, subject.wishes.names)
        self.history, self.stores = History(), {}
        self.prompts_per_step, self.group_size = prompts_per_step, group_size
        self.prompts = [Prompt(own.name, own.name, None) for own in space.world]
        self.planner: Planner = Uniform() if method.planner is Shuffled else method.planner()
        self.planner.begin(self.prompts, seed)
        self.marks, self.tally, self.draws = frozenset(), Tally(), generator(seed, "audit", "draws")
        self.script: dict[str, Sequence[int]] = {}
        self.number = {own.name: p for p, own in enumerate(space.world)}
        logp = table.values[:, 0].tolist()
        self.completions = [
            Completion(tuple(rows), tuple(logp[r] for r in rows), "stop" if a.tokens[-1] == 2 else "length")
            for rows, a in zip(space.rows_of, self.book.answers_by_number, strict=True)]

    def episodes(self, plans: Sequence[Plan]) -> list[list[tuple[Episode, tuple[Component, ...]]]]:
        """For every plan its episodes, of one turn each."""
        return [[(self._episode(plan, answer), ()) for answer in self._answers(plan)] for plan in plans]

    def logprobs(self, groups: Sequence[Group], need: str) -> dict[str, list[np.ndarray]]:
        """There is nobody who scores between steps."""
        raise ConfigError("an audit cannot score log-probs for interventions or method states")

    def scripted(self, problem: int, answers: Sequence[int], key: str = "0") -> list[Group]:
        """The group of a prompt with these answers, as it would enter the batch; none if it is not admitted."""
        method, self.method = self.method, replace(self.method, refill=None)  # what is refused is not to be replaced here
        self.script, self.tally = {key: answers}, Tally()
        made = self.collect([Plan(self.prompts[problem], len(answers), visit=0, group=key)], 0)
        self.script, self.method = {}, method
        return made

    def _answers(self, plan: Plan) -> Sequence[int]:
        if plan.trained and plan.group in self.script:
            return self.script[plan.group][plan.first:plan.first + plan.n]
        p, space = self.number[plan.prompt.id], self.table.space
        own = slice(space.first[p], space.first[p + 1])
        if plan.temperature == 0:
            return [self._greedy(p)] * plan.n
        chance = self.table.chance[own].numpy()
        return (space.first[p] + self.draws.choice(len(chance), size=plan.n, p=chance / chance.sum())).tolist()

    def _greedy(self, problem: int) -> int:
        """The answer along which every token is the most likely one of its state."""
        space, logp = self.table.space, self.table.values[:, 0]
        left = list(range(space.first[problem], space.first[problem + 1]))
        place = 0
        while len(left) > 1:
            best = max(left, key=lambda a: float(logp[space.rows_of[a][place]]))
            token = self.book.answers_by_number[best].tokens[place]
            left = [a for a in left if self.book.answers_by_number[a].tokens[place] == token]
            place += 1
        return left[0]

    def _episode(self, plan: Plan, answer: int) -> Episode:
        done = self.completions[answer]
        untrained = () if plan.trained else (Span(0, len(done.tokens), behaviour="none"),)
        turn = Turn(plan.sampled_under, done, untrained, train_context=plan.train_context, text=str(answer))
        return Episode(plan.prompt, (turn,), role=plan.role)


@dataclass
class Found:
    """The gradient of one optimiser step by the table's values (mean over the steps of a batch), uphill; and of each row how many
    of its tokens were in the batch, and how many of these the trust rule stopped.
    """

    slopes: Tensor
    seen: Tensor
    stopped: Tensor


@dataclass
class Desk:
    """What an update strategy drives in place of a learner: it takes gradients by the table's values, and moves nothing.

    `told`: the strategy decides by the metrics of a minibatch.
    """

    values: Tensor
    worth: Tensor
    told: bool = False
    found: list[Found] = field(default_factory=list)
    open: list[Found] = field(default_factory=list)

    def gradients(self, batch: Batch, objective: Objective) -> dict[str, float]:
        """The gradient of a weighed minibatch."""
        leaf = self.values.clone().requires_grad_()
        own = leaf[batch.tokens]
        live = Live(**{name: own[:, i] for i, name in enumerate(VALUES)}, values=self.worth[batch.tokens])
        loss = objective.loss(live, batch)
        slopes = torch.autograd.grad(loss.value, leaf)[0] if loss.value.requires_grad else torch.zeros_like(leaf)
        seen = torch.zeros(len(leaf), dtype=torch.float64)
        stopped = seen.clone()
        for one in loss.seen:
            if isinstance(one.term, Policy) and one.stopped is not None:
                acting = one.mask & (batch.column(one.term.credit) != 0)
                seen.index_add_(0, batch.tokens, acting.double())
                stopped.index_add_(0, batch.tokens, (acting & one.stopped).double())
        self.open.append(Found(-slopes, seen, stopped))
        if not self.told:
            return {}
        meter = Meter()
        meter.add(loss, live, batch)
        return meter.result()

    def apply(self) -> dict[str, float]:
        """The step that would be taken now."""
        self.found.append(Found(*(torch.stack([getattr(f, name) for f in self.open]).sum(0)
                                  for name in ("slopes", "seen", "stopped"))))
        self.discard()
        return {"grad_norm": 0.0}

    def discard(self) -> None:
        """Clear the gradients."""
        self.open = []

    def snapshot(self) -> Mapping[str, Tensor]:
        """The table."""
        return {"values": self.values}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """It has not moved."""


@dataclass
class Rehearsal:
    """A method in a world: `old` sampled, `now` is being trained (the same, on policy)."""

    subject: Subject
    old: Table
    now: Table
    seed: int = 0

    def __post_init__(self) -> None:
        self.state, self.steps = self.subject.method.state(), 0
        self.off_policy = self.old is not self.now
        needs = self.method.needs
        teachers = sorted(n for n in needs if n.startswith("teacher:"))
        noise = [torch.from_numpy(generator(self.seed, "audit", name).normal(size=len(self.old.values))) for name in teachers]
        logp, entropy, sum_p2 = self.old.values.unbind(1)
        self.columns = {"old_logp": logp, "ref_logp": logp, "values": self.old.worth, "entropy": entropy, "sum_p2": sum_p2}
        self.columns |= {name: (logp + 0.3 * x).clamp(max=-1e-3) for name, x in zip(teachers, noise, strict=True)}
        self.needs = {n if n.startswith("teacher:") else n + "_logp" * (n in ("old", "ref")) for n in needs}
        self.needs |= {"old_logp"} if self.off_policy else set()
        hidden = {n for n in self.method.objective.needs if n.startswith("hidden")}
        if unknown := sorted((self.needs - set(self.columns)) | hidden):
            raise ConfigError(f"{self.subject.name} needs {', '.join(unknown)}, which the policies of an audit do not have")

    @property
    def method(self) -> Method:
        """The method."""
        return self.subject.method

    def step(self, groups: Sequence[Group]) -> Found:
        """What the groups of a rollout batch give: the loop's lines between collecting and the engine's new weights."""
        method, objective = self.method, self.method.objective
        self.state.observe(groups)
        factors = self.state.coefficients()
        default = "old" if self.off_policy and method.divides_by == "self" else method.divides_by
        batch = pack(groups, default=default, dtype=torch.float64)
        needed = {name: self.columns[name][batch.tokens] for name in self.needs}
        batch = batch.with_columns(needed, objective.credit(groups, batch, needed, self.state))
        desk = Desk(self.now.values, self.old.worth, told=not isinstance(method.update, Once | Minibatches))
        self.steps += 1
        for minibatch in method.update.split(batch.written_by("policy"), self.steps):
            if objective.depends_on_microbatches:  # a micro-batch for each group
                ids = minibatch.layout.ids("sequence", "group")
                minibatch = minibatch.with_parts([np.flatnonzero(ids == g) for g in np.unique(ids)])
            method.update.step(desk, objective.weigh(minibatch, factors=factors), objective)
        taken = desk.found or [Found(torch.zeros_like(self.now.values), *torch.zeros(2, len(self.now.values)).double())]
        return Found(*(torch.stack([getattr(f, name) for f in taken]).mean(0) for name in ("slopes", "seen", "stopped")))
