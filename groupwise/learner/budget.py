"""How much one forward and backward pass may take, and what is done where there is no memory for it.

What the pass had made is thrown away, the tokens of a micro-batch and the logits that exist at a time are halved, and it is made
again. The weights of an optimiser step were fixed before (ADR 0001), so the gradient is the same up to rounding.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from groupwise.errors import TrainingError
from groupwise.models.memory import release, tried

logger = logging.getLogger(__name__)
LEAST = 2**20
"""Logits below which their number is not halved: by then something else takes the memory."""
LESS = ("take LoRA or gradient checkpointing, a shorter sampling.max_tokens, or learner.workers=1; `groupwise plan` says what "
        "takes how much")

Made = TypeVar("Made")


@dataclass
class Budget:
    """Tokens of a micro-batch and logits at a time, as set or as lowered since; the latter not below `least`."""

    micro_tokens: int
    logit_chunk: int
    fixed: bool = False
    """Whether the method's objective depends on how a minibatch is cut, so that the cut must not change by itself."""
    least: int = LEAST

    def __post_init__(self) -> None:
        self.set = (self.micro_tokens, self.logit_chunk)

    def lowered(self) -> dict[str, int]:
        """The present values by the names of the settings, if they are not those that were set."""
        now = (self.micro_tokens, self.logit_chunk)
        return {} if now == self.set else dict(zip(("micro_tokens", "logit_chunk"), now, strict=True))

    def lower(self, values: dict[str, Any]) -> None:
        """Go on with what a checkpoint says was lowered."""
        self.micro_tokens = int(values.get("micro_tokens", self.micro_tokens))
        self.logit_chunk = int(values.get("logit_chunk", self.logit_chunk))

    def within(self, make: Callable[[], Made], undo: Callable[[], None], what: str, sizes: np.ndarray) -> Made:
        """What `make` makes, with as little at a time as the memory needs; `undo` clears what a failed attempt left.

        `sizes` are the positions of the sequences. TrainingError: it does not fit even one by one, or the cut is fixed.
        """
        while True:
            made, said = tried(make)
            if not said:
                return made  # type: ignore[return-value]
            release()  # and with it what the kernels keep for a backward that will not come
            undo()
            self._halve(said, what, sizes)

    def _halve(self, said: str, what: str, sizes: np.ndarray) -> None:
        longest, before = int(sizes.max(initial=1)), (self.micro_tokens, self.logit_chunk)
        if self.fixed:
            raise TrainingError(f"out of memory in {what} with micro_tokens={self.micro_tokens} ({said}), and the method's "
                                "objective depends on how a minibatch is cut, so that a smaller one would be another objective: "
                                f"start a run with --micro-tokens {max(longest, self.micro_tokens // 2)}")
        # Fewer tokens than the longest sequence, or more than there are, make no other micro-batches.
        self.micro_tokens = min(self.micro_tokens, max(longest, min(self.micro_tokens, int(sizes.sum())) // 2))
        self.logit_chunk = min(self.logit_chunk, max(self.least, self.logit_chunk // 2))
        if (self.micro_tokens, self.logit_chunk) == before:
            raise TrainingError(f"out of memory in {what} ({said}): one sequence of {longest} tokens does not fit beside the "
                                f"weights, their gradient and the optimiser; {LESS}")
        logger.warning("out of memory in %s (%s): it is made again with micro_tokens=%d and logit_chunk=%d (before: %d, %d), "
                       "which changes it by rounding at most; to begin with them: --micro-tokens %d --logit-chunk %d", what, said,
                       self.micro_tokens, self.logit_chunk, *before, self.micro_tokens, self.logit_chunk)
