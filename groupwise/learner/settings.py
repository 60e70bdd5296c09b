"""How gradients are taken and applied, and which frozen models a learner may ask."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from groupwise.core.services import ContextBuilder
from groupwise.kernels.library import Compiled
from groupwise.models.head import LOGIT_CHUNK
from groupwise.models.load import Policy


@dataclass(frozen=True)
class Settings:
    """How gradients are taken and applied. `total_steps` is the number of optimiser steps that a schedule spans,
    `floor` the share of the rate that it never falls below; `value_lr` is the rate of a value head (0: `lr`), on the same
    schedule. `fixed_cut`: the objective depends on the micro-batches, so they may not be made smaller where memory runs out.
    `optimizer` is adamw or adamw8bit, `router_aux` the coefficient of a mixture of experts' load-balancing loss.
    """

    lr: float = 6e-5
    value_lr: float = 0.0
    schedule: str = "constant"
    warmup_steps: int = 0
    total_steps: int = 1
    floor: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    grad_clip: float = 1.0
    micro_tokens: int = 8192
    logit_chunk: int = LOGIT_CHUNK
    fixed_cut: bool = False
    temperature: float = 1.0
    precision: torch.dtype = torch.float32
    router_aux: float = 0.0
    optimizer: str = "adamw"

    def rate(self, step: int) -> float:
        """The learning rate of the optimiser step with this index."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        left = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[self.schedule]
        return self.lr * max(self.floor, left)


@dataclass
class Models:
    """Frozen models that may be asked for log-probs: the reference and named teachers, and contexts to score under.

    The trained policy itself, as a frozen one, stands for itself without its adapters.
    """

    frozen: Mapping[str, Policy] = field(default_factory=dict)
    contexts: Mapping[str, ContextBuilder] = field(default_factory=dict)


Compile = Callable[[PreTrainedModel], Compiled]
