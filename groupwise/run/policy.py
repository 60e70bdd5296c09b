"""The policy that the settings ask for: all of its weights trained, or adapters beside weights that are frozen, and quantised."""

from pathlib import Path

import torch

from groupwise.models import adapter, bits, blocks
from groupwise.models.load import Policy, load
from groupwise.run.learner_settings import LearnerSettings


def policy_for(own: LearnerSettings, base: str | Path, weights: str | Path | None = None, *, device: str = "cpu", seed: int = 0,
               home: str = "") -> Policy:
    """The policy to train, from the base policy's folder (or hub id) and the weights to go on with, if there are any.

    `home` is where the base will be found later. ConfigError: packages that are missing, before anything is loaded.
    """
    if own.lora_rank:
        adapter.library()
    if own.quantise == "nf4" or own.optimizer == "adamw8bit":
        bits.library()
    policy = frozen_for(own, base if own.lora_rank else weights or base, device=device)
    if own.lora_rank:
        lora = adapter.Lora(own.lora_rank, own.lora_alpha, own.lora_targets, own.lora_stabilised)
        adapter.add(policy.model, lora, seed=seed, base=home)
        if weights:
            adapter.load(policy.model, Path(weights))
    if own.checkpointing:
        blocks.recompute(policy.model)
    return policy


def frozen_for(own: LearnerSettings, base: str | Path, *, device: str = "cpu") -> Policy:
    """A policy as it is before training: in the formats asked for, without adapters."""
    whole = own.quantise == "none"
    policy = load(base, dtype=getattr(torch, own.weights), device=device if whole else "cpu")
    if not whole:
        bits.quantise(policy.model, own.quantise, device)
    policy.head_float32 = own.head_float32
    return policy


def reference_for(own: LearnerSettings, policy: Policy, base: str | Path, *, device: str = "cpu") -> Policy:
    """The reference of a policy: with adapters itself, which without them is the base; else a second model."""
    return policy if own.lora_rank else frozen_for(own, base, device=device)


def base_to_save(own: LearnerSettings, policy: Policy, base: str | Path) -> Policy:
    """What a run keeps as its start: the policy itself, or what its adapters were put into, read anew (it may be quantised)."""
    return load(base, dtype=getattr(torch, own.weights)) if own.lora_rank else policy


def described(own: LearnerSettings, policy: Policy) -> list[str]:
    """What is trained, in words, where it is not everything."""
    if not own.lora_rank:
        return []
    found, trained = adapter.layers(policy.model), adapter.trained(policy.model)
    names = sorted({name.rpartition(".")[2] for name in found})
    whole = sum(layer.in_features * layer.out_features for layer in found.values())
    kept = "" if own.quantise == "none" else f", in {own.quantise}"
    lines = [f"adapters of rank {own.lora_rank} ({sum(p.numel() for p in trained.values()):,} parameters are trained) beside "
             f"{len(found)} frozen layers of {whole:,} weights{kept}: {', '.join(names)}"]
    if fused := blocks.fused(policy.model):
        lines.append(f"{sum(p.numel() for p in fused.values()):,} weights of the blocks are in no linear layer, such as "
                     f"{next(iter(fused))}: they stay frozen as they are, without adapters")
    return lines
