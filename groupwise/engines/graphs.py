"""Sampling on a GPU with the whole decoding step as one CUDA graph: the native engine without its launches.

The step works on buffers of fixed size, so that a graph can repeat it; without a GPU the same step runs as it is written.
"""

from collections.abc import Callable

import numpy as np
import torch

from groupwise.core.keyed import uniforms
from groupwise.core.services import Sampling
from groupwise.engines.draw import drawn
from groupwise.engines.native import Native, Wave
from groupwise.engines.waves import Row
from groupwise.models.routing import experts

WARM = 3
"""Runs before a capture, as CUDA graphs ask for."""


class Graphs(Native):
    """As `Native`; models with attention windows are sampled in the native way, and on a GPU mixtures of experts: the products of
    their experts in single precision look at the load on the processor, which a graph cannot repeat.
    """

    def _wave(self, sampling: Sampling, rows: list[Row]) -> Wave:
        by_hand = self.window is not None or (experts(self.config) > 1 and self.policy.model.device.type == "cuda")
        return Wave(self, sampling, rows) if by_hand else FixedWave(self, sampling, rows)


class FixedWave(Wave):
    """A wave whose step from one token to the next always does the same: it begins anew only when the batch has halved."""

    shrink = 0.5
    replay: Callable[[], None] | None = None

    def forward(self) -> None:
        """Feed the last token and draw the next one."""
        if self.replay is None:
            self.fix()
        assert self.replay is not None
        self.replay()
        self.width += 1
        self.engine.stats["steps"] += 1.0

    def sample(self) -> None:
        """Take what the step drew; the first token comes from the prefill."""
        if self.position == 0:
            super().sample()
            return
        if self.routes is not None:
            self.routes.now = self.routed.clone()
        self.take(self.token.clone(), self.logp_of.clone())

    def keep(self, kept: list[int]) -> None:
        """Shrink the batch: the next step is another one."""
        for layer in self.cache.layers:
            layer.length = self.width
        super().keep(kept)
        self.replay = None

    def fix(self) -> None:
        """Lay out the buffers of the step, and capture it where there is a GPU."""
        left = self.sampling.max_tokens - self.position
        self.place = torch.tensor([self.width], device=self.device)
        self.count = torch.zeros(1, dtype=torch.long, device=self.device)
        places = torch.arange(self.cache.fix(self.width, self.place))
        seen = (places >= self.pads[:, None]) & (places <= self.width)
        self.seen = seen[:, None, None, :].to(self.device)
        draws = np.stack([uniforms(self.streams, self.position + i) for i in range(left)])
        self.draws = torch.from_numpy(draws).to(self.device)
        self.token, self.next = self.block_last.clone(), self.next.clone()
        self.logp_of = torch.zeros(len(self.token), dtype=torch.float32, device=self.device)
        if self.routes is not None:
            self.routed = torch.empty_like(self.routes.now[:len(self.token)])
        self.replay = self.step if self.device.type != "cuda" else self.capture()

    def step(self) -> None:
        """One token for every row, in place."""
        hidden, routes = self.engine.hidden(self.token[:, None], self.seen, self.next, self.cache)
        if routes is not None:
            self.routed.copy_(routes[:, 0])
        token, logp = drawn(self.engine.trunk.logits(hidden[:, -1]), self.sampling, self.draws.index_select(0, self.count)[0])
        self.token.copy_(token)
        self.logp_of.copy_(logp)
        self.next += 1
        self.place += 1
        self.count += 1
        self.seen.index_fill_(3, self.place.clamp(max=self.seen.shape[3] - 1), True)

    def capture(self) -> Callable[[], None]:
        """The step as a CUDA graph; what the runs before it have moved is put back."""
        moved = (self.token, self.logp_of, self.next, self.place, self.count, self.seen)
        before = [tensor.clone() for tensor in moved]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM):
                self.step()
                for tensor, old in zip(moved, before, strict=True):
                    tensor.copy_(old)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        for tensor, old in zip(moved, before, strict=True):
            tensor.copy_(old)
        return graph.replay
