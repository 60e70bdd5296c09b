"""LoRA: small matrices beside frozen linear layers (Hu et al. 2021, arXiv 2106.09685), made by peft. The only place of peft.

A layer computes W x + s B A x, with s = alpha / rank (alpha / sqrt(rank) where stabilised; Kalajdzievski 2023, arXiv 2312.03732).
B starts at zero, so training starts from the base; without adapters the model is its own reference. There is no dropout: it
would make log-probs random. A and B are fp32 whatever the base is.
"""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from groupwise.errors import CheckpointError, ConfigError, nearest
from groupwise.models.bits import Quantised
from groupwise.models.blocks import linears

NAME, PREFIX, FILE = "default", "base_model.model.", "adapter_model.safetensors"


@dataclass(frozen=True)
class Lora:
    """An adapter's shape; `targets` are last parts of names of linear layers, none: all those of the blocks."""

    rank: int
    alpha: float = 32.0
    targets: tuple[str, ...] = ()
    stabilised: bool = False


def library() -> Any:
    """The package peft. ConfigError says how to install it."""
    try:
        import peft
    except ImportError as error:
        raise ConfigError(f"lora_rank needs peft: pip install 'groupwise[peft]' ({error})") from error
    return peft


def add(model: PreTrainedModel, lora: Lora, *, seed: int = 0, base: str = "") -> None:
    """Put adapters into a model and freeze the rest. `base` is where peft is to look for the model without them.

    ConfigError: a target that no linear layer of the blocks is called, or layers into which peft puts no plain adapter.
    """
    known = sorted({name.rpartition(".")[2] for name in linears(model)})
    if not known:
        raise ConfigError(f"lora_rank: the blocks of {type(model).__name__} have no linear layers that adapters could stand "
                          "beside; train all weights (lora_rank=0)")
    if wrong := sorted(set(lora.targets) - set(known)):
        raise ConfigError(f"lora_targets: no linear layer of the model's blocks is called {wrong[0]!r}; "
                          f"{nearest(wrong[0], known)}")
    peft = library()
    config = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets) or known, lora_dropout=0.0,
                             use_rslora=lora.stabilised, bias="none", task_type="CAUSAL_LM", base_model_name_or_path=base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            peft.inject_adapter_in_model(config, model, adapter_name=NAME)
        except ValueError as error:
            raise ConfigError(f"peft puts no adapters into these layers of {type(model).__name__}: {error}; choose others with "
                              f"lora_targets, of {', '.join(known)}") from error
    found = layers(model).items()
    if odd := [name for name, layer in found if getattr(layer.get_base_layer(), "weight", None) is None]:
        raise ConfigError(f"peft puts adapters into {odd[0]!r}, which is no linear layer (experts in one tensor): they "
                          f"could not be merged; choose layers with lora_targets, of {', '.join(known)}")
    for parameter in trained(model).values():
        parameter.data = parameter.data.float()
    model.eval()  # what was put in comes in training mode


def layers(model: nn.Module) -> dict[str, Any]:
    """The layers that have an adapter, by name."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def trained(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that are trained: those of the adapters, or all."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@contextlib.contextmanager
def off(model: nn.Module) -> Iterator[None]:
    """The model without its adapters, for forwards without gradient in this context."""
    found = layers(model).values()
    try:
        for layer in found:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in found:
            layer.enable_adapters(True)


def merged(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights W + s B A under the names of a model without adapters, in fp32: bf16 would round small changes away.

    Quantised weights are those that their codes stand for: what was trained with, not what was quantised.
    """
    whole = {name: tensor.detach() for name, tensor in model.state_dict().items() if ".lora_" not in name}
    whole |= {f"{name}.weight": module.weight for name, module in model.named_modules() if isinstance(module, Quantised)}
    with torch.no_grad():
        for name, layer in layers(model).items():
            base = whole[f"{name}.base_layer.weight"]
            whole[f"{name}.base_layer.weight"] = base.float() + layer.get_delta_weight(NAME).float()
    return {name.replace(".base_layer.", "."): tensor for name, tensor in whole.items()}


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write the adapters as peft does: `PeftModel.from_pretrained(base, folder)` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.copy(model.peft_config[NAME])
    config.inference_mode, config.target_modules = True, sorted(config.target_modules)
    config.save_pretrained(str(folder))
    save_file({_key(name): p.detach().contiguous() for name, p in trained(model).items()}, folder / FILE, {"format": "pt"})


@torch.no_grad()
def load(model: PreTrainedModel, folder: Path) -> None:
    """Take saved adapters into those of a model. CheckpointError: they are of another model, rank or targets."""
    saved, own = load_file(folder / FILE), {_key(name): p for name, p in trained(model).items()}
    if {name: p.shape for name, p in saved.items()} != {name: p.shape for name, p in own.items()}:
        odd = sorted(saved.keys() ^ own.keys()) or [name for name in own if own[name].shape != saved[name].shape]
        raise CheckpointError(f"{folder / FILE} is of another model, rank or targets: {odd[0]!r} does not fit")
    for name, parameter in own.items():
        parameter.copy_(saved[name])


def _key(name: str) -> str:
    return PREFIX + name.replace(f".{NAME}.", ".")
