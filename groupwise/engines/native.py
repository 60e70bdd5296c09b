"""Batched sampling from a Hugging Face causal language model in this process, on CPU or one GPU.

A wave (`waves`) is prefilled once per distinct context, sampled to its end, and shrinks as rows finish. Random numbers
are keyed by stream and position, so a completion depends on batching only through the rounding of logits. Where memory runs out,
`max_rows` is halved for good, and the wave is made again in parts.
"""

import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groupwise.core.keyed import uniforms
from groupwise.core.rollout import Completion, VersionSpan
from groupwise.core.services import Request, Sampling
from groupwise.core.verdict import Finish
from groupwise.engines.cache import RowCache, window_of
from groupwise.engines.draw import drawn
from groupwise.engines.routes import Routes
from groupwise.engines.stops import StopStrings
from groupwise.engines.waves import Row, waves_of
from groupwise.errors import EngineError
from groupwise.models.head import Trunk
from groupwise.models.load import Policy, context_limit
from groupwise.models.memory import release, tried

logger = logging.getLogger(__name__)
STRIDE = 4
"""Steps between two looks for finished rows: what is sampled after an end is thrown away, so results do not depend on it."""

SHRINK = 0.125
"""The share of rows that must have finished before the batch is compacted."""


class Native:
    """Samples completions with a KV cache; at most `max_rows` at a time.

    The policy's module is used as it is (it may be the one that is trained). `stats` describes the last call: tokens, seconds,
    prefill_tokens, steps; `clocks` the last taking over of weights, if there is anything to say. A stop string ends a completion
    after the token that completes it. If the policy's routing is "recorded", the extras hold the routes of its mixture of
    experts.
    """

    in_waves = True
    """Whether at most `max_rows` rows begin together and are sampled to their end before others begin."""
    alike = False
    """Whether a wave may hold contexts of one length only."""

    def __init__(self, policy: Policy, *, max_rows: int = 256, trunk: Trunk | None = None) -> None:
        self._describe(policy, max_rows)
        self.trunk = trunk if trunk is not None else Trunk(policy.model, head_float32=policy.head_float32)
        self.config = policy.model.config.get_text_config()
        self.window = window_of(self.config)

    def _describe(self, policy: Policy, max_rows: int) -> None:
        if max_rows < 1:
            raise EngineError(f"max_rows must be at least 1, got {max_rows}")
        self.policy, self.max_rows, self.version = policy, max_rows, 0
        self.context_limit = context_limit(policy.model.config)
        self.stats: dict[str, float] = {}
        self.clocks: dict[str, float] = {}

    @torch.no_grad()
    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """For each request one completion per stream, in order. EngineError if a completion could outgrow the model's context."""
        for request in requests:
            self._check(request)
        began = time.perf_counter()
        self.stats = {"tokens": 0.0, "seconds": 0.0, "prefill_tokens": 0.0, "steps": 0.0}
        found: dict[tuple[int, int], Completion] = {}
        waves = list(waves_of(requests, self.max_rows if self.in_waves else sys.maxsize, self.alike))[::-1]
        while waves:
            sampling, rows = waves.pop()
            if self.in_waves and len(rows) > self.max_rows:  # which has become less
                waves += [(sampling, rows[self.max_rows:]), (sampling, rows[:self.max_rows])]
                continue
            made, said = tried(partial(self._made, sampling, rows))
            if made is None:
                self._halve(min(len(rows), self.max_rows), said)
                waves.append((sampling, rows))
            else:
                found.update(made)
        self.stats["tokens"] = float(sum(len(c.tokens) for c in found.values()))
        self.stats["seconds"] = time.perf_counter() - began
        return [[found[i, s] for s in range(len(request.streams))] for i, request in enumerate(requests)]

    def at_a_time(self, rows: int) -> int:
        """How many of so many completions have a cache at a time."""
        return min(rows, self.max_rows)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], *, version: int) -> None:
        """Copy the weights into the policy's own (tensors that are its own already are left), all or none.

        EngineError names missing and unexpected parameters and wrong shapes. One name of tied weights is enough, and frozen
        ones need not be given.
        """
        own = self.policy.model.state_dict()
        missing = sorted({name for name, p in self.policy.model.named_parameters() if p.requires_grad} - set(weights))
        unexpected = sorted(set(weights) - set(own))
        wrong = [f"{name} {tuple(tensor.shape)} for {tuple(own[name].shape)}" for name, tensor in weights.items()
                 if name in own and own[name].shape != tensor.shape]
        if missing or unexpected or wrong:
            raise EngineError(f"the weights do not fit the engine's model: missing {missing[:3]}, unexpected {unexpected[:3]}, "
                              f"wrong shapes {wrong[:3]} ({len(missing)}, {len(unexpected)}, {len(wrong)} in all)")
        for name, tensor in weights.items():
            if own[name].data_ptr() != tensor.data_ptr():
                own[name].copy_(tensor)
        self.version = version

    def close(self) -> None:
        """Nothing runs elsewhere."""

    def hidden(self, ids: Tensor, mask: Any, positions: Tensor, cache: RowCache) -> tuple[Tensor, Tensor | None]:
        """Hidden states [b, l, h], and the routes [b, l, layers, k] if they are recorded."""
        routing = self.policy.routing
        if routing is None or routing.source != "recorded":
            return self.trunk.hidden(ids, mask, positions, cache, use_cache=True)[0], None
        with routing.watch() as seen:
            hidden, _ = self.trunk.hidden(ids, mask, positions, cache, use_cache=True)
        return hidden, seen.experts().view(*ids.shape, routing.layers, routing.k)

    def _check(self, request: Request) -> None:
        length, wanted = len(request.context.tokens), request.sampling.max_tokens
        if length == 0:
            raise EngineError("a completion needs a context of at least one token, got an empty one; add a BOS token")
        if self.context_limit is not None and length + wanted > self.context_limit:
            raise EngineError(f"a context of {length} tokens with max_tokens {wanted} exceeds the model's {self.context_limit} "
                              "positions; lower sampling.max_tokens or drop the prompt")

    def _made(self, sampling: Sampling, rows: list[Row]) -> dict[tuple[int, int], Completion]:
        return dict(self._run(sampling, rows))

    def _halve(self, rows: int, said: str) -> None:
        """Sample fewer rows at a time from now on. EngineError: one is too much."""
        release()
        self._rest()
        if rows == 1:
            raise EngineError(f"out of memory in sampling one completion ({said}): its cache and logits do not fit beside the "
                              "weights; lower sampling.max_tokens, or take a smaller model")
        before, self.max_rows = self.max_rows, -(-rows // 2)
        logger.warning("out of memory in sampling %d completions at a time (%s): they are sampled again with max_rows=%d "
                       "(before: %d), which changes them by rounding at most; to begin with it: --max-rows %d", rows, said,
                       self.max_rows, before, self.max_rows)

    def _rest(self) -> None:
        """Give working memory back; modules keep none."""

    def _wave(self, sampling: Sampling, rows: list[Row]) -> "Wave":
        return Wave(self, sampling, rows)

    def _run(self, sampling: Sampling, rows: list[Row]) -> Iterator[tuple[tuple[int, int], Completion]]:
        """The completions of one wave."""
        wave = self._wave(sampling, rows)
        while wave.alive:
            wave.sample()
            if wave.position % STRIDE == 0 or wave.position == sampling.max_tokens:
                wave.retire()
            if wave.alive:
                wave.forward()
        for i, row in enumerate(rows):
            length = wave.lengths[i]
            extras = wave.routes.extras(i, row.context, length) if wave.routes is not None else ()
            yield (row.request, row.sample), Completion(
                tuple(wave.tokens[i, :length].tolist()), tuple(wave.logp[i, :length].tolist()), wave.finishes[i],
                (VersionSpan(0, length, self.version),), *extras)


class Wave:
    """Rows that are sampled together: `alive` holds the indices of those that are still in the batch."""

    shrink = SHRINK
    routes: Routes | None = None

    def __init__(self, engine: Native, sampling: Sampling, rows: list[Row]) -> None:
        self.engine, self.sampling = engine, sampling
        self.device = engine.policy.model.get_input_embeddings().weight.device
        self.tokens = np.zeros((len(rows), sampling.max_tokens), dtype=np.int64)
        self.logp = np.zeros((len(rows), sampling.max_tokens), dtype=np.float64)
        self.lengths = [0] * len(rows)
        self.finishes: list[Finish] = ["length"] * len(rows)
        self.alive = list(range(len(rows)))
        self.streams = np.array([row.stream & 0xFFFFFFFFFFFFFFFF for row in rows], dtype=np.uint64)
        self.stops = StopStrings(engine.policy.tokenizer, sampling.stop)
        self.is_eos = torch.zeros(engine.trunk.vocabulary, dtype=torch.bool)
        self.is_eos[[i for i in engine.policy.eos_ids if i < engine.trunk.vocabulary]] = True
        self.position = 0  # tokens sampled per row so far
        self.block: list[tuple[Tensor, Tensor]] = []  # sampled since the last look
        self.prefill(rows)

    def prefill(self, rows: list[Row]) -> None:
        """Run each distinct context once, then give every row its copy of the cache and of the next token's logits."""
        contexts = list(dict.fromkeys(row.context for row in rows))
        lengths = torch.tensor([len(context) for context in contexts])
        width = int(lengths.max())
        ids = torch.full((len(contexts), width), self.engine.policy.pad_id)
        for i, context in enumerate(contexts):
            ids[i, width - len(context):] = torch.tensor(context)
        pads = width - lengths
        positions = (torch.arange(width) - pads[:, None]).clamp_min(0)
        mask = torch.arange(width) >= pads[:, None] if bool(pads.any()) else None
        self.cache = RowCache(self.engine.config, width)
        hidden, routes = self.engine.hidden(
            ids.to(self.device), mask.to(self.device) if mask is not None else None, positions.to(self.device), self.cache)
        place = {context: i for i, context in enumerate(contexts)}
        index = torch.tensor([place[row.context] for row in rows])
        on_device = index.to(self.device)
        self.logits = self.engine.trunk.logits(hidden[:, -1]).index_select(0, on_device)
        self.cache.select(on_device, 0, width + self.sampling.max_tokens)
        self.routes = Routes(contexts, routes, on_device, self.sampling.max_tokens) if routes is not None else None
        self.width = width  # positions in the cache
        self.pads = pads[index]
        self.next = lengths[index].to(self.device)[:, None]  # the position id of the token to come
        self.show()
        self.engine.stats["prefill_tokens"] += float(lengths.sum())

    def show(self) -> None:
        """Rebuild the mask [rows, capacity] of what the rows may look at; None where nothing is padding."""
        capacity = self.width + self.sampling.max_tokens - self.position
        windowed = self.engine.window is not None and capacity > self.engine.window
        padded = bool(self.pads.any())
        self.mask = (torch.arange(capacity) >= self.pads[:, None]).to(self.device) if padded or windowed else None
        self.ready = not windowed  # a windowed model makes its own masks, from the plain one

    def forward(self) -> None:
        """Feed the last sampled tokens; logits of the next."""
        mask = self.mask[:, :self.width + 1] if self.mask is not None else None
        hidden, routes = self.engine.hidden(
            self.block_last[:, None], mask[:, None, None, :] if mask is not None and self.ready else mask, self.next, self.cache)
        if self.routes is not None and routes is not None:
            self.routes.now = routes[:, 0]
        self.logits = self.engine.trunk.logits(hidden[:, -1])
        self.next = self.next + 1
        self.width += 1
        self.engine.stats["steps"] += 1.0

    def sample(self) -> None:
        """Draw the next token of every row in the batch."""
        self.take(*drawn(self.logits, self.sampling, torch.from_numpy(uniforms(self.streams, self.position)).to(self.device)))

    def take(self, token: Tensor, logp: Tensor) -> None:
        """The next token of every row, with its log-prob."""
        self.block.append((token, logp))
        if self.routes is not None:
            self.routes.sampled()
        self.block_last = token
        self.position += 1

    def retire(self) -> None:
        """Store what was sampled since the last look, find rows that have ended, and drop them when there are enough."""
        start, alive = self.position - len(self.block), np.array(self.alive)
        tokens = torch.stack([token for token, _ in self.block], 1).cpu()
        self.tokens[alive, start:self.position] = tokens.numpy()
        self.logp[alive, start:self.position] = torch.stack([logp for _, logp in self.block], 1).cpu().double().numpy()
        if self.routes is not None:
            self.routes.store(alive, start)
        self.block = []
        ended = self.is_eos[tokens]
        first = torch.where(ended.any(1), ended.int().argmax(1) + 1 + start, 0).tolist()
        open_rows = [(i, row) for i, row in enumerate(self.alive) if self.lengths[row] == 0]
        for i, row in open_rows:
            end = self.stops.end(self.tokens[row], start, first[i] or self.position) or first[i]
            if end:
                self.lengths[row], self.finishes[row] = end, "stop"
            elif self.position == self.sampling.max_tokens:
                self.lengths[row] = self.position
        keep = [i for i, row in open_rows if self.lengths[row] == 0]
        if len(keep) <= (1.0 - self.shrink) * len(self.alive):
            self.keep(keep)

    def keep(self, kept: list[int]) -> None:
        """Shrink the batch to these rows, and cut padding that none of them needs."""
        self.alive = [self.alive[i] for i in kept]
        if not kept:
            return
        index = torch.tensor(kept)
        on_device = index.to(self.device)
        trim = int(self.pads[index].min())
        self.pads = self.pads[index] - trim
        self.cache.select(on_device, trim, self.width - trim + self.sampling.max_tokens - self.position)
        self.width -= trim
        self.streams = self.streams[kept]
        self.next, self.block_last = self.next[on_device], self.block_last[on_device]
        self.show()
