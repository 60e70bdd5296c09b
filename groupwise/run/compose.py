"""From a method's name and arguments to a Method: nothing here loads a model."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from groupwise.core import named
from groupwise.errors import ConfigError, ObjectiveError, nearest
from groupwise.methods import METHODS
from groupwise.methods.method import Method
from groupwise.methods.update import Minibatches, Once
from groupwise.objective.correction import Correction, Masked, Normalised, Rejected, Truncated, Uncorrected
from groupwise.objective.credit import Advantage, Blend
from groupwise.run.settings import Run
from groupwise.sampling.planner import Shuffled

CORRECTIONS: dict[str, type[Uncorrected | Truncated | Masked | Rejected | Normalised]] = {
    "none": Uncorrected, "truncated": Truncated, "masked": Masked, "rejected": Rejected, "normalised": Normalised}


def factory_of(name: str) -> Callable[..., Any]:
    """The function that composes a method: a shipped one, or 'module:function' of the user. ConfigError if there is none."""
    if name not in METHODS and ":" not in name:
        raise ConfigError(f"unknown method {name!r}; {nearest(name, METHODS)}; or give 'module:function' of your own")
    return METHODS[name] if name in METHODS else named.function(name, "method")


def _check_siblings(run: Run, method: Method) -> None:
    """ConfigError: rollouts without siblings, where the advantage is taken over siblings, so that nothing could be learnt."""
    if run.group_size > 1 or method.planner is not Shuffled or method.intervene:
        return
    credit = method.objective.credit_by
    parts = [part for _, part in credit.parts] if isinstance(credit, Blend) else [credit]
    found = [part.baseline for part in parts if isinstance(part, Advantage) and part.key == "group"]
    if len(found) == len(parts) and all(one.within_cells and one.singleton != "raw" for one in found):
        raise ConfigError(f"group_size=1, but the baseline of method {run.method!r} ({type(found[0]).__name__}) is taken from "
                          "the other rollouts of a group: every advantage would be 0; take group_size=2 or more, such as 8, or a "
                          "method that needs no siblings, such as reinforce or ppo")


def method_of(run: Run, max_tokens: int) -> Method:
    """The method with its arguments checked; `max_tokens` and `reward_weights` are given to those that ask for them.

    ConfigError names what is wrong.
    """
    method = composed(run.method, run.method_args, {"max_tokens": max_tokens, "reward_weights": run.reward_weights})
    _check_siblings(run, method)
    method = mended(run, method)
    if not run.updates_per_batch:
        return method
    if not isinstance(method.update, Once | Minibatches):
        raise ConfigError(f"method {run.method!r} has an update strategy of its own ({type(method.update).__name__}), which "
                          f"updates_per_batch={run.updates_per_batch} would replace; leave it at 0")
    epochs = method.update.epochs if isinstance(method.update, Minibatches) else 1
    return replace(method, update=Minibatches(run.updates_per_batch, epochs))


def mended(run: Run, method: Method) -> Method:
    """The method with the behaviour and the correction that the settings ask for. ConfigError: they cannot go together."""
    correction = method.objective.correction
    if run.correction != "method":
        correction = correction_of(run.correction, run.correction_args)
    elif run.correction_args:
        raise ConfigError("correction_args without a correction: give correction too, such as truncated")
    behaviour = method.behaviour if run.behaviour == "method" else run.behaviour
    return replace(method, behaviour=behaviour, objective=replace(method.objective, correction=correction))


def correction_of(name: str, arguments: Mapping[str, Any]) -> Correction:
    """The correction of a name; `weight` of rejected and `inner` of normalised are names too, and "none" is no bound.

    ConfigError names what is wrong.
    """
    known = {f.name: f for f in fields(CORRECTIONS[name]) if f.name not in ("active", "reach")}
    given = {key: None if value == "none" else value for key, value in arguments.items()}
    for key, value in list(given.items()):
        if key not in known:
            raise ConfigError(f"correction {name!r} has no argument {key!r}; "
                              + (nearest(key, known) if known else "it takes none"))
        if key in ("weight", "inner") and value is not None:
            inner = sorted(set(CORRECTIONS) - {"none", name, "normalised"})
            if value not in inner:
                raise ConfigError(f"correction {name!r}: {key} must be the name of a correction, got {value!r}; "
                                  f"{nearest(str(value), inner)}")
            given[key] = CORRECTIONS[value]()
        elif isinstance(known[key].default, float) and value is not None and type(value) not in (int, float):
            raise ConfigError(f"correction {name!r}: {key} must be a number, got {value!r}")
    made: Callable[..., Correction] = CORRECTIONS[name]
    try:
        return made(**given)
    except ObjectiveError as error:
        raise ConfigError(str(error)) from error


def method(name: str, /, *, max_tokens: int = 0, **arguments: Any) -> Method:
    """The method of a name ('module:function' or 'file.py:function': your own), its equation in `.objective`.

    `max_tokens` is the longest completion allowed, for the methods that ask for it; the other arguments are the method's own.
    ConfigError names what is wrong.
    """
    return composed(name, arguments, {"max_tokens": max_tokens} if max_tokens else {})


def composed(name: str, arguments: Mapping[str, Any], offered: Mapping[str, Any]) -> Method:
    """A method of its arguments, and of what is `offered` where it asks for that. ConfigError names what is wrong."""
    make_method = factory_of(name)
    known = inspect.signature(make_method).parameters
    for argument in arguments:
        if argument not in known:
            raise ConfigError(f"method {name!r} has no argument {argument!r}; {nearest(argument, known)}")
    given = {argument: value for argument, value in offered.items() if argument in known} | dict(arguments)
    for argument, value in given.items():
        wanted = known[argument].annotation
        allowed = (int, float) if wanted is float else (wanted,)
        if wanted in (int, bool, str, float) and type(value) not in allowed:
            raise ConfigError(f"method {name!r}: {argument} must be {wanted.__name__}, got {value!r}")
    lacking = [p.name for p in known.values() if p.default is p.empty and p.name not in given
               and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if lacking:
        raise ConfigError(f"method {name!r} needs {lacking[0]!r}: give {lacking[0]}=...")
    made = make_method(**given)
    if not isinstance(made, Method):
        raise ConfigError(f"method {name!r} returned {type(made).__name__}; it must return a Method")
    return made
