"""The sampler: prompts to groups. Generate, verify, observe, intervene, admit, shape, in this order, with bounded refills."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from groupwise.core.keyed import folds, word
from groupwise.core.rollout import Context, Episode, Group, Prompt, Rollout, Span, Turn
from groupwise.core.services import Budget, Engine, Environment, Plan, Request, Sampling
from groupwise.core.verdict import Component
from groupwise.errors import ConfigError, TrainingError
from groupwise.learner.learner import Learner
from groupwise.methods.method import Method
from groupwise.models.load import Policy, marks
from groupwise.models.template import decode, encode, tokenise
from groupwise.objective.batch import pack
from groupwise.run.grade import Grader, judged
from groupwise.sampling.history import History


@dataclass
class Tally:
    """What collecting one step came to: all groups drawn, the rollouts that abstained in them, why groups were refused, tokens by
    purpose, seconds by phase. `marks` are the special tokens that do not end a completion; `lags` says of tokens to train on how
    many versions old they are, as (versions, tokens), where sampling is ahead of learning.
    """

    marks: frozenset[int] = frozenset()
    drawn: list[Group] = field(default_factory=list)
    lost: list[Rollout] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    surplus: int = 0
    budget: Budget = field(default_factory=Budget)
    seconds: dict[str, float] = field(default_factory=lambda: {"generate": 0.0, "verify": 0.0})
    lags: list[tuple[int, int]] = field(default_factory=list)

    def scored(self, columns: Iterable[str], tokens: int) -> None:
        """Charge scoring passes: so many tokens for each column."""
        for name in columns:
            self.budget.charge(f"{name}/score", tokens)


class Sampler:
    """Draws prompts, has them answered and graded. It is also what methods may ask for services (`Services`)."""

    def __init__(self, method: Method, engine: Engine, grader: Grader, policy: Policy, prompts: Sequence[Prompt],
                 sampling: Sampling, *, prompts_per_step: int, group_size: int, seed: int, environment: Environment | None = None,
                 learner: Learner | None = None, context_limit: int = 2**31) -> None:
        self.method, self.engine, self.grader, self.policy = method, engine, grader, policy
        self.sampling, self.environment, self.learner, self.seed = sampling, environment, learner, seed
        self.prompts_per_step, self.group_size, self.context_limit = prompts_per_step, group_size, context_limit
        self.history, self.planner = History(), method.planner()
        self.planner.begin(prompts, seed)
        self.stores: dict[str, dict[str, Any]] = {}
        self.marks = marks(policy)
        self.tally = Tally()

    def draw(self, step: int) -> list[Plan]:
        """The step's first plans; clears the tally."""
        self.tally = Tally(self.marks)
        return self.planner.draw(self.prompts_per_step, self.group_size, self.history)

    def collect(self, plans: Sequence[Plan], step: int) -> list[Group]:
        """Groups to train on, in the order in which their prompts were drawn; fewer than asked for if too many were refused."""
        kept: list[Group] = []
        refill = self.method.refill
        rounds, wanted = (refill.rounds if refill else 1), len(plans)
        while plans:
            self.tally.rounds += 1
            kept += self._round(plans, step)
            missing = wanted - len(kept)
            plans = self.planner.draw(wanted, self.group_size, self.history) if missing > 0 and self.tally.rounds < rounds else []
        if refill and refill.short == "stop" and len(kept) < wanted:
            raise TrainingError(f"only {len(kept)} of {wanted} groups were admitted after {rounds} rounds of sampling "
                                f"({dict(self.tally.refused)} refused): the data is too hard or too easy for this policy")
        self.tally.surplus = max(0, len(kept) - wanted)
        kept = kept[:wanted]
        for intervention in self.method.intervene:
            kept = intervention.before_update(kept)
        return kept

    def settle(self) -> None:
        """Wait until nothing is being sampled: here it never is, between calls."""

    def close(self) -> None:
        """End what is being sampled."""

    def _round(self, plans: Sequence[Plan], step: int) -> list[Group]:
        """One pass over the plans: what is admitted, shaped."""
        for intervention in self.method.intervene:
            plans = intervention.before(plans)
        graded = self._graded(plans)
        groups = [_judged(group) for group in graded]
        self.tally.drawn += groups
        self.tally.lost += [r for group in graded for r in group.own if not judged(r)]
        self.history.observe(groups, step)
        for intervention in self.method.intervene:
            groups = [_judged(group) for group in intervention.after_score(groups, self)]
        admitted = []
        for group in groups:
            reasons = [reason for rule in self.method.admit for reason in [rule(group)] if reason is not None]
            if not group.own:
                reasons = ["all_abstained"]
            if reasons:
                self.tally.refused[reasons[0]] += 1
            else:
                admitted.append(group)
        for shape in self.method.shape:
            admitted = [shape(group) for group in admitted]
        return admitted

    # ---- services ----------------------------------------------------------------------------------------------------

    def generate(self, plans: Sequence[Plan]) -> list[Group]:
        """Answer and grade plans; plans of one group key make one group. Abstentions are counted, not kept."""
        return [_judged(group) for group in self._graded(plans)]

    def _graded(self, plans: Sequence[Plan]) -> list[Group]:
        """The same with its abstentions."""
        other = [p.temperature for p in plans if p.trained and p.temperature not in (None, self.sampling.temperature)]
        if other:
            raise ConfigError(f"a plan asks for temperature {other[0]}, but the learner's log-probs are taken at "
                              f"{self.sampling.temperature}: all rollouts that are trained on are sampled at the run's "
                              "temperature; for a baseline, plan them with trained=False")
        began = time.perf_counter()
        made = self.episodes(plans)
        between = time.perf_counter()
        flat = [one for episodes in made for one in episodes]
        rollouts = self.grader.rollouts([episode for episode, _ in flat], [earned for _, earned in flat])
        self.tally.seconds["generate"] += between - began
        self.tally.seconds["verify"] += time.perf_counter() - between
        by_key: dict[str, tuple[Prompt, list[Rollout]]] = {}
        at = 0
        for plan, episodes in zip(plans, made, strict=True):
            by_key.setdefault(plan.group, (plan.prompt, []))[1].extend(rollouts[at:at + len(episodes)])
            at += len(episodes)
        return [Group(key, prompt, tuple(some)) for key, (prompt, some) in by_key.items()]

    def score(self, prompt: Prompt, episodes: Sequence[Episode]) -> list[Rollout]:
        """Grade episodes made elsewhere."""
        return self.grader.rollouts(episodes, [()] * len(episodes))

    def logprobs(self, groups: Sequence[Group], need: str) -> dict[str, list[np.ndarray]]:
        """Per group key, per rollout: one kind of log-probs of its trained tokens."""
        assert self.learner is not None
        batch = pack(groups, default="old", device=str(self.learner.device))
        (column,) = self.learner.logprobs(batch, groups, frozenset({need})).values()
        self.tally.budget.charge(f"{need}/score", len(batch.tokens))
        counted, of = batch.counted.cpu().numpy(), batch.layout.ids("token", "episode")
        values = column.cpu().numpy()
        rows = iter([values[(of == e) & counted] for e in range(batch.layout.size("episode"))])
        return {g.key: [next(rows) if any(t.completion.tokens for t in r.episode.turns) else values[:0] for r in g.rollouts]
                for g in groups}

    def store(self, name: str) -> dict[str, Any]:
        """A named table of JSON values, part of every checkpoint."""
        return self.stores.setdefault(name, {})

    # ---- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Planner, history and stores as JSON values."""
        return {"planner": self.planner.state_dict(), "history": self.history.state_dict(), "stores": self.stores}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.planner.load_state_dict(state["planner"])
        self.history.load_state_dict(state["history"])
        self.stores = state["stores"]

    # ---- episodes ----------------------------------------------------------------------------------------------------

    def episodes(self, plans: Sequence[Plan]) -> list[list[tuple[Episode, tuple[Component, ...]]]]:
        """For every plan its episodes, each with what the environment paid on the way. Turns of all episodes run together."""
        start = "start" if self.environment else None  # all episodes of a prompt share their first state
        samples = [(plan, plan.first + i) for plan in plans for i in range(plan.n)]
        streams = folds(_words(plan.visit for plan, _ in samples), _words(sample for _, sample in samples)).tolist()
        every = [_Talk(plan, stream, state=start) for (plan, _), stream in zip(samples, streams, strict=True)]
        open_ones = every
        for turn in range(self.environment.max_turns if self.environment else 1):
            self._turn(open_ones, turn)
            open_ones = [talk for talk in open_ones if self._answer(talk)]
        rest = iter(every)
        return [[next(rest).finished() for _ in range(plan.n)] for plan in plans]

    def _turn(self, talks: list["_Talk"], turn: int) -> None:
        """One completion for every open episode; those that share a context and its limits share a request."""
        asked: dict[tuple[Context, int, float], list[tuple[_Talk, int]]] = {}
        for talk, stream in zip(talks, folds(self.seed, _words(talk.stream for talk in talks), turn).tolist(), strict=True):
            limit = min(self.context_limit - len(talk.context.tokens), talk.plan.max_tokens or self.sampling.max_tokens)
            temperature = self.sampling.temperature if talk.plan.temperature is None else talk.plan.temperature
            asked.setdefault((talk.context, limit, temperature), []).append((talk, stream))
        requests = [Request(context, tuple(stream for _, stream in some),
                            replace(self.sampling, max_tokens=limit, temperature=temperature))
                    for (context, limit, temperature), some in asked.items()]
        for some, completions in zip(asked.values(), self.engine.generate(requests), strict=True):
            for (talk, _), completion in zip(some, completions, strict=True):
                moved = talk.plan.train_context if not talk.turns else None
                untrained = () if talk.plan.trained else (Span(0, len(completion.tokens), behaviour="none"),)
                text = decode(self.policy.tokenizer, completion.tokens, self.policy.eos_ids)
                talk.turns.append(Turn(talk.context, completion, untrained, train_context=moved, state=talk.state, text=text))
                self.tally.budget.charge(f"{talk.plan.role}/generate", len(completion.tokens))

    def _answer(self, talk: "_Talk") -> bool:
        """Let the environment answer an episode's last turn; whether it goes on. The answer is no help: the source stays."""
        if self.environment is None:
            return False
        reply = self.environment.reply(talk.plan.prompt, [turn.text for turn in talk.turns])
        if reply.reward is not None:
            talk.earned.append(Component("environment", reply.reward, target="turn", index=len(talk.turns) - 1))
        talk.state = reply.state
        if reply.rewritten is not None:
            talk.context = Context(encode(self.policy.tokenizer, "none", reply.rewritten), talk.context.source)
        else:
            before = talk.turns[-1].trained_under.tokens + talk.turns[-1].completion.tokens
            talk.context = Context(before + tokenise(self.policy.tokenizer, reply.text), talk.context.source)
        return not reply.done and len(talk.context.tokens) < self.context_limit


def _words(numbers: Iterable[int]) -> np.ndarray:
    return np.array([word(number) for number in numbers], dtype=np.uint64)


def _judged(group: Group) -> Group:
    """The group without its abstentions, which are counted."""
    kept = tuple([r for r in group.rollouts if judged(r)])
    lost = sum(not judged(r) for r in group.own)
    return replace(group, rollouts=kept, abstained=group.abstained + lost)


@dataclass
class _Talk:
    """An episode in the making."""

    plan: Plan
    stream: int
    turns: list[Turn] = field(default_factory=list)
    earned: list[Component] = field(default_factory=list)
    state: str | None = None

    def __post_init__(self) -> None:
        self.context = self.plan.sampled_under

    def finished(self) -> tuple[Episode, tuple[Component, ...]]:
        """The episode and what it earned."""
        return Episode(self.plan.prompt, tuple(self.turns), role=self.plan.role), tuple(self.earned)
