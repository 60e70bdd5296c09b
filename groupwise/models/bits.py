"""Fewer bits: frozen weights in four or eight of them, and an optimiser whose moments have eight. The only place of bitsandbytes.

nf4     blocks of 64 weights as one of 16 quantiles of the normal distribution each, their scales in 8 bits (QLoRA, Dettmers et
        al. 2023, arXiv 2305.14314, section 3): 0.52 bytes a weight
int8    rows of weights as integers of [-127, 127] (the weights of LLM.int8(), Dettmers et al. 2022, arXiv 2208.07339, section
        2.1): 1 byte a weight. Activations stay as they are: there they would depend on what a row is batched with

A layer makes its weight anew whenever it runs, so a log-prob depends neither on the batch nor on who asks for it.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from groupwise.errors import ConfigError
from groupwise.models.blocks import linears

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # it asks for products that are not used here

BLOCK = 64
"""Weights that share a scale in nf4."""


def library() -> Any:
    """The package bitsandbytes. ConfigError says how to install it."""
    try:
        import bitsandbytes
    except ImportError as error:
        raise ConfigError("quantise=nf4 and optimizer=adamw8bit need bitsandbytes: pip install 'groupwise[bitsandbytes]'"
                          f" ({error})") from error
    return bitsandbytes


class Quantised(nn.Linear):
    """A linear layer whose frozen weight is kept as `codes`; `weight` makes it anew, in the format that it had."""

    codes: Tensor
    unpack: Callable[[], Tensor]

    @property
    def weight(self) -> Float[Tensor, "o i"]:  # type: ignore[override]
        """The weight that the codes stand for."""
        return self.unpack()

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out]; the gradient reaches the input and the bias."""
        kind = input.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else input.dtype
        out: Tensor = _Product.apply(input.to(dtype), self)  # type: ignore[no-untyped-call]
        return out if self.bias is None else out + self.bias.to(dtype)


class _Product(torch.autograd.Function):
    """x W^T; the backward unpacks W again, so no whole weight is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Quantised) -> Tensor:
        ctx.layer = layer
        return functional.linear(x, layer.weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        (slope,) = slopes
        return slope @ ctx.layer.weight.to(slope.dtype), None


def quantise(model: PreTrainedModel, kind: str, device: str = "cpu") -> None:
    """Quantise the linear layers of the blocks, one after the other, and bring the model to `device`: there is never more than
    one whole layer. Embeddings, norms and head stay as they are.
    """
    for layer in linears(model).values():
        weight = layer.weight.detach().to(device)
        layer.__class__ = Quantised
        del layer._parameters["weight"]
        codes, unpack = (_nf4 if kind == "nf4" else _int8)(weight)
        layer.register_buffer("codes", codes, persistent=False)
        layer.unpack = unpack  # type: ignore[assignment]
    model.to(device)


def _nf4(weight: Float[Tensor, "o i"]) -> tuple[Tensor, Callable[[], Tensor]]:
    made = library().functional
    codes, state = made.quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4", compress_statistics=True)
    return codes, lambda: made.dequantize_4bit(codes, state)


def _int8(weight: Float[Tensor, "o i"]) -> tuple[Tensor, Callable[[], Tensor]]:
    scale = weight.float().abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127.0
    codes = (weight.float() / scale).round().to(torch.int8)
    return codes, lambda: (codes.float() * scale).to(weight.dtype)


def adamw8bit(groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float],
              weight_decay: float) -> torch.optim.Optimizer:
    """AdamW with its moments in blocks of 256 8-bit numbers (Dettmers et al. 2021, arXiv 2110.02861), for tensors of 4096 numbers
    or more: 2 bytes a parameter instead of 8.
    """
    made: torch.optim.Optimizer = library().optim.AdamW8bit(groups, lr=lr, betas=betas, weight_decay=weight_decay)
    return made
