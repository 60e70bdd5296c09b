"""Sampling with the compiled kernels: the native engine's requests and waves, another way of making the tokens."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from groupwise.core.rollout import Completion, VersionSpan
from groupwise.core.services import Sampling
from groupwise.engines.native import STRIDE, Native
from groupwise.engines.stops import StopStrings
from groupwise.engines.waves import Row
from groupwise.errors import EngineError
from groupwise.kernels.library import Compiled, Sampled
from groupwise.models.load import Policy


class Kernels(Native):
    """As `Native`, by the kernels, which begin rows as others end. A completion does not depend on its company, bit for bit."""

    in_waves = False

    def __init__(self, policy: Policy, compiled: Compiled, *, max_rows: int = 256) -> None:
        self._describe(policy, max_rows)
        self.compiled = compiled

    def at_a_time(self, rows: int) -> int:
        """How many of so many completions have a cache at a time."""
        return self.compiled.rows_at_a_time(rows, self.max_rows)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], *, version: int) -> None:
        """Take over the weights, as `Native` does."""
        super().load(weights, version=version)
        self.compiled.load()

    def _rest(self) -> None:
        self.compiled.rest()

    def _run(self, sampling: Sampling, rows: list[Row]) -> Iterator[tuple[tuple[int, int], Completion]]:
        if sampling.truncates:
            raise EngineError(f"the kernels sample from the whole distribution; got {sampling}: take compute=modules for top_k, "
                              "top_p and min_p")
        place = {context: i for i, context in enumerate(dict.fromkeys(row.context for row in rows))}
        stops = StopStrings(self.policy.tokenizer, sampling.stop)
        looked = np.zeros(len(rows), dtype=np.int64)

        def look(made: Sampled) -> None:
            for i in np.flatnonzero(made.lengths > looked):
                end = stops.end(made.tokens[i], int(looked[i]), int(made.lengths[i]))
                looked[i] = made.lengths[i]
                if end:
                    made.lengths[i], made.done[i] = end, 1

        made = self.compiled.sample(
            list(place), np.array([place[row.context] for row in rows]),
            np.array([row.stream & 0xFFFFFFFFFFFFFFFF for row in rows], dtype=np.uint64), max_tokens=sampling.max_tokens,
            temperature=sampling.temperature, end_tokens=self.policy.eos_ids, most=self.max_rows,
            stride=STRIDE if sampling.stop else 0, look=look if sampling.stop else None)
        self.stats["prefill_tokens"] += float(sum(map(len, place)))
        self.stats["steps"] += float(made.lengths.max() - 1)
        for i, row in enumerate(rows):
            n = int(made.lengths[i])
            yield (row.request, row.sample), Completion(
                tuple(made.tokens[i, :n].tolist()), tuple(made.logp[i, :n].tolist()), "stop" if made.done[i] == 1 else "length",
                (VersionSpan(0, n, self.version),))
