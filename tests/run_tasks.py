"""Tasks as a user would write them, for a policy too small to be right by itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from groupwise.core.rollout import Prompt
from groupwise.core.services import Reply
from groupwise.tasks.reduce import reduce
from groupwise.tasks.task import Task

REWARDS = Path(__file__).resolve().with_name("run_rewards.py")


def parity(train: int = 64, heldout: int = 16) -> Task:
    """An answer is right if its length is even: groups are mixed."""
    return replace(reduce(kmin=2, kmax=3, train=train, heldout=heldout), name="parity", verifier=f"{REWARDS}:even_length")


def hopeless(train: int = 64, heldout: int = 16) -> Task:
    """No answer is right."""
    return replace(parity(train, heldout), name="hopeless", verifier=f"{REWARDS}:never")


@dataclass(frozen=True)
class Twice:
    """Asks once more, whatever was said."""

    max_turns: int = 2

    def reply(self, prompt: Prompt, turns: Sequence[str]) -> Reply:
        return Reply(text=">", done=len(turns) > 1, reward=float(len(turns)))


def twice(train: int = 64, heldout: int = 16) -> Task:
    """Two turns, graded by the parity of the last."""
    return replace(parity(train, heldout), name="twice", environment=Twice())
