"""Verdicts and reward components for answers: the task's verifier and any further rewards, in workers that can be killed."""

import contextlib
from collections.abc import Callable, Sequence
from types import TracebackType

from groupwise.core.rollout import Completion, Component, Episode, Finish, Prompt, Rollout, Verdict
from groupwise.models.load import Policy
from groupwise.models.template import decode
from groupwise.verify.pool import Item, Pool


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
        """Episodes with verdicts and components; `earned` holds what each got from its environment along the way."""
        items = _items([(e.prompt, e.text, e.turns[-1].completion.finish if e.turns else "abort") for e in episodes])
        graded = [pool.grade(items) for pool in self.pools]
        return [Rollout(episode, graded[0][i].verdict, tuple(c for pool in graded for c in pool[i].components) + extra)
                for i, (episode, extra) in enumerate(zip(episodes, earned, strict=True))]

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


def _items(answers: Sequence[tuple[Prompt, str, Finish]]) -> list[Item]:
    return [Item(prompt.id, text, prompt.answer, prompt.meta, finish) for prompt, text, finish in answers]


def judged(rollout: Rollout) -> bool:
    """Whether the rollout has a reward and a verdict: abstentions are out of every statistic."""
    return rollout.reward is not None and rollout.verdict.correct is not None
