"""What a reward function may take and return, and what is made of it.

Returned
    Verdict              as it is; one component "correct" (1 or 0)
    bool                 a verdict; one component "correct" (1 or 0)
    float                one component "reward"; correct if above 0
    dict[str, float]     one component each; correct if "correct" (or, without it, the sum) is above 0
    None                 an abstention: no statistics, no gradient

A further reward has a name: it stands for "correct" and "reward", and before the keys of a dict ("name/key"), so that no two
rewards give components of the same name.

A function with a parameter `completions` is given lists, and returns a list with one of these for each completion.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from groupwise.core.verdict import UNJUDGED, Component, Verdict
from groupwise.errors import nearest


class WrongRewardError(ValueError):
    """A reward function asks for something that is not there, or returned something that is not a reward."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of one answer: its text, the right answer, and by name the data's columns and ours (`Item`)."""

    text: str
    answer: Any
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict and its reward components."""

    verdict: Verdict
    components: tuple[Component, ...]


class Reward:
    """A verifier or reward function; `name` is that of a further reward ("": the task's verifier).

    `batched` functions take lists of answers, `asynchronous` ones are awaited.
    """

    def __init__(self, function: Callable[..., Any], name: str = "") -> None:
        self.function, self.name = function, name
        self._parameters = inspect.signature(function).parameters
        self._takes_all = any(p.kind is p.VAR_KEYWORD for p in self._parameters.values())
        self.batched = takes_lists(function)
        self.asynchronous = inspect.iscoroutinefunction(function)

    def call(self, answers: Sequence[Answer]) -> Any:
        """What the function returns of these (one, unless it is batched); of an asynchronous one, what to await."""
        if self.batched:
            known = {"completions": [a.text for a in answers], "answer": [a.answer for a in answers]}
            names = dict.fromkeys(name for a in answers for name in a.columns)
            columns = {name: [a.columns.get(name) for a in answers] for name in names}
            return self.function(**self._taken({"prompts": columns.get("prompt"), **columns, **known}))
        (one,) = answers
        if "meta" in self._parameters:
            return self.function(one.text, one.answer, meta=one.columns)
        return self.function(one.text, one.answer, **self._taken(one.columns, _positional(self._parameters)[:2]))

    def outcomes(self, returned: Any, n: int) -> list["Outcome | WrongRewardError"]:
        """What is made of it, for each of the n answers. WrongRewardError if a batched function's is no list of that length."""
        if not self.batched:
            return [self._outcome(returned)]
        if isinstance(returned, str | Mapping) or not hasattr(returned, "__len__"):
            raise WrongRewardError(f"a function of `completions` returns a list with a reward for each, got {_kind(returned)}")
        if len(returned) != n:
            raise WrongRewardError(f"{len(returned)} rewards for {n} completions")
        return [self._outcome(value) for value in returned]

    def _outcome(self, value: Any) -> "Outcome | WrongRewardError":
        try:
            return outcome(value, self.name)
        except WrongRewardError as error:
            return error

    def _taken(self, columns: Mapping[str, Any], reserved: Sequence[str] = ()) -> dict[str, Any]:
        """The columns that the function takes; WrongRewardError names one that it needs and that is not there."""
        names = [name for name, p in self._parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        lacking = [name for name in names if self._parameters[name].default is inspect.Parameter.empty
                   and name not in columns and name not in reserved]
        if lacking:
            raise WrongRewardError(f"the function takes {lacking[0]!r}, which is no column of this line; "
                                   f"{nearest(lacking[0], columns)}")
        return {k: v for k, v in columns.items() if (self._takes_all or k in names) and k not in reserved}


def takes_lists(function: Callable[..., Any]) -> bool:
    """Whether a function is given lists of completions: it has a parameter `completions`."""
    return "completions" in inspect.signature(function).parameters


def outcome(value: Any, name: str = "") -> Outcome:
    """The outcome of a returned value; `WrongRewardError` if it is of a wrong type or not finite."""
    if value is None:
        return Outcome(UNJUDGED, (Component(name or "correct", None),))
    if isinstance(value, Verdict):
        return Outcome(value, (_correct(value.correct, name),))
    if _boolean(value):
        return Outcome(Verdict(bool(value), "ok" if value else "mismatch"), (_correct(bool(value), name),))
    if isinstance(value, Mapping):
        return _named({key: _finite(part, f"component {key!r}") for key, part in value.items()}, name)
    reward = _finite(value, "reward")
    assert reward is not None
    return Outcome(_verdict(reward > 0), (Component(name or "reward", reward),))


def _named(parts: dict[Any, float | None], name: str) -> Outcome:
    wrong = [key for key in parts if not isinstance(key, str) or not key]
    if wrong or not parts:
        raise WrongRewardError(f"the names of reward components are non-empty strings, got {wrong or 'none'}")
    values = [part for part in parts.values() if part is not None]
    decisive = parts["correct"] if "correct" in parts else (sum(values) if values else None)
    return Outcome(UNJUDGED if decisive is None else _verdict(decisive > 0),
                   tuple(Component(f"{name}/{key}" if name else key, part) for key, part in parts.items()))


def _finite(value: Any, what: str) -> float | None:
    if value is None:
        return None
    if _boolean(value):
        return float(value)
    if not isinstance(value, Real):
        raise WrongRewardError(f"the {what} is {_kind(value)}; return a float, bool, None, Verdict or dict of floats")
    if not math.isfinite(value):
        raise WrongRewardError(f"the {what} is {float(value)}")
    return float(value)


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"


def _boolean(value: Any) -> bool:
    """Python's or numpy's; numpy is not imported for it."""
    return isinstance(value, bool) or (type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"))


def _correct(correct: bool | None, name: str) -> Component:
    return Component(name or "correct", None if correct is None else float(correct))


def _verdict(correct: bool) -> Verdict:
    return Verdict(correct, "ok" if correct else "mismatch", "reward")


def _positional(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    return [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
