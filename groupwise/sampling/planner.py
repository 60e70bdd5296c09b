"""Planners: which prompts come next, and how many rollouts of each."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from groupwise.core.keyed import fold, generator
from groupwise.core.rollout import Prompt
from groupwise.core.services import Plan
from groupwise.sampling.history import History


@runtime_checkable
class Planner(Protocol):
    """Turns the train set into plans; its state belongs to a checkpoint."""

    def begin(self, prompts: Sequence[Prompt], seed: int) -> None:
        """Take the train set; called once, before anything else."""
        ...

    def draw(self, k: int, n: int, history: History) -> list[Plan]:
        """Plans for k prompts with n rollouts each."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state back."""
        ...


class Shuffled:
    """Every prompt once per epoch, in an order that depends on (seed, epoch) alone; prompts of refused groups are used up."""

    def __init__(self) -> None:
        self.prompts: Sequence[Prompt] = ()
        self.seed = 0
        self.cursor = 0
        self._epoch: tuple[int, list[int]] = (-1, [])

    def begin(self, prompts: Sequence[Prompt], seed: int) -> None:
        """Take the train set."""
        self.prompts, self.seed, self._epoch = prompts, seed, (-1, [])

    def draw(self, k: int, n: int, history: History) -> list[Plan]:
        """The next k prompts; a prompt drawn twice in one step has two groups."""
        plans = []
        for cursor in range(self.cursor, self.cursor + k):
            epoch, place = divmod(cursor, len(self.prompts))
            prompt = self.prompts[self._order(epoch)[place]]
            plans.append(Plan(prompt, n, visit=fold(self.seed, prompt.id, epoch), group=f"{prompt.id}@{epoch}"))
        self.cursor += k
        return plans

    def state_dict(self) -> dict[str, Any]:
        """How many prompts were drawn."""
        return {"cursor": self.cursor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.cursor = int(state["cursor"])

    def _order(self, epoch: int) -> list[int]:
        if self._epoch[0] != epoch:
            self._epoch = (epoch, generator(self.seed, "epoch", epoch).permutation(len(self.prompts)).tolist())
        return self._epoch[1]
