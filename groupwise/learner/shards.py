"""The optimiser's state of a learner in shards, on disk: every rank writes its own part, any number of ranks reads them.

It is torch.distributed.checkpoint's format in safetensors, without pickle: the files of all ranks together hold every tensor,
each with its place in the whole. A learner that is not in shards reads them as well, and one that is reads a whole file.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor

from groupwise.errors import CheckpointError
from groupwise.learner.learner import Learner

FILE, FOLDER = "optimizer.safetensors", "optimizer"
"""Where a whole state lies in a checkpoint, and where one in shards does."""


def state_of(learner: Learner) -> dict[str, Tensor]:
    """What a checkpoint holds beside the weights, by KEY/PARAMETER: the moments and, of a value head, the parameters."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in learner.parameters.items():
        if name.startswith("value_head."):
            tensors[f"parameter/{name}"] = parameter.detach()
        for key, value in learner.optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = torch.as_tensor(value)
    return tensors


def write(learner: Learner, folder: Path) -> None:
    """Write this rank's part of the state into a new folder; all ranks must. CheckpointError: it cannot be written."""
    # In an order of their own, so that files repeat; a slice of a file needs a dimension.
    tensors = {name: x.reshape(1) if x.dim() == 0 else x for name, x in sorted(state_of(learner).items())}
    try:
        save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:  # which is no Exception
        raise CheckpointError(f"a checkpoint could not be written into {folder}: {_reasons(error)}") from None


@torch.no_grad()
def read(learner: Learner, place: Path, counters: dict[str, Any]) -> None:
    """Take back the state in a checkpoint's folder, whoever wrote it, and the counters. CheckpointError: they do not fit."""
    if (place / FILE).is_file():
        _take(learner, load_file(place / FILE), place / FILE)
    elif (place / FOLDER).is_dir():
        reader = HuggingFaceStorageReader(str(place / FOLDER))
        known = reader.read_metadata().state_dict_metadata
        tensors = {full: _room(learner, full, known[full], place / FOLDER) for full in known}
        alone = not any(isinstance(p, DTensor) for p in learner.parameters.values())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that one process reads alone, which is meant
                load(tensors, storage_reader=reader, no_dist=alone)
        except CheckpointException as error:
            raise CheckpointError(f"the checkpoint in {place / FOLDER} cannot be read: {_reasons(error)}") from None
        _take(learner, tensors, place / FOLDER)
    else:
        raise CheckpointError(f"{place} holds no state of an optimiser (neither {FILE} nor {FOLDER}/): copy it back")
    learner.steps, learner.bad_steps = int(counters["steps"]), int(counters["bad_steps"])
    learner.bad_in_a_row = int(counters["bad_in_a_row"])
    learner.budget.lower(counters.get("lowered", {}))


def like(parameter: Tensor, whole: Tensor) -> Tensor:
    """A whole tensor, which every rank has, on the device of a parameter, in shards if that is."""
    whole = whole.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return whole
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _parameter(learner: Learner, full: str, where: Path) -> Tensor:
    name = full.partition("/")[2]
    if name not in learner.parameters:
        raise CheckpointError(f"{where} holds {full!r}, but the policy has no such parameter: the checkpoint is of another model "
                              "or method")
    return learner.parameters[name]


def _room(learner: Learner, full: str, known: Any, where: Path) -> Tensor:
    """A tensor to read another into, in shards as its parameter."""
    parameter = _parameter(learner, full, where)
    if full.startswith("step/"):
        return torch.zeros(known.size, dtype=known.properties.dtype)
    if known.size != parameter.shape:
        raise CheckpointError(f"{where} holds {full!r} of the shape {tuple(known.size)}, and the parameter has "
                              f"{tuple(parameter.shape)}: the checkpoint is of another model, or files of it are missing")
    return torch.zeros_like(parameter, dtype=known.properties.dtype)


def _take(learner: Learner, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Put what was read where it belongs."""
    for full, tensor in tensors.items():
        key, parameter = full.partition("/")[0], _parameter(learner, full, where)
        if key == "parameter":
            parameter.copy_(like(parameter, tensor))
        elif tensor.dtype == torch.int64:  # an optimiser that counts its steps by a plain number
            learner.optimizer.state[parameter][key] = int(tensor)
        elif key == "step":
            learner.optimizer.state[parameter][key] = tensor.reshape(()).to(parameter.device)
        else:
            learner.optimizer.state[parameter][key] = tensor if isinstance(tensor, DTensor) else like(parameter, tensor)


def _reasons(error: CheckpointException) -> str:
    """What went wrong on which rank, in a line each."""
    return "; ".join(f"rank {rank}: {type(found[0]).__name__}: {found[0]}" for rank, found in error.failures.items())
