"""What the native engine records of a mixture of experts while it samples a wave of rows."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from groupwise.models.routing import EXPERTS


class Routes:
    """The routes of the contexts, and of every token sampled: those of the position that it was sampled at."""

    def __init__(self, contexts: Sequence[tuple[int, ...]], found: Int[Tensor, "contexts width layers k"],
                 index: Int[Tensor, " rows"], room: int) -> None:
        self.contexts: dict[tuple[int, ...], np.ndarray] = {}
        for context, own in zip(contexts, found.cpu().numpy(), strict=True):  # padded on the left
            rows = np.full((len(context), *own.shape[1:]), -1, dtype=own.dtype)
            rows[1:] = own[len(own) - len(context):-1]
            self.contexts[context] = rows
        self.experts = np.empty((len(index), room, *found.shape[2:]), dtype=np.int16)
        self.now = found[:, -1].index_select(0, index)
        self.block: list[Tensor] = []

    def sampled(self) -> None:
        """Every row has drawn a token at the position that `now` [rows, layers, k] is of."""
        self.block.append(self.now)

    def store(self, rows: np.ndarray, start: int) -> None:
        """Keep what was sampled by these rows from the token `start` on."""
        block = torch.stack(self.block, 1).cpu().numpy()
        self.experts[rows, start:start + block.shape[1]] = block
        self.block = []

    def extras(self, i: int, context: tuple[int, ...], length: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The extras of a row's completion and of its context, which all rows of it share."""
        return {EXPERTS: self.experts[i, :length].copy()}, {EXPERTS: self.contexts[context]}
