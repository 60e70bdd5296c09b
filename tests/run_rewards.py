"""Rewards as a user would write them, in a file of their own: the worker that loads it needs nothing else."""

import os
from typing import Any


def digits(text: str, answer: Any) -> float:
    """The share of digits among six characters: a random policy has some, and more of them is easy to learn."""
    return min(6, sum(character.isdigit() for character in text)) / 6


def even_length(text: str, answer: Any) -> bool:
    """Right about half of the time, whatever the policy does."""
    return len(text) % 2 == 0


def moody(text: str, answer: Any) -> float | None:
    """Says nothing of texts that begin with a digit."""
    return None if text[:1].isdigit() else digits(text, answer)


def deadly(text: str, answer: Any) -> float:
    """Ends its worker at texts that begin with a digit."""
    if text[:1].isdigit():
        os._exit(3)
    return digits(text, answer)


def never(text: str, answer: Any) -> bool:
    """Nothing is right."""
    return False


def penalty(text: str, answer: Any) -> float | None:
    """Takes half a point off; ends its worker at texts that begin with 1, hangs at 2, cannot tell at 3."""
    if text.startswith("1"):
        os._exit(3)
    while text.startswith("2"):
        pass
    return None if text.startswith("3") else -0.5


def long(text: str, answer: Any) -> float:
    """Differs between long random texts."""
    return (len(text) % 97) / 97
