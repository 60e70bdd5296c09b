"""A learner's state on disk: weights that `from_pretrained` loads (of a policy with adapters: those, as peft has them), optimiser
moments as safetensors (of a learner in shards: a folder of them), JSON counters. No pickle.
"""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from groupwise.learner.learner import Learner
from groupwise.learner.parallel import Sharded
from groupwise.learner.shards import FILE, FOLDER, read, state_of
from groupwise.models import adapter
from groupwise.models.load import save as save_policy

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
    if isinstance(learner, Sharded):
        learner.write(folder / FOLDER)
    else:
        tensors, seen = state_of(learner), set[int]()  # the 8-bit optimiser's tables are one for all, which a file cannot hold
        for name, tensor in tensors.items():
            tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor.contiguous()
            seen.add(tensor.data_ptr())
        save_file(tensors, folder / FILE)
    return {"steps": learner.steps, "bad_steps": learner.bad_steps, "bad_in_a_row": learner.bad_in_a_row,
            "lowered": learner.budget.lowered()}


def load(learner: Learner, folder: Path, counters: dict[str, Any]) -> None:
    """Take back the optimiser's tensors and the counters (the weights came with the policy). CheckpointError: they do not fit."""
    if isinstance(learner, Sharded):
        learner.read(folder, counters)
    else:
        read(learner, folder, counters)
