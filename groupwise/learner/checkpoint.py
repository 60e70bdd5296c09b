"""A learner's state on disk: weights that `from_pretrained` loads (of a policy with adapters: those, as peft has them), optimiser
moments as safetensors, JSON counters. No pickle.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from groupwise.errors import CheckpointError
from groupwise.learner.learner import Learner
from groupwise.models import adapter
from groupwise.models.load import save as save_policy

OPTIMISER = "optimizer.safetensors"
MODEL, ADAPTER = "model", "adapter"


def weights(folder: Path) -> Path:
    """Where the weights of a checkpoint lie: whole ones, or adapters."""
    return folder / (ADAPTER if (folder / ADAPTER).is_dir() else MODEL)


def save(learner: Learner, folder: Path) -> dict[str, Any]:
    """Write the weights and the optimiser's tensors; returns the counters, as JSON values."""
    if adapter.layers(learner.policy.model):
        adapter.save(learner.policy.model, folder / ADAPTER)
    else:
        save_policy(learner.policy, folder / MODEL)
    tensors: dict[str, Tensor] = {}
    for name, parameter in learner.parameters.items():
        if name.startswith("value_head."):
            tensors[f"parameter/{name}"] = parameter.detach()
        for key, value in learner.optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = torch.as_tensor(value)
    seen: set[int] = set()  # the 8-bit optimiser's tables are one tensor for all parameters, which a file cannot hold
    for name, tensor in tensors.items():
        tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor.contiguous()
        seen.add(tensor.data_ptr())
    save_file(tensors, folder / OPTIMISER)
    return {"steps": learner.steps, "bad_steps": learner.bad_steps, "bad_in_a_row": learner.bad_in_a_row,
            "lowered": learner.budget.lowered()}


@torch.no_grad()
def load(learner: Learner, folder: Path, counters: dict[str, Any]) -> None:
    """Take back the optimiser's tensors and the counters (the weights came with the policy). CheckpointError: they do not fit."""
    tensors = load_file(folder / OPTIMISER)
    for full, tensor in tensors.items():
        key, _, name = full.partition("/")
        if name not in learner.parameters:
            raise CheckpointError(f"{folder / OPTIMISER} holds {full!r}, but the policy has no such parameter: the checkpoint is "
                                  "of another model or method")
        parameter = learner.parameters[name]
        if key == "parameter":
            parameter.copy_(tensor)
        else:
            whole = tensor.dtype == torch.int64  # an optimiser that counts its steps by a plain number
            learner.optimizer.state[parameter][key] = int(tensor) if whole else tensor.to(parameter.device)
    learner.steps, learner.bad_steps = int(counters["steps"]), int(counters["bad_steps"])
    learner.bad_in_a_row = int(counters["bad_in_a_row"])
    learner.budget.lower(counters.get("lowered", {}))
