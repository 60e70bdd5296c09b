"""What can be checked by name: shipped methods, and methods and objectives of the user's own."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from groupwise.core import named
from groupwise.errors import ConfigError, nearest
from groupwise.lab.trials import Subject
from groupwise.methods import METHODS
from groupwise.methods.method import Method
from groupwise.objective.objective import Objective


def subject_of(name: str, arguments: Mapping[str, Any] | None = None, *, max_tokens: int = 16) -> Subject:
    """What a name gives: a shipped method, `module:function` or `file.py:function`. Raises ConfigError.

    `max_tokens` is the longest completion allowed, for methods that ask for it.
    """
    arguments = dict(arguments or {})
    if name not in METHODS and ":" not in name:
        raise ConfigError(f"unknown method {name!r}; {nearest(name, METHODS)}; or give 'module:function' of your own")
    factory: Callable[..., Any] = METHODS[name] if name in METHODS else named.function(name, "method")
    known = inspect.signature(factory).parameters
    for key in arguments:
        if key not in known:
            raise ConfigError(f"method {name!r} has no argument {key!r}; {nearest(key, known) if known else 'it takes none'}")
    given = {"max_tokens": max_tokens, **arguments} if "max_tokens" in known else arguments
    return subject(factory(**given), name, (name, arguments))


def subject(made: Any, name: str = "", source: tuple[str, dict[str, Any]] | None = None) -> Subject:
    """What is checked, from a Method or an Objective. Raises ConfigError for anything else."""
    if isinstance(made, Objective):
        made = Method(made)
    if not isinstance(made, Method):
        raise ConfigError(f"method {name!r} returned {type(made).__name__}; it must return a Method or an Objective")
    return Subject(name or type(made.objective).__name__, made, source)


def shipped() -> list[Subject]:
    """Every method of the package, with its default arguments."""
    return [subject_of(name) for name in METHODS]
