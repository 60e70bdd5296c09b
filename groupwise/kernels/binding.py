"""The functions and structures of the compiled library, as Python sees them; they mirror native/api.cpp field by field."""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Shape(ctypes.Structure):
    """The shape of a model, as `Shape` of model.h."""

    _fields_ = [*[(name, ctypes.c_int32) for name in (
        "vocabulary", "hidden", "layers", "heads", "kv_heads", "head_size", "mlp", "qkv_bias", "head_norms", "tied")],
        ("epsilon", ctypes.c_float)]


class Place(ctypes.Structure):
    """Where a gradient lies, as `Place` of training.h."""

    _fields_ = [("offset", ctypes.c_uint64), ("rows", ctypes.c_int32), ("columns", ctypes.c_int32), ("wide", ctypes.c_int32)]


class Sequences(ctypes.Structure):
    """A batch to score, as `Sequences` of training.h."""

    _fields_ = [("contexts", ctypes.c_int32), ("sequences", ctypes.c_int32), *[(name, ctypes.c_void_p) for name in (
        "context_tokens", "context_starts", "context", "tokens", "begin", "end", "counted")]]


class Values(ctypes.Structure):
    """Results or their slopes, as `Values` of head.h."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("logp", "entropy", "sum_p2", "hidden")]


class Wishes(ctypes.Structure):
    """What is to be sampled, as `Wishes` of sampling.h."""

    _fields_ = [*[(name, ctypes.c_int32) for name in ("contexts", "rows", "max_tokens", "ends", "most")],
                *[(name, ctypes.c_void_p) for name in ("context_tokens", "context_starts", "context", "end_tokens", "streams")],
                ("temperature", ctypes.c_float),
                *[(name, ctypes.c_void_p) for name in ("tokens", "lengths", "logp", "done")]]


def declare(lib: ctypes.CDLL) -> None:
    """Say what every function takes and gives."""
    pointer, integer, number = ctypes.c_void_p, ctypes.c_int, ctypes.c_float
    for name, result, arguments in (
            ("gw_create", pointer, [pointer, pointer, number, integer, integer, integer]), ("gw_destroy", None, [pointer]),
            ("gw_load", integer, [pointer, pointer]), ("gw_score", pointer, [pointer, pointer, number, pointer, integer]),
            ("gw_places", ctypes.c_size_t, [pointer, pointer]),
            ("gw_backward", integer, [pointer, pointer, pointer, pointer]), ("gw_drop", integer, [pointer, pointer]),
            ("gw_collect", integer, [pointer, pointer]), ("gw_rest", integer, [pointer]),
            ("gw_rows_at_a_time", integer, [pointer, integer, integer]), ("gw_sampler", pointer, [pointer, pointer]),
            ("gw_sample", integer, [pointer, pointer, integer]), ("gw_sampler_end", integer, [pointer, pointer])):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments


def pointers_to(tensors: Sequence[Tensor | None]) -> Any:
    """An array of addresses; null for None."""
    return (ctypes.c_void_p * len(tensors))(*[None if t is None else t.data_ptr() for t in tensors])


def values_of(tensors: dict[str, Tensor]) -> Values:
    """The addresses of fp32 tensors by the names of the values; null where there is none."""
    for name, t in tensors.items():
        assert t.dtype == torch.float32, name
        assert t.is_contiguous(), name
    return Values(*[tensors[name].data_ptr() if name in tensors else None for name in ("logp", "entropy", "sum_p2", "hidden")])


def flattened(contexts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """All tokens one after the other, and where each context begins [contexts + 1]."""
    starts = np.zeros(len(contexts) + 1, dtype=np.int32)
    np.cumsum([len(c) for c in contexts], out=starts[1:])
    return np.fromiter((t for c in contexts for t in c), dtype=np.int32, count=int(starts[-1])), starts
