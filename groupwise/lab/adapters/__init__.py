"""From a golden vector to one of our objectives: an adapter for each framework, which translates and computes nothing."""

from collections.abc import Callable, Mapping
from typing import Any

from groupwise.errors import ConfigError
from groupwise.lab.adapters import others, trl, verl
from groupwise.lab.fixture import Case

ADAPTERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Case | None]] = {
    "verl": verl.adapt, "trl": trl.adapt, "openrlhf": others.openrlhf, "slime": others.slime, "sail-sg/oat": others.oat,
    "prime-rl": others.prime_rl, "numpy": others.equation}
"""By a word of the vector's `implementation`."""


def adapt(vector: Mapping[str, Any], fixture: Mapping[str, Any]) -> Case | None:
    """The case of a vector, or None if it asks for one function alone. ConfigError: it is of a framework that is not known."""
    named = str(vector["implementation"]).lower()
    for word, adapter in ADAPTERS.items():
        if word in named:
            return adapter(vector, fixture)
    raise ConfigError(f"vector {vector['id']!r} is of {vector['implementation']!r}; known are {', '.join(ADAPTERS)}")
