"""Admission: which groups may enter the batch. A rule answers None (enter) or the reason of the refusal, which is counted."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from groupwise.core.rollout import Group
from groupwise.sampling.intervention import GREEDY

Admission = Callable[[Group], str | None]


def mixed(group: Group) -> str | None:
    """Strictly more than none and fewer than all rollouts correct (DAPO's dynamic sampling, arXiv 2503.14476, Eq. 11).

    It looks at strict correctness, before any shaping: shaped rewards have variance even where every answer is wrong.
    """
    right = [bool(r.verdict.correct) for r in group.own]
    if not any(right):
        return "all_wrong"
    return "all_correct" if all(right) else None


def greedy_there(group: Group) -> str | None:
    """A group whose greedy rollout could not be graded has no baseline (ReMax)."""
    return None if any(r.episode.role == GREEDY for r in group.rollouts) else "no_greedy"


@dataclass(frozen=True)
class Refill:
    """Draw further prompts while groups are refused, at most `rounds` times a step (DAPO's code: 10).

    `short` says what happens if the batch is still not full: `train` on what there is (counted), or `stop` with an error, as
    DAPO's code does. Surplus groups are dropped, in the order in which their prompts were drawn.
    """

    rounds: int = 10
    short: Literal["train", "stop"] = "train"
