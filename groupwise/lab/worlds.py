"""Worlds for an audit: prompts whose every answer is listed, with the chance of each and whether it is right.

The answers of a prompt form a tree: a token is chosen among those that some answer has next. So an answer ends where the tree
does, lengths differ, and a policy over the tree is autoregressive like any other.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from groupwise.core import named
from groupwise.core.keyed import generator
from groupwise.errors import ConfigError
from groupwise.tasks.task import Task
from groupwise.verify.pool import Item, Pool

END = "."
"""What ends an answer in a world's texts: a token like the others."""
MOST_ANSWERS = 2000
"""Answers of one prompt that are listed at most."""


@dataclass(frozen=True)
class Answer:
    """One answer: its tokens (one character each, the end included), whether it is right, its chance, its reward."""

    text: str
    correct: bool
    chance: float
    reward: float

    @property
    def tokens(self) -> tuple[int, ...]:
        """A token id for every character: 2 ends an answer."""
        return tuple(2 if c == END else 3 + ord(c) for c in self.text)


@dataclass(frozen=True)
class Problem:
    """One prompt and all answers to it."""

    name: str
    answers: tuple[Answer, ...]

    @property
    def success(self) -> float:
        """The chance of a right answer."""
        return sum(a.chance for a in self.answers if a.correct)

    def with_success(self, rate: float) -> "Problem":
        """The same with another chance of a right answer; right answers keep their shares, and wrong ones theirs."""
        if not 0 < rate < 1:
            raise ConfigError(f"a success rate lies between 0 and 1, both excluded; got {rate:g}")
        now = self.success
        if not 0 < now < 1:
            raise ConfigError(f"prompt {self.name!r} has only {'right' if now else 'wrong'} answers: its success cannot be set")
        factor = {True: rate / now, False: (1 - rate) / (1 - now)}
        return replace(self, answers=tuple(replace(a, chance=a.chance * factor[a.correct]) for a in self.answers))


World = tuple[Problem, ...]


def problem(name: str, answers: Mapping[str, float | bool], chances: Sequence[float] | None = None) -> Problem:
    """A prompt from {text of an answer: its reward}, right where that is more than a half; chances are equal unless given.

    ConfigError: fewer than two answers, one that is empty, or one that is the beginning of another.
    """
    texts = sorted(answers)
    if len(texts) < 2 or "" in texts:
        raise ConfigError(f"prompt {name!r} of a world has the answers {texts[:5]}: give at least two, none of them empty (the "
                          f"answer that says nothing is {END!r})")
    for one, other in itertools.pairwise(texts):
        if other.startswith(one):
            raise ConfigError(f"prompt {name!r}: the answer {one!r} is the beginning of {other!r}; write {one + END!r} for "
                              "the one that ends there")
    weight = np.ones(len(answers)) if chances is None else np.asarray(chances, dtype=np.float64)
    weight = weight / weight.sum()
    return Problem(name, tuple(Answer(text, float(value) > 0.5, float(chance), float(value))
                               for (text, value), chance in zip(answers.items(), weight, strict=True)))


def toy() -> World:
    """Three prompts of unequal difficulty, whose right and wrong answers are one to three tokens long."""
    return (problem("hard", {".": 0, "a.": 1, "aa.": 1, "aaa": 0}, (0.3, 0.1, 0.1, 0.5)),
            problem("middle", {".": 0, "a.": 1, "aa": 0}, (0.25, 0.4, 0.35)),
            problem("easy", {".": 0, "a.": 1}, (0.2, 0.8)))


def with_successes(world: World, rates: Sequence[float]) -> World:
    """The world with other success rates: one for all prompts, or one for each. No rates: as it is."""
    if len(rates) not in (0, 1, len(world)):
        raise ConfigError(f"success: {len(rates)} rates for {len(world)} prompts ({', '.join(p.name for p in world)}); give one "
                          "for each, or one for all")
    given = list(rates) * (len(world) if len(rates) == 1 else 1)
    return tuple(p.with_success(rate) for p, rate in zip(world, given, strict=True)) if given else world


def of_function(name: str, *, alphabet: str = "01", tokens: int = 2, prompts: int = 3, seed: int = 0) -> World:
    """The world that "module:function" returns: a `Task`, or {prompt: {answer: reward}}.

    Of a task, the first `prompts` are taken, and every text of at most `tokens` characters of the alphabet is an answer, judged
    by the task's verifier; chances are drawn by the seed.
    """
    made = named.function(name, "task")()
    if isinstance(made, Task):
        return tuple(_judged(made, i, alphabet, tokens, seed) for i in range(min(prompts, len(made.train))))
    if not isinstance(made, Mapping) or not made or not all(isinstance(x, Mapping) for x in made.values()):
        raise ConfigError(f"task {name!r} returned {type(made).__name__}; an audit takes a groupwise.tasks.Task, or prompts with "
                          "their answers and rewards: {'prompt': {'ab.': 1, 'b.': 0}}")
    return tuple(problem(str(key), answers) for key, answers in made.items())


def _judged(task: Task, index: int, alphabet: str, tokens: int, seed: int) -> Problem:
    """One prompt of a task with all texts over an alphabet. A text of full length is cut off there."""
    if END in alphabet or len(set(alphabet)) < len(alphabet) or not alphabet or tokens < 1:
        raise ConfigError(f"the alphabet {alphabet!r} needs different characters, not {END!r}, and answers a token")
    if (many := sum(len(alphabet) ** n for n in range(tokens + 1))) > MOST_ANSWERS:
        raise ConfigError(f"{len(alphabet)} characters and {tokens} tokens make {many} answers, more than {MOST_ANSWERS}: give a "
                          "smaller --alphabet or fewer --tokens")
    texts = ["".join(c) for n in range(tokens + 1) for c in itertools.product(alphabet, repeat=n)]
    prompt = task.train[index]
    items = [Item(prompt.id, text, prompt.answer, prompt.meta, "length" if len(text) == tokens else "stop", prompt.text,
                  len(text) + (len(text) < tokens)) for text in texts]
    with Pool(task.verifier) as pool:
        graded = pool.grade(items)
    values = {text + END * (len(text) < tokens): bool(g.verdict.correct) for text, g in zip(texts, graded, strict=True)}
    chances = generator(seed, "audit", "chances", index).gamma(2.0, size=len(values)).tolist()
    return problem(prompt.id, values, chances)
