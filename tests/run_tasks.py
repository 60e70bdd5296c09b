"""Tasks as a user would write them, for a policy too small to be right by itself."""

from dataclasses import replace
from pathlib import Path

from groupwise.tasks.reduce import reduce
from groupwise.tasks.task import Task

REWARDS = Path(__file__).resolve().with_name("run_rewards.py")


def parity(train: int = 64, heldout: int = 16) -> Task:
    """An answer is right if its length is even: groups are mixed."""
    return replace(reduce(kmin=2, kmax=3, train=train, heldout=heldout), name="parity", verifier=f"{REWARDS}:even_length")


def hopeless(train: int = 64, heldout: int = 16) -> Task:
    """No answer is right."""
    return replace(parity(train, heldout), name="hopeless", verifier=f"{REWARDS}:never")
