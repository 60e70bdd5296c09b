"""The embedded task with other problems to train on; what is held out stays the same, so that evaluations can be compared.

A run is known by its settings and the files that they name, so a change of this file makes all runs on these tasks anew.
"""

from dataclasses import replace

from groupwise.tasks import make
from groupwise.tasks.task import Task


def short() -> Task:
    """Chains of 4 and 5 terms only (held out: 4 to 8)."""
    return _trained_on(4, 5, 4096)


def long() -> Task:
    """Chains of 7 and 8 terms only (held out: 4 to 8)."""
    return _trained_on(7, 8, 4096)


def few() -> Task:
    """Chains of 4 terms only, 256 of them (held out: 4 to 8)."""
    return _trained_on(4, 4, 256)


def _trained_on(kmin: int, kmax: int, number: int) -> Task:
    whole = make("reduce", {})
    apart = {p.text for p in whole.heldout}
    drawn = make("reduce", {"kmin": kmin, "kmax": kmax, "train": number + 1000, "seed": 2}).train
    return replace(whole, train=tuple(p for p in drawn if p.text not in apart)[:number])
