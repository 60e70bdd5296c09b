"""Finding the token that completes a stop string."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase


class StopStrings:
    """Looks for stop strings in the decoded end of a completion, special tokens written out."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> None:
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        # A token that is not empty writes at least one byte, so this many tokens before a place hold all that could matter.
        self.reach = max((len(text.encode()) for text in stop), default=0) + 4

    def end(self, tokens: Int[np.ndarray, " n"], start: int, end: int) -> int:
        """How many tokens the completion has when its first stop string is whole, looking at new tokens [start, end); 0: none."""
        if not self.stop:
            return 0
        begin = max(0, start - self.reach)
        if not self._holds(tokens[begin:end]):
            return 0
        return next((n for n in range(start + 1, end + 1) if self._holds(tokens[begin:n])), 0)

    def _holds(self, tokens: Int[np.ndarray, " n"]) -> bool:
        text = self.tokenizer.decode(tokens.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return any(stop in text for stop in self.stop)
