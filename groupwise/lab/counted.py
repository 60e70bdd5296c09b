"""A plan for a model whose weights are not here: memory counted from its configuration, by what one device would have to hold.

Parameters are counted on a model without memory, so weights, gradients, moments and cache are exact to the byte; what a backward
pass keeps is an estimate (`activations`), and nothing is timed. It knows what groupwise does: learner and engine share one copy
of the weights on one device, and weights that are trained are float32.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from groupwise.errors import ConfigError
from groupwise.models.blocks import blocks, linears
from groupwise.models.load import context_limit
from groupwise.models.memory import free
from groupwise.run.compose import method_of
from groupwise.run.config import arithmetic
from groupwise.run.learner_settings import LearnerSettings
from groupwise.run.machine import device_of, most_rows
from groupwise.run.settings import Run

GIB = 2**30
DEVICES = (24, 48, 80, 141)
"""GiB of usual devices: consumer and workstation cards, A100 or H100, H200."""
PROMPT = 1024
"""Tokens of a prompt where the settings set no limit."""
PIECES = {"none": 0.0, "int8": 1.0, "nf4": 0.5}
"""Bytes of a quantised number (the scales of nf4 and int8 are a few percent more)."""


@dataclass(frozen=True)
class Count:
    """What one device would hold, in bytes by component, of which generation and training take turns; numbers of parameters.

    `active` are those that a token passes through (fewer in a mixture of experts). `room`: bytes that this machine's device has
    free; `batch` the batch arithmetic in words.
    """

    model: str
    parameters: int
    active: int
    trained: int
    memory: dict[str, int]
    peak: int
    rows: int
    per_row: int
    device: str
    room: int
    batch: list[str]

    @property
    def fits(self) -> bool:
        """Whether this machine's device has room for it."""
        return self.peak <= self.room


