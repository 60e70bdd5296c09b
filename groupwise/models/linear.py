"""Linear layers by oneDNN, on processors where PyTorch's own products leave half of the machine unused.

PyTorch takes float32 products from MKL, which on processors of AMD does without AVX-512. oneDNN, which PyTorch brings along, uses
it: on one Zen 5 core a layer's forward and backward run at 1.3 to 1.7 times the speed (`bench/linear.py`). Both round as float32
does.
"""

import functools
import platform
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

FEW = 8
"""Rows below which the other library is as fast: there the call counts, not the product."""


class Linear(nn.Linear):
    """`nn.Linear` whose float32 products on a processor, and those of its backward, are oneDNN's."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        rows = input.numel() // max(1, input.shape[-1])
        if rows < FEW or input.dtype != torch.float32 or input.is_cuda or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        if torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad):
            out: Tensor = _Product.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
            return out
        return _product(input, self.weight, self.bias)


class _Product(torch.autograd.Function):
    """x W^T + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        need, slope = ctx.needs_input_grad, slopes[0]
        of_x = _product(slope, weight.t()) if need[0] else None
        of_weight = _onednn(_padded(slope).t(), _padded(x).t()) if need[1] else None
        return of_x, of_weight, slope.reshape(-1, slope.shape[-1]).sum(0) if need[2] else None


def _product(x: Float[Tensor, "... i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None = None) -> Tensor:
    rows = x.numel() // x.shape[-1]
    return _onednn(_padded(x), weight, bias)[:rows].reshape(*x.shape[:-1], weight.shape[0])


def _padded(x: Float[Tensor, "... i"]) -> Float[Tensor, "n i"]:
    """The rows, and as many of zeros as bring their number to one of few: at most a quarter more.

    oneDNN makes a program for every shape and keeps it, at a cost in time and memory of about that of a product.
    """
    rows = x.reshape(-1, x.shape[-1])
    grain = max(16, 1 << max(0, len(rows).bit_length() - 3))
    return functional.pad(rows, (0, 0, 0, -len(rows) % grain))


def _onednn(x: Float[Tensor, "n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None = None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


@functools.cache
def pays() -> bool:
    """Whether this processor is one where it helps, and this PyTorch has both libraries."""
    both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return both and "AuthenticAMD" in _processor() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def speed_up(model: nn.Module) -> None:
    """Make the model's plain linear layers this module's `Linear`: weights, names and everything else stay as they are."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear


def _processor() -> str:
    """What the processor says of its maker."""
    told = Path("/proc/cpuinfo")
    return told.read_text(encoding="utf-8")[:2000] if told.is_file() else platform.processor()
