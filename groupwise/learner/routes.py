"""The routes of a mixture of experts, between a batch's extras and the positions of a forward.

A row of the extras belongs to the token that a position predicts: position p of a sequence predicts its token p + 1, counted from
the start of the context. So the first token of a context has no row of its own (-1), and the last position is that of the last
completion token's row.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from groupwise.models.routing import EXPERTS
from groupwise.objective.batch import Batch


def laid_out(batch: Batch, lengths: np.ndarray) -> Int[Tensor, "n layers k"] | None:
    """The routes of all positions, sequences padded on the right to the longest; -1 where none is known. None: nowhere."""
    if EXPERTS not in batch.extras:
        return None
    starts, rows = batch.layout.first_token("sequence"), batch.extras[EXPERTS].cpu().numpy()
    before = batch.context_extras.get(EXPERTS)
    out = np.full((len(lengths), int(lengths.max()), *rows.shape[1:]), -1, dtype=rows.dtype)
    for s, context in enumerate(batch.contexts):
        c = len(context)
        if before is not None:
            out[s, :c - 1] = before[s][1:]
        out[s, c - 1:lengths[s]] = rows[starts[s]:starts[s + 1]]
    return torch.from_numpy(out).flatten(0, 1).to(batch.tokens.device)


def with_routes(batch: Batch, places: np.ndarray, routes: Sequence[np.ndarray]) -> Batch:
    """The batch with the routes [length, layers, k] of its sequences, which are given in the order of `places`."""
    found = dict(zip(places.tolist(), routes, strict=True))
    own = [found[s] for s in range(len(found))]
    cuts = [len(context) - 1 for context in batch.contexts]
    rows = np.concatenate([route[c:] for route, c in zip(own, cuts, strict=True)])
    none = np.full((1, *rows.shape[1:]), -1, dtype=rows.dtype)
    before = tuple(np.concatenate([none, route[:c]]) for route, c in zip(own, cuts, strict=True))
    return replace(batch, extras={**batch.extras, EXPERTS: torch.from_numpy(rows).to(batch.tokens.device)},
                   context_extras={**batch.context_extras, EXPERTS: before})


def without_routes(batch: Batch) -> Batch:
    """The batch for another context: what was recorded is not of it."""
    return replace(batch, extras={name: x for name, x in batch.extras.items() if name != EXPERTS})