def count(run: Run, shape: dict[str, Any]) -> Count:
    """Count what a run of a model of this configuration needs. ConfigError: a setting that it would be refused for."""
    own, most = run.learner, run.sampling.max_tokens
    config = AutoConfig.for_model(**shape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    context = context_limit(config) or 2**31
    if not most:
        raise ConfigError("max_tokens is left to the task, which a plan without weights does not load: give --max-tokens")
    if most >= context:
        raise ConfigError(f"the model holds {context} positions and max_tokens is {most}, which leaves no room for a prompt")
    method, prompt = method_of(run, most), min(run.max_prompt_tokens or PROMPT, context - most)
    parameters = sum(p.numel() for p in model.parameters())
    inside = sum(layer.weight.numel() for layer in linears(model).values()) if own.quantise != "none" else 0
    width = 2 if own.weights == "bfloat16" else 4
    memory = {"weights": width * (parameters - inside) + round(PIECES[own.quantise] * inside)}
    trained = _adapters(model, own) or parameters
    memory["adapters"] = 4 * trained if own.lora_rank else 0
    memory["reference"] = memory["weights"] if "ref" in method.needs and not own.lora_rank else 0
    memory["optimiser moments"] = (2 if own.optimizer == "adamw8bit" else 8) * trained
    memory["training: gradients"] = 4 * trained  # which are gone when completions are sampled
    half = own.dtype == "bfloat16" or own.weights == "bfloat16"
    tokens = max(own.micro_tokens or 16384, prompt + most)
    memory["training: weights in bfloat16"] = 2 * parameters if half and width == 4 else 0
    kept = activations(config, tokens, own.checkpointing, len(blocks(model)))
    memory["training: what the backward needs"] = (2 if half else 4) * kept
    memory["training: logits and their gradient"] = 8 * min(own.logit_chunk, tokens * config.vocab_size)
    row = width * config.num_hidden_layers * 2 * config.num_key_value_heads * _head(config) * (prompt + most)
    rows = min(most_rows(run), run.prompts_per_step * run.group_size)
    memory["generation: KV cache, at most"] = rows * row
    memory["generation: logits of a wave"] = 4 * rows * config.vocab_size
    device = device_of(run)
    return Count(run.model, parameters, parameters - _idle(model, config), trained, {k: v for k, v in memory.items() if v},
                 _peak(memory), rows, row, device, free(device),
                 arithmetic(run, 0, method.update.steps)[:3])


def activations(config: PretrainedConfig, tokens: int, checkpointing: bool, depth: int) -> int:
    """Numbers that the backward of so many tokens needs, an estimate: of each block three of the model's width for each of two
    norms, queries, keys and values as attention reads them (repeated for every head), its output twice, and four of the
    feed-forward's; and one block once more, for its gradients. With checkpointing one number of the model's width a block,
    and two blocks. On the embedded policy this was 4 % below what was measured.
    """
    queries = config.num_attention_heads * _head(config)
    inner = getattr(config, "moe_intermediate_size", None)
    wide = inner * config.num_experts_per_tok if inner else config.intermediate_size
    block = 6 * config.hidden_size + 5 * queries + 4 * wide
    return int(tokens * (depth * config.hidden_size + 2 * block if checkpointing else (depth + 1) * block))


def _head(config: PretrainedConfig) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _adapters(model: PreTrainedModel, own: LearnerSettings) -> int:
    """Numbers of all adapters; 0 without any."""
    chosen = [layer for name, layer in linears(model).items()
              if not own.lora_targets or name.rpartition(".")[2] in own.lora_targets] if own.lora_rank else []
    return own.lora_rank * sum(layer.in_features + layer.out_features for layer in chosen)


def _idle(model: PreTrainedModel, config: PretrainedConfig) -> int:
    """Parameters of the experts that a token does not pass through."""
    experts = getattr(config, "num_experts", None)
    if not experts:
        return 0
    inside = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    return inside - inside * int(config.num_experts_per_tok) // int(experts)


def _peak(memory: dict[str, int]) -> int:
    turns = [sum(v for k, v in memory.items() if k.startswith(turn)) for turn in ("training:", "generation:")]
    return sum(v for k, v in memory.items() if ":" not in k) + max(turns)


def as_json(found: Count) -> dict[str, Any]:
    """The count as JSON values, bytes."""
    return asdict(found) | {"fits": found.fits, "counted": True, "advice": advice(found)}


def lines(found: Count) -> list[str]:
    """The count in words."""
    active = f", {found.active / 1e9:.2f} billion of them for a token" if found.active != found.parameters else ""
    out = [f"{found.model}: {found.parameters:,} parameters{active}",
           "counted from its configuration: no weights were loaded, nothing was timed", "", *found.batch, "",
           "memory of one device that holds learner and engine, GiB"]
    out += [f"  {name:<40}{size / GIB:>10,.1f}" for name, size in found.memory.items()]
    out += [f"  {'at its highest (these two take turns)':<40}{found.peak / GIB:>10,.1f}", ""]
    return [*out, advice(found)]


def advice(found: Count) -> str:
    """What it fits on, here and elsewhere, and what there is to do."""
    need = found.peak / GIB
    here = f"fits {found.device}" if found.fits else f"does not fit {found.device}"
    said = f"{here}: needs {need:,.1f} of {found.room / GIB:,.1f} GiB free. "
    if there := [size for size in DEVICES if need <= size]:
        return said + f"One device of {there[0]} GiB would hold it"
    held = sum(size for name, size in found.memory.items() if ":" not in name) / GIB
    training = held + sum(size for name, size in found.memory.items() if name.startswith("training:")) / GIB
    rows = math.floor((DEVICES[-1] - held) * GIB / found.per_row)
    if training <= DEVICES[-1] and rows:
        return said + f"With --max-rows {rows} (now {found.rows}) one device of {DEVICES[-1]} GiB would hold it"
    return said + (f"No device of up to {DEVICES[-1]} GiB holds it, and this version does not divide a learner among devices: "
                   f"training alone takes {training:,.0f} GiB, {math.ceil(training / 80)} devices of 80 GiB if it did. Adapters "
                   "beside frozen weights take far less (--lora-rank 32 --weights bfloat16)")
