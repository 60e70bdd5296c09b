"""What a reward function may return, and what is made of it.

Returned
    Verdict              as it is; one component "correct" (1 or 0)
    bool                 a verdict; one component "correct" (1 or 0)
    float                one component "reward"; correct if above 0
    dict[str, float]     one component each; correct if "correct" (or, without it, the sum) is above 0
    None                 an abstention: no statistics, no gradient
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from groupwise.core.verdict import UNJUDGED, Component, Verdict

Grade = Callable[[str, Any, Mapping[str, Any]], "Outcome"]
"""A function (text, answer, columns) -> Outcome."""


class WrongRewardError(ValueError):
    """A reward function returned something that is not a reward."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict and its reward components."""

    verdict: Verdict
    components: tuple[Component, ...]


def adapt(function: Callable[..., Any]) -> Grade:
    """A verifier or reward function as (text, answer, columns) -> Outcome.

    A function with a parameter `meta` gets the columns as a mapping; others get by name those that they take.
    """
    parameters = inspect.signature(function).parameters
    if "meta" in parameters:
        return lambda text, answer, columns: outcome(function(text, answer, meta=columns))
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    reserved = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:2]

    def grade(text: str, answer: Any, columns: Mapping[str, Any]) -> Outcome:
        given = {k: v for k, v in columns.items() if (takes_all or k in parameters) and k not in reserved}
        return outcome(function(text, answer, **given))

    return grade


def outcome(value: Any) -> Outcome:
    """The outcome of a returned value; `WrongRewardError` if it is of a wrong type or not finite."""
    if value is None:
        return Outcome(UNJUDGED, (Component("correct", None),))
    if isinstance(value, Verdict):
        return Outcome(value, (_correct(value.correct),))
    if _boolean(value):
        return Outcome(Verdict(bool(value), "ok" if value else "mismatch"), (_correct(bool(value)),))
    if isinstance(value, Mapping):
        return _named({name: _finite(part, f"component {name!r}") for name, part in value.items()})
    reward = _finite(value, "reward")
    assert reward is not None
    return Outcome(_verdict(reward > 0), (Component("reward", reward),))


def _named(parts: dict[Any, float | None]) -> Outcome:
    wrong = [name for name in parts if not isinstance(name, str) or not name]
    if wrong or not parts:
        raise WrongRewardError(f"the names of reward components are non-empty strings, got {wrong or 'none'}")
    values = [part for part in parts.values() if part is not None]
    decisive = parts["correct"] if "correct" in parts else (sum(values) if values else None)
    return Outcome(UNJUDGED if decisive is None else _verdict(decisive > 0),
                   tuple(Component(name, part) for name, part in parts.items()))


def _finite(value: Any, what: str) -> float | None:
    if value is None:
        return None
    if _boolean(value):
        return float(value)
    if not isinstance(value, Real):
        raise WrongRewardError(f"the {what} is a {type(value).__name__}; return a float, bool, None, Verdict or dict of floats")
    if not math.isfinite(value):
        raise WrongRewardError(f"the {what} is {float(value)}")
    return float(value)


def _boolean(value: Any) -> bool:
    """Python's or numpy's; numpy is not imported for it."""
    return isinstance(value, bool) or (type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"))


def _correct(correct: bool | None) -> Component:
    return Component("correct", None if correct is None else float(correct))


def _verdict(correct: bool) -> Verdict:
    return Verdict(correct, "ok" if correct else "mismatch", "reward")
