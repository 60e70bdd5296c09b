"""How gradient steps are taken: the settings of the learner, and what they must not be."""

import math
from dataclasses import dataclass
from typing import Literal

from groupwise.errors import ConfigError


@dataclass(frozen=True)
class LearnerSettings:
    """How gradient steps are taken (AdamW)."""

    lr: float = 6e-5
    """Learning rate at its highest. The default suits the embedded policy; for models of billions 1e-6 is usual."""
    value_lr: float = 0.0
    """Learning rate of a critic's value head, which starts from nothing; 0: as `lr`."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls to 0 over the run, after the warm-up."""
    warmup_steps: int = 0
    """Optimiser steps over which the learning rate rises from 0."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and second moments."""
    grad_clip: float = 1.0
    """Largest norm of the gradient; 0: not clipped."""
    micro_tokens: int = 0
    """Tokens (padded, without kernels) of one forward and backward pass, a matter of memory and speed, never of the result;
    0: 1024 on a processor, 640 for each thread with kernels (1280 at least), 16384 on a GPU."""
    logit_chunk: int = 2**24
    """Logits that exist at a time in the learner, at most (at least those of one token), a matter of memory and speed."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw8bit keeps its moments in 8 bits: 2 bytes a parameter instead of 8 (extra `bitsandbytes`)."""
    checkpointing: bool = False
    """Run every block again in the backward instead of keeping what it computed: less memory, more work, the same gradient."""
    lora_rank: int = 0
    """Train adapters of this rank instead of the weights (LoRA, extra `peft`); 0: all weights."""
    lora_alpha: float = 32.0
    """Adapters are scaled by alpha / rank."""
    lora_targets: tuple[str, ...] = ()
    """Names of the linear layers that get adapters, such as q_proj v_proj; empty: all of the blocks."""
    lora_stabilised: bool = False
    """Scale adapters by alpha / sqrt(rank) instead."""
    quantise: Literal["none", "nf4", "int8"] = "none"
    """Keep the frozen linear layers under adapters in 4 bits (QLoRA, extra `bitsandbytes`) or 8."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """Format that frozen weights under adapters are held in; adapters, and weights that are trained, are float32."""
    head_float32: bool = False
    """Take the head's product in float32 where the rest is bfloat16, in sampling and in training."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the products; sums, and the weights of the optimiser, stay float32. auto: that of `weights`; in kernels on
    a processor that is fast at it, bfloat16."""
    compute: Literal["auto", "kernels", "modules"] = "auto"
    """Who runs the model on a processor: compiled kernels or the model's own modules. auto: kernels where they can be built and
    cover the model (Llama, Qwen2, Qwen3, Mistral)."""
    routing: Literal["live", "recorded", "old"] = "live"
    """Who chooses the experts of a mixture of experts in training: the router as it is; the engine's choice when it sampled
    (Rollout Routing Replay); the learner's own before the update (GSPO's Routing Replay)."""
    router_aux: float = 0.0
    """Coefficient of a mixture of experts' load-balancing loss, over each optimiser step; 0.001 is usual."""
    device: str = "auto"
    """auto: a CUDA device if there is one, else the processor."""
    threads: int = 0
    """Threads of each process; 0: 1 for a small model without kernels, or several processes; else all cores up to 16. The number
    chosen is saved with the run."""
    workers: int = 0
    """Processes that share generation and gradients by the model's own modules; 0: 2 for a small model on a processor with two
    cores or more, else 1. The number chosen is saved with the run."""
    parallel: Literal["none", "fsdp2"] = "none"
    """fsdp2: weights, gradients and moments lie in shards on several ranks, for a model that does not fit one GPU
    (docs/parallel.md)."""
    ranks: int = 0
    """Processes with a shard each; 0: as many as torchrun has started, else one for each GPU, or 2 on a processor. The number
    chosen is saved with the run."""


def least(where: str, value: float, lowest: float, meaning: str = "") -> None:
    """ConfigError: a value is below its lowest, or not finite."""
    if not lowest <= value < math.inf:
        finite = " and finite" if value == math.inf else ""
        raise ConfigError(f"{where} must be at least {lowest}{f' ({meaning})' if meaning else ''}{finite}, got {value}")


def check_learner(learner: LearnerSettings) -> None:
    """ConfigError: settings that make no sense, or contradict each other."""
    for name in ("warmup_steps", "weight_decay", "grad_clip", "router_aux", "threads", "workers", "ranks"):
        least(name, getattr(learner, name), 0)
    least("micro_tokens", learner.micro_tokens, 0)
    least("logit_chunk", learner.logit_chunk, 1)
    if learner.workers > 1 and learner.compute == "kernels":
        raise ConfigError(f"workers={learner.workers} and compute=kernels: kernels share the work among threads of one process; "
                          f"take workers=1 and threads={learner.workers}, or compute=modules")
    _check_lora(learner)
    _check_parallel(learner)
    if not 0.0 < learner.lr < 1.0:
        raise ConfigError(f"lr must lie between 0 and 1, got {learner.lr}")
    if not 0.0 <= learner.value_lr < 1.0:
        raise ConfigError(f"value_lr must lie between 0 (as lr) and 1, got {learner.value_lr}")
    if not all(0.0 <= beta < 1.0 for beta in learner.betas):
        raise ConfigError(f"betas must lie in [0, 1), got {learner.betas}")


def _check_lora(learner: LearnerSettings) -> None:
    least("lora_rank", learner.lora_rank, 0, "0: all weights are trained")
    if not 0.0 < learner.lora_alpha < math.inf:
        raise ConfigError(f"lora_alpha must be above 0 and finite, got {learner.lora_alpha}")
    idle = {"lora_targets": learner.lora_targets, "lora_stabilised": learner.lora_stabilised,
            "quantise": learner.quantise != "none", "weights": learner.weights != "float32"}
    if not learner.lora_rank and any(idle.values()):
        name = next(name for name, given in idle.items() if given)
        raise ConfigError(f"{name}={getattr(learner, name)} needs adapters to train beside frozen weights: give lora_rank, "
                          "such as 32, or leave it off (steps of weights in 4, 8 or 16 bits would mostly be rounded away)")
    if learner.weights == "bfloat16" and learner.dtype == "float32":
        raise ConfigError("weights=bfloat16 and dtype=float32: products are taken in the format of the weights; leave dtype off")
    if learner.quantise != "none" and learner.workers > 1:
        raise ConfigError(f"quantise={learner.quantise} and workers={learner.workers}: quantised weights are not shared between "
                          "processes; take workers=1")
    slow = learner.lora_rank or learner.head_float32 or learner.checkpointing
    if slow and learner.compute == "kernels":
        raise ConfigError("compute=kernels, but adapters, checkpointing and a head of its own format are run by the model's "
                          "modules: take compute=auto or modules")


def _check_parallel(learner: LearnerSettings) -> None:
    if learner.parallel == "none":
        if learner.ranks > 1:
            raise ConfigError(f"ranks={learner.ranks} and parallel=none: ranks hold shards of the weights; take parallel=fsdp2, "
                              f"or workers={learner.ranks} for processes that hold whole ones")
        return
    against = {"workers": learner.workers > 1, "compute": learner.compute == "kernels",
               "optimizer": learner.optimizer == "adamw8bit", "quantise": learner.quantise != "none"}
    if wrong := [f"{name}={getattr(learner, name)}" for name, given in against.items() if given]:
        raise ConfigError(f"parallel=fsdp2 and {wrong[0]}: weights in shards are trained by the model's own modules, "
                          f"unquantised, by adamw, in as many processes as `ranks` says; leave {wrong[0].partition('=')[0]} off")
