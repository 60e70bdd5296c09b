"""How the forward runs: sequences sorted by length into padded micro-batches of a bounded number of positions.

The batch itself is flat; padding exists only here. Only the positions whose next token is trained on reach the head.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from groupwise.errors import ObjectiveError
from groupwise.learner.routes import laid_out
from groupwise.models import adapter
from groupwise.models.blocks import attention
from groupwise.models.head import Trunk, ValueHead, Want, score
from groupwise.models.routing import Routed, Routing
from groupwise.objective.batch import Batch
from groupwise.objective.terms import Live

EAGER = 512
"""In bfloat16 on a processor, the longest rows whose attention is written out. The fused one's backward is slow there: forward
and backward of a model of 2.4M parameters took 104 ms with it and 65 ms without, at 40 tokens (135 and 120 at 512, 158 and 195
at 1024); in float32 the two are alike."""

@dataclass(frozen=True)
class Scorer:
    """Per-token values of a batch from a model: its trunk and head, the temperature, a value head (for a critic), and a routing
    (for a mixture of experts), by which the routes in the batch are replayed unless its source is "live".

    `plain` leaves the model's adapters off: the values of the model that they were put into.
    """

    trunk: Trunk
    temperature: float
    pad_id: int
    value_head: ValueHead | None = None
    precision: torch.dtype = torch.float32
    routing: Routing | None = None
    plain: bool = False

    def __call__(self, batch: Batch, want: Want) -> Live:
        """[t] of a micro-batch, with gradient where grad is enabled; entries that are not trained on are 0."""
        with adapter.off(self.trunk.model) if self.plain else contextlib.nullcontext():
            return self._values(batch, want)

    def _values(self, batch: Batch, want: Want) -> Live:
        ids, mask, at = _padded(batch, self.pad_id)
        device = batch.tokens.device
        narrow = self.precision == torch.bfloat16
        short = narrow and device.type == "cpu" and ids.shape[1] <= EAGER
        how = attention(self.trunk.model, "eager") if short else contextlib.nullcontext()
        with torch.autocast(device.type, torch.bfloat16, enabled=narrow), how:
            hidden = self._hidden(ids, mask, batch)
        picked = hidden.flatten(0, 1)[at]
        if narrow and not self.trunk.head_float32:
            picked = picked.to(torch.bfloat16)
        with torch.autocast(device.type, torch.bfloat16, enabled=narrow):
            scores = score(self.trunk, picked, batch.tokens[batch.counted], temperature=want.temperature or self.temperature,
                           want=want)
        values = self.value_head(picked.to(self.value_head.linear.weight.dtype)) if self.value_head is not None else None
        return Live(logp=_spread(scores.logp, batch.counted), entropy=_maybe(scores.entropy, batch.counted),
                    sum_p2=_maybe(scores.sum_p2, batch.counted), values=_maybe(values, batch.counted),
                    hidden=_spread(scores.hidden, batch.counted) if scores.hidden is not None else None)

    def _hidden(self, ids: Tensor, mask: Tensor, batch: Batch) -> Tensor:
        """The trunk's hidden states, through the experts that the routing names."""
        if self.routing is None:
            return self.trunk.hidden(ids, attention_mask=mask)[0]
        forced = None if self.routing.source == "live" else laid_out(batch, lengths(batch))
        with self.routing.watch(forced) as seen:
            hidden, _ = self.trunk.hidden(ids, attention_mask=mask)
        if forced is not None and hidden.requires_grad:
            self.routing.hold(hidden, forced)
        seen.kept = mask.flatten().bool()
        self.routing.last = seen
        return hidden

    def routed(self) -> Routed | None:
        """What the routers did in the last forward; asked once."""
        return self.routing.take() if self.routing is not None else None

    def plan(self, batch: Batch, chosen: Sequence[int] | np.ndarray, micro_tokens: int) -> list[np.ndarray]:
        """Micro-batches of the chosen sequences (`plan`)."""
        return plan(batch, chosen, micro_tokens)

    def finish(self) -> None:
        """The last gradient of a minibatch has been taken: with modules it is in the parameters' already."""

    def rest(self) -> None:
        """Nothing is to be computed for a while: modules keep no working memory."""

    def refresh(self) -> None:
        """The parameters have changed: modules see it by themselves."""


def lengths(batch: Batch) -> np.ndarray:
    """[sequences] input positions of each: its context and all its tokens but the last."""
    tokens = np.bincount(batch.layout.ids("token", "sequence"), minlength=batch.layout.size("sequence"))
    return np.array([len(c) for c in batch.contexts]) + tokens - 1


def plan(batch: Batch, chosen: Sequence[int] | np.ndarray, micro_tokens: int) -> list[np.ndarray]:
    """Micro-batches of the chosen sequences: longest first, at most `micro_tokens` padded positions each (or one sequence).

    A function of the lengths alone, so the same batch is always cut in the same way.
    """
    size = lengths(batch)
    order = sorted((int(s) for s in chosen), key=lambda s: (-size[s], s))
    parts: list[list[int]] = []
    for s in order:
        if parts and (len(parts[-1]) + 1) * size[parts[-1][0]] <= micro_tokens:
            parts[-1].append(s)
        else:
            parts.append([s])
    return [np.array(part, dtype=np.int64) for part in parts]


def deal(batch: Batch, chosen: Sequence[int] | np.ndarray, hands: int) -> list[list[int]]:
    """The chosen sequences for so many processes, alike in number and length: a function of the lengths alone.

    One process gets them as they come.
    """
    if hands == 1:
        return [[int(s) for s in chosen]]
    size = lengths(batch)
    order = sorted((int(s) for s in chosen), key=lambda s: (-size[s], s))
    return [order[hand::hands] for hand in range(hands)]


def _padded(batch: Batch, pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Input ids and attention mask [b, l], and the flat positions that predict the trained tokens."""
    starts, size = batch.layout.first_token("sequence"), lengths(batch)
    width, tokens = int(size.max()), batch.tokens.cpu().numpy()
    ids = np.full((len(size), width), pad_id, dtype=np.int64)
    at = np.empty(len(tokens), dtype=np.int64)
    for row, context in enumerate(batch.contexts):
        if not context:
            raise ObjectiveError("a sequence has an empty context: its first token has nothing to be predicted from; give the "
                                 "prompt at least one token (such as BOS)")
        n, c = int(starts[row + 1] - starts[row]), len(context)
        ids[row, :c] = context
        ids[row, c:c + n - 1] = tokens[starts[row]:starts[row + 1] - 1]
        at[starts[row]:starts[row + 1]] = row * width + c - 1 + np.arange(n)
    device = batch.tokens.device
    mask = torch.from_numpy((np.arange(width)[None] < size[:, None]).astype(np.int64))
    return torch.from_numpy(ids).to(device), mask.to(device), torch.from_numpy(at).to(device)[batch.counted]


def _spread(picked: Tensor, counted: Bool[Tensor, " t"]) -> Tensor:
    """Values of the trained tokens at their places, 0 elsewhere."""
    out = picked.new_zeros(len(counted), *picked.shape[1:])
    return out.index_put((counted.nonzero()[:, 0],), picked)


def _maybe(picked: Tensor | None, counted: Bool[Tensor, " t"]) -> Tensor | None:
    return None if picked is None else _spread(picked, counted)
