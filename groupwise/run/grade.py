"""Verdicts and reward components for answers: the task's verifier and any further rewards, in workers that can be killed."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType, TracebackType

from groupwise.core.rollout import Completion, Episode, Prompt, Rollout
from groupwise.core.verdict import Component, Finish, Verdict, weight_of
from groupwise.models.load import Policy
from groupwise.models.reward_model import load_reward_model
from groupwise.models.template import decode
from groupwise.run.rewards import MODEL, Checked, ModelReward, named
from groupwise.verify.pool import Graded, Item, Pool

NO_WEIGHTS: Mapping[str, float] = MappingProxyType({})


class Grader:
    """The task's verifier says what is correct; the reward is the weighted sum of its components and those of `rewards`.

    `rewards` and `weights` are written as in `groupwise.run.rewards`; `deadline` is in seconds for each answer, and reward models
    are put on `device`. Raises `ConfigError` for what cannot be loaded or is called wrongly.
    """

    def __init__(self, verifier: str, rewards: Sequence[str] = (), *, weights: Mapping[str, float] = NO_WEIGHTS, workers: int = 1,
                 deadline: float = 5.0, device: str = "cpu") -> None:
        self._open = contextlib.ExitStack()
        self._weights, names = weights, named(rewards)
        self._check = Checked(weights, list(names))
        with contextlib.ExitStack() as opening:
            start = partial(Pool, workers=workers, deadline=deadline)
            self.verifier = opening.enter_context(start(verifier))
            self.rewards: list[Pool | ModelReward] = []
            for name, what in names.items():
                model = partial(load_reward_model, what.removeprefix(MODEL), device=device)
                reward = ModelReward(name, model) if what.startswith(MODEL) else start(what, name=name)
                opening.callback(reward.close)
                self.rewards.append(reward)
            self._open = opening.pop_all()

    def answers(self, policy: Policy) -> Callable[[list[tuple[Prompt, Completion]]], list[Verdict]]:
        """A function from completions of this policy to strict verdicts, for evaluation."""

        def grade(pairs: list[tuple[Prompt, Completion]]) -> list[Verdict]:
            items = [_item(p, decode(policy.tokenizer, c.tokens, policy.eos_ids), c.finish, len(c.tokens)) for p, c in pairs]
            return [graded.verdict for graded in self.verifier.grade(items)]

        return grade

    def rollouts(self, episodes: Sequence[Episode], earned: Sequence[tuple[Component, ...]]) -> list[Rollout]:
        """Episodes with verdicts and components; `earned` holds what each got from its environment along the way.

        A crash of any reward makes the whole rollout an abstention; a time-out of any makes it wrong, at the lowest that this
        reward gave to the others (or 0): hanging never pays. A reward that returned None is left out of the sum.
        """
        items = [_item(e.prompt, e.text, e.turns[-1].completion.finish if e.turns else "abort", e.length) for e in episodes]
        columns = [self.verifier.grade(items)]
        columns += [one.grade(items) if isinstance(one, Pool) else one.grade(episodes) for one in self.rewards]
        self._check(columns)
        filled = [_filled(column, self._weights) for column in columns]
        return [self._rollout(episode, extra, graded) for episode, extra, *graded in zip(episodes, earned, *filled, strict=True)]

    def problems(self) -> dict[str, int]:
        """Messages of rewards that failed, with their counts so far."""
        return {f"reward {one.name}: {message}" if one.name else message: n
                for one in (self.verifier, *self.rewards) for message, n in one.problems.items()}

    def _rollout(self, episode: Episode, earned: tuple[Component, ...], graded: Sequence[Graded]) -> Rollout:
        """A rollout from what each verifier or reward said of it."""
        components = tuple(c for g in graded for c in g.components)
        verdict = graded[0].verdict
        failed = [g.verdict for g in graded if g.verdict.kind in ("crash", "timeout")]
        if failed:
            worst = min(failed, key=lambda v: v.kind)  # a crash before a time-out
            if worst.kind == "timeout" and verdict.kind != "timeout":  # a further reward: not right either
                components = tuple(replace(c, value=0.0) if c.name == "correct" and c.value else c for c in components)
            verdict = worst
        weighed = tuple(replace(c, weight=weight_of(c.name, self._weights)) for c in components + earned)
        return Rollout(episode, verdict, weighed)

    def close(self) -> None:
        """End the workers."""
        self._open.close()

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _filled(graded: list[Graded], weights: Mapping[str, float]) -> list[Graded]:
    """The same, with the components that the others have where there is no value: abstentions, or after a time-out the value of
    the others (or 0) that counts least.
    """
    given = [c for g in graded if g.verdict.kind != "timeout" for c in g.components if c.value is not None]
    least = {c.name: 0.0 for c in given}
    for c in given:
        least[c.name] = min(least[c.name], c.value or 0.0, key=lambda value: value * weight_of(c.name, weights))
    lost = tuple(Component(name, None) for name in least)
    late = tuple(Component(name, value) for name, value in least.items())

    def filled(one: Graded) -> Graded:
        if not given or (one.verdict.kind != "timeout" and any(c.value is not None for c in one.components)):
            return one
        return replace(one, components=late if one.verdict.kind == "timeout" else lost)

    return [filled(one) for one in graded]


def _item(prompt: Prompt, text: str, finish: Finish, tokens: int) -> Item:
    return Item(prompt.id, text, prompt.answer, prompt.meta, finish, prompt.text, tokens)


def judged(rollout: Rollout) -> bool:
    """Whether the rollout has a reward and a verdict: abstentions are out of every statistic."""
    return rollout.reward is not None and rollout.verdict.correct is not None
