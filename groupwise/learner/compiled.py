"""Scoring with the compiled kernels: the same values and gradients as `Scorer`, from whole sequences without padding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groupwise.errors import ObjectiveError
from groupwise.kernels.library import Batch as Flat
from groupwise.kernels.library import Compiled
from groupwise.learner.forward import lengths
from groupwise.models.head import ValueHead, Want
from groupwise.objective.batch import Batch
from groupwise.objective.terms import Live

NAMES = ("logp", "entropy", "sum_p2", "hidden")


class KernelScorer:
    """Per-token values of a batch, with gradient where grad is enabled. A context that sequences share is run once for them.

    Gradients are summed inside the kernels until `finish` adds them to the parameters'.
    """

    def __init__(self, compiled: Compiled, temperature: float, value_head: ValueHead | None = None) -> None:
        self.compiled, self.temperature, self.value_head = compiled, temperature, value_head
        self.anchor = torch.zeros((), requires_grad=True)  # what makes the values differentiable: the parameters are not seen

    def __call__(self, batch: Batch, want: Want) -> Live:
        """[t] of a micro-batch; entries that are not trained on are 0."""
        asked = {"entropy": want.entropy, "sum_p2": want.sum_p2, "hidden": want.hidden or self.value_head is not None}
        names = ["logp", *(name for name, wanted in asked.items() if wanted)]
        scored = _Score.apply(self.anchor, self, _flat(batch), asked,
                              want.temperature or self.temperature, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
        out: dict[str, Tensor] = dict(zip(names, scored, strict=True))
        hidden, values = out.pop("hidden", None), None
        if self.value_head is not None and hidden is not None:
            values = torch.where(batch.counted, self.value_head(hidden), 0.0)
        return Live(**out, values=values, hidden=hidden if want.hidden else None)

    def plan(self, batch: Batch, chosen: Sequence[int] | np.ndarray, micro_tokens: int) -> list[np.ndarray]:
        """Micro-batches of the chosen sequences, in their order: as many as have `micro_tokens` positions (or one sequence)."""
        size, filled = lengths(batch), micro_tokens
        parts: list[list[int]] = []
        for s in chosen:
            own = int(size[s])
            if parts and batch.contexts[s] == batch.contexts[parts[-1][-1]]:
                own -= len(batch.contexts[s])
            if filled + own > micro_tokens:
                parts.append([])
                filled, own = 0, int(size[s])
            parts[-1].append(int(s))
            filled += own
        return [np.array(part, dtype=np.int64) for part in parts]

    def routed(self) -> None:
        """The kernels run no mixture of experts."""

    def finish(self) -> None:
        """Add the gradients summed so far to the parameters'."""
        self.compiled.collect()

    def rest(self) -> None:
        """Nothing is to be computed for a while."""
        self.compiled.rest()

    def refresh(self) -> None:
        """The parameters have changed."""
        self.compiled.load()


class _Score(torch.autograd.Function):
    """The kernels' forward and backward as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, scorer: KernelScorer, batch: Flat, asked: dict[str, bool],
                temperature: float, keep: bool) -> tuple[Tensor, ...]:
        out, ticket = scorer.compiled.score(batch, temperature=temperature, keep=keep, **asked)
        ctx.set_materialize_grads(False)
        ctx.names, ctx.ticket = list(out), _Ticket(scorer.compiled, ticket) if ticket is not None else None
        return tuple(out.values())

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[None, ...]:
        if ctx.ticket is None or ctx.ticket.number is None:
            raise ObjectiveError("the gradient of this forward was taken already, or never kept")
        given = {name: slope.contiguous() for name, slope in zip(ctx.names, slopes, strict=True) if slope is not None}
        if given:
            like = next(iter(given.values()))
            given.setdefault("logp", like.new_zeros(len(like)))
            ctx.ticket.compiled.backward(ctx.ticket.number, given)
        ctx.ticket.drop()
        return None, None, None, None, None, None


class _Ticket:
    """What the kernels keep for a backward; given back even if the backward never comes."""

    def __init__(self, compiled: Compiled, number: int) -> None:
        self.compiled = compiled
        self.number: int | None = number

    def drop(self) -> None:
        if self.number is not None:
            self.compiled.drop(self.number)
            self.number = None

    def __del__(self) -> None:
        self.drop()


def _flat(batch: Batch) -> Flat:
    """The batch as the kernels take it: sequences of one context next to each other."""
    starts = batch.layout.first_token("sequence")
    by_context: dict[tuple[int, ...], list[int]] = {}
    for s, context in enumerate(batch.contexts):
        by_context.setdefault(context, []).append(s)
    order = np.array([s for members in by_context.values() for s in members], dtype=np.int64)
    which = np.repeat(np.arange(len(by_context)), [len(members) for members in by_context.values()])
    return Flat(list(by_context), which, batch.tokens.numpy(), starts[order], starts[order + 1], batch.counted.numpy())
