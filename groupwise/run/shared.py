"""What two processes of one run have between them: memory without a name, and messages through a socket.

The memory is a file that was never given a name, so nothing of it is left when its processes have ended, however they did.
Messages are pickled: both ends are this program, started by one user, and nobody else can reach the socket.
"""

import io
import mmap
import os
import pickle
import socket
import sys
import tempfile
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from groupwise.core.stream import exactly
from groupwise.learner.learner import Learner

ALIGN = 64
"""Bytes that tensors in shared memory are aligned to, as torch's own are."""


def unnamed_file() -> int:
    """The descriptor of an empty file without a name: in memory on Linux, else a temporary file that is removed already."""
    if sys.platform == "linux":
        return os.memfd_create("groupwise")
    else:  # noqa: RET505 (a type checker would call what follows unreachable)
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())


def bytes_of(learner: Learner, others: int) -> int:
    """Shared memory that a learner needs, with the gradients of so many other processes."""
    return sum(map(_room, _models(learner))) + others * sum(map(_room, learner.parameters.values()))


def place(learner: Learner, file: int, others: int, *, fill: bool) -> list[dict[str, Tensor]]:
    """Move the parameters and frozen models of a learner into the file; gradient buffers by name, one set for each other process.

    `fill` writes the present values there; without it those of the process that did are taken.
    """
    memory, at = mmap.mmap(file, bytes_of(learner, others)), 0

    def like(tensor: Tensor) -> Tensor:
        nonlocal at
        view = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=at).view(tensor.shape)
        at += _room(tensor)
        return view

    for tensor in _models(learner):
        view = like(tensor)
        if fill:
            view.copy_(tensor.detach())
        tensor.data = view
    return [{name: like(p) for name, p in learner.parameters.items()} for _ in range(others)]


def _models(learner: Learner) -> list[Tensor]:
    """The tensors of all models once, trained or not; without adapters the trained one is its own reference."""
    models = {id(policy.model): policy.model for policy in (learner.policy, *learner.models.frozen.values())}
    own = learner.value_head.parameters() if learner.value_head is not None else ()
    return [*(p for model in models.values() for p in model.parameters()), *own]


def _room(tensor: Tensor) -> int:
    return -(-tensor.numel() * tensor.element_size() // ALIGN) * ALIGN


def _read_only(table: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(table)


class _Pickler(pickle.Pickler):
    """Tensors go as numpy arrays: by value, and many times faster than torch would write them. Read-only mappings as such."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, MappingProxyType):
            return _read_only, (dict(obj),)
        if type(obj) is Tensor and obj.dtype != torch.bfloat16:
            return _tensor, (obj.detach().cpu().numpy(),)
        return NotImplemented


def _tensor(array: Any, device: str = "cpu") -> Tensor:
    return torch.from_numpy(array).to(device)


class _Unpickler(pickle.Unpickler):
    """Tensors come to the device where they are wanted."""

    device = "cpu"

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        return partial(_tensor, device=self.device) if found is _tensor else found


def packed(message: Any) -> memoryview:
    """A message as bytes."""
    out = io.BytesIO()
    _Pickler(out, protocol=5).dump(message)
    return out.getbuffer()


def unpacked(data: bytes | bytearray | memoryview, device: str = "cpu") -> Any:
    """The message, its tensors on a device."""
    reader = _Unpickler(io.BytesIO(data))
    reader.device = device
    return reader.load()


def send(end: socket.socket, message: Any) -> None:
    """Write one message. TimeoutError (of the socket's own time limit), OSError: the other end is gone."""
    data = packed(message)
    end.sendall(len(data).to_bytes(8, "little"))
    end.sendall(data)


def receive(end: socket.socket) -> Any:
    """Read one message. TimeoutError as above; EOFError, OSError: the other end is gone."""
    return unpacked(exactly(end, int.from_bytes(exactly(end, 8), "little")))
