"""The repeated blocks of a model: which they are, their linear layers, attention, and running them again in the backward."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from groupwise.errors import ConfigError


def blocks(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The repeated blocks by name, as transformers marks them. ConfigError: there are none."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)}
    if not found:
        raise ConfigError(f"{type(model).__name__} does not mark its repeated blocks: train it whole (lora_rank=0, "
                          "checkpointing=false)")
    return found


def linears(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """The linear layers inside the blocks by their full names: neither embeddings nor head."""
    return {f"{block}.{name}": module for block, whole in blocks(model).items()
            for name, module in whole.named_modules() if isinstance(module, nn.Linear)}


def fused(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The matrices of the blocks that no linear layer holds, by name: experts that are kept as one tensor, their router."""
    inside = {id(p) for layer in linears(model).values() for p in layer.parameters()}
    return {f"{block}.{name}": p for block, whole in blocks(model).items() for name, p in whole.named_parameters()
            if p.dim() > 1 and id(p) not in inside}


@contextlib.contextmanager
def attention(model: PreTrainedModel, kind: str) -> Iterator[None]:
    """The model with another implementation of attention ("sdpa", "eager"), for forwards in this context; costs 0.03 ms."""
    before = model.config._attn_implementation
    model.set_attn_implementation(kind)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def recompute(model: PreTrainedModel) -> None:
    """Have every block forget what it computed and run again in the backward (gradient checkpointing; Chen et al. 2016, arXiv
    1604.06174): memory of one block instead of all, for a third more work. Gradients stay the same.

    transformers' own switch works in training mode only, where dropout would be on; this one looks at the gradient alone, so
    sampling and scoring run as ever.
    """
    for block in blocks(model).values():
        block.forward = _twice(model, block.forward)


def _twice(model: PreTrainedModel, forward: Callable[..., Any]) -> Callable[..., Any]:
    def again(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        kind = model.config._attn_implementation  # the backward comes when the forward's choice has been taken back
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False,
                          context_fn=lambda: (contextlib.nullcontext(), attention(model, kind)), **kwargs)

    return again
