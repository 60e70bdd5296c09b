"""Verdicts and reward components for answers: the task's verifier and any further rewards, in workers that can be killed."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType

from groupwise.core.rollout import Completion, Episode, Prompt, Rollout
from groupwise.core.verdict import Component, Finish, Verdict
from groupwise.models.load import Policy
from groupwise.models.template import decode
from groupwise.verify.pool import Graded, Item, Pool


class Grader:
    """The task's verifier says what is correct; the reward is its component, plus those of `rewards` (module:function each)."""

    def __init__(self, verifier: str, rewards: Sequence[str] = (), *, workers: int = 1, deadline: float = 5.0) -> None:
        self._open = contextlib.ExitStack()
        with contextlib.ExitStack() as opening:
            make = {"workers": workers, "deadline": deadline}
            self.pools = [opening.enter_context(Pool(name, **make)) for name in (verifier, *rewards)]  # type: ignore[arg-type]
            self._open = opening.pop_all()

    def answers(self, policy: Policy) -> Callable[[list[tuple[Prompt, Completion]]], list[Verdict]]:
        """A function from completions of this policy to strict verdicts, for evaluation."""

        def grade(pairs: list[tuple[Prompt, Completion]]) -> list[Verdict]:
            texts = [(p, decode(policy.tokenizer, c.tokens, policy.eos_ids), c.finish) for p, c in pairs]
            return [graded.verdict for graded in self.pools[0].grade(_items(texts))]

        return grade

    def rollouts(self, episodes: Sequence[Episode], earned: Sequence[tuple[Component, ...]]) -> list[Rollout]:
        """Episodes with verdicts and components; `earned` holds what each got from its environment along the way.

        A crash of any reward makes the whole rollout an abstention; a time-out of any makes it wrong, at the lowest reward that
        this reward gave to the others (or 0): hanging never pays. A reward that returned None is left out of the sum.
        """
        items = _items([(e.prompt, e.text, e.turns[-1].completion.finish if e.turns else "abort") for e in episodes])
        columns = [_floored(pool.grade(items)) for pool in self.pools]
        return [_rollout(episode, extra, graded) for episode, extra, *graded in zip(episodes, earned, *columns, strict=True)]

    def problems(self) -> dict[str, int]:
        """Messages of rewards that failed, with their counts so far."""
        return {message: n for pool in self.pools for message, n in pool.problems.items()}

    def close(self) -> None:
        """End the workers."""
        self._open.close()

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _rollout(episode: Episode, earned: tuple[Component, ...], graded: Sequence[Graded]) -> Rollout:
    """A rollout from what each verifier or reward said of it."""
    components = tuple(c for g in graded for c in g.components)
    verdict = graded[0].verdict
    failed = [g.verdict for g in graded if g.verdict.kind in ("crash", "timeout")]
    if failed:
        worst = min(failed, key=lambda v: v.kind)  # a crash before a time-out
        if worst.kind == "timeout" and verdict.kind != "timeout":  # an extra reward: not right either
            components = tuple(replace(c, value=0.0) if c.name == "correct" and c.value else c for c in components)
        verdict = worst
    return Rollout(episode, verdict, components + earned)


def _floored(graded: list[Graded]) -> list[Graded]:
    """The same, with the lowest reward of the others (or 0) where the verifier timed out."""
    if all(g.verdict.kind != "timeout" for g in graded):
        return graded
    totals = [sum(c.value for c in g.components if c.value is not None) for g in graded if g.verdict.kind != "timeout"]
    floor = min([0.0, *totals])
    return [replace(g, components=(Component("timeout", floor),)) if g.verdict.kind == "timeout" else g for g in graded]


def _items(answers: Sequence[tuple[Prompt, str, Finish]]) -> list[Item]:
    return [Item(prompt.id, text, prompt.answer, prompt.meta, finish) for prompt, text, finish in answers]


def judged(rollout: Rollout) -> bool:
    """Whether the rollout has a reward and a verdict: abstentions are out of every statistic."""
    return rollout.reward is not None and rollout.verdict.correct is not None
