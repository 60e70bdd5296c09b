"""The norm of a gradient, and clipping by it, where some gradients are whole and some lie in shards on several processes."""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor


def norm(gradients: Sequence[Tensor]) -> Float[Tensor, ""]:
    """The norm over all gradients, each counted once: of one in shards every process gives its own part, a whole one is the same
    in all of them. All processes that hold shards must ask.
    """
    whole, local, team = _parted(gradients)
    if team is None:
        return torch.nn.utils.get_total_norm(whole)
    own = torch.nn.utils.get_total_norm(local).double().square()
    dist.all_reduce(own, group=team)
    if whole:
        own += torch.nn.utils.get_total_norm(whole).double().square()
    return own.sqrt()


@torch.no_grad()
def clip(parameters: Iterable[Tensor], most: float, size: Tensor) -> None:
    """Scale the gradients of parameters to the norm `most` if `size`, which is theirs, is above it."""
    listed = list(parameters)
    whole, local, team = _parted([p.grad for p in listed if p.grad is not None])
    if team is None:
        torch.nn.utils.clip_grads_with_norm_(listed, most, size)
        return
    factor = torch.clamp(most / (size + 1e-6), max=1.0)  # as torch has it
    for gradient in (*whole, *local):
        gradient.mul_(factor.to(gradient.dtype))


def _parted(gradients: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor], dist.ProcessGroup | None]:
    """The whole gradients, the local parts of those in shards, and the processes that hold the others (None: none are)."""
    whole, local, team = [], [], None
    for gradient in gradients:
        if isinstance(gradient, DTensor):
            local.append(gradient.to_local())
            team = gradient.device_mesh.get_group()
        else:
            whole.append(gradient)
    return whole, local, team
