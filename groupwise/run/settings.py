"""What can be set of a training run, with the defaults; each value is checked when it is given.

This file knows what the settings are called and which contradict each other; what the own arguments of a method or a task mean,
those say themselves.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from groupwise.errors import ConfigError, nearest
from groupwise.run import toml

TRACKERS = ("tensorboard", "wandb", "trackio")
Words = Annotated[dict[str, Any], toml.WORDS]


@dataclass(frozen=True)
class SamplingSettings:
    """The distribution that completions are sampled from."""

    max_tokens: int = 0
    """New tokens of one turn at most; 0: what the task suggests."""
    temperature: float = 1.0
    """Above 0; the learner's log-probs use the same."""
    top_p: float = 1.0
    """Off (1) in training."""
    top_k: int = 0
    """Off (0) in training."""
    min_p: float = 0.0
    """Off (0) in training."""
    max_rows: int = 0
    """Completions sampled at a time, at most, a matter of memory and speed; 0: 256 (with kernels 288, contexts counted)."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion, besides the model's own end tokens."""


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
    0: 1024 on a processor, 320 for each thread with kernels (640 at least), 16384 on a GPU."""
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
    """Processes with a shard each; 0: as many as torchrun started, else one for each GPU, or 2 on a processor."""


@dataclass(frozen=True)
class Run:
    """The settings of a training run.

    `--config FILE.toml` reads them from a file; what is given beside it wins. `--json FILE` also writes the run's summary there.
    """

    name: Annotated[str, tyro.conf.arg(name="run")] = ""
    """Name of the run's folder; empty: METHOD-TASK-SEED."""
    task: str = "reduce"
    """What to learn: a task of the package, or module:function of your own."""
    task_args: Words = field(default_factory=dict)
    """Arguments of the task, such as path=train.jsonl."""
    method: str = "dr_grpo"
    """How to learn it: see `groupwise methods`."""
    method_args: Words = field(default_factory=dict)
    """Arguments of the method, such as clip_high=0.28."""
    rewards: tuple[str, ...] = ()
    """Further rewards, each module:function, or model:FOLDER_OR_HUB_ID (a reward model); NAME= before it gives another name than
    the function's. Empty: the task's verifier alone."""
    reward_weights: Words = field(default_factory=dict)
    """What a component counts for in the reward, such as correct=1 brief=0.5, by the reward's name; 1 where nothing is said."""
    model: str = ""
    """A folder or a hub name; empty: the task's own small base policy."""
    template: str = ""
    """How a problem is put to the model: none, r1, qwen_math, chat, dapo, or a text (or file) of your own with {question} in it,
    behind `chat:` if it is the user's message of a chat; empty: as the task says."""
    system: str = ""
    """System message of a chat, for data that has none of its own."""
    thinking: Literal["auto", "on", "off"] = "auto"
    """Whether the chat template opens or skips thoughts (`enable_thinking`); auto: as it does by itself."""
    max_prompt_tokens: int = 0
    """Tokens of a prompt at most; 0: what the model's context leaves beside max_tokens."""
    overlong_prompts: Literal["refuse", "drop"] = "refuse"
    """What becomes of longer prompts: the run is refused, or they are left out and counted."""
    steps: int = 120
    """Batches of rollouts to learn from."""
    token_budget: int = 0
    """End after the step that brings the tokens sampled in all to this number, if `steps` are not done before; 0: no limit."""
    prompts_per_step: int = 32
    """Groups in a batch."""
    group_size: int = 8
    """Rollouts of each prompt, compared with each other."""
    seed: int = 0
    """Seed of every random choice."""
    updates_per_batch: int = 0
    """Optimiser steps that a batch is cut into; 0: as the method says."""
    max_staleness: int = 0
    """Batches that are sampled ahead, while the learner works on the one before: their weights are so many steps old, and ratios
    of their tokens divide by the engine's log-probs (docs/ahead.md). 0: one after the other; 1: at the same time."""
    sampling: Annotated[SamplingSettings, tyro.conf.arg(name="")] = field(default_factory=SamplingSettings)
    learner: Annotated[LearnerSettings, tyro.conf.arg(name="")] = field(default_factory=LearnerSettings)
    eval_every: int = 20
    """Steps between evaluations (also before the first and after the last); 0: never."""
    eval_prompts: int = 500
    """Held-out prompts of an evaluation, at most."""
    checkpoint_every: int = 20
    """Steps between checkpoints (also after the last); 0: only after the last."""
    keep: int = 2
    """Checkpoints kept: the newest."""
    keep_rollouts: int = 20
    """Steps between those whose groups are kept token by token (also the first and the last), for `groupwise show`; 0: never."""
    keep_groups: int = 4
    """Groups kept of such a step, at most."""
    preflight: Literal["on", "off", "strict"] = "on"
    """Whether `groupwise train` first samples some training prompts and says if the run will learn (docs/preflight.md); strict:
    it does not start if it will not."""
    trackers: tuple[str, ...] = ()
    """Others that are told what is recorded: tensorboard, wandb (offline unless WANDB_MODE says otherwise), trackio."""
    verify_workers: int = 1
    """Processes that grade answers."""
    verify_deadline: float = 5.0
    """Seconds that grading one answer may take."""
    unsafe_exec: bool = False
    """Where no sandbox can be made, run the programs that a policy writes without one, with your own rights."""

    def __post_init__(self) -> None:
        for name in ("task_args", "method_args", "reward_weights"):
            object.__setattr__(self, name, toml.plain(getattr(self, name)))
        _check_counts(self)
        _check_weights(self.reward_weights)
        _check_sampling(self.sampling)
        _check_learner(self.learner)


def _least(where: str, value: float, least: float, meaning: str = "") -> None:
    if not least <= value < math.inf:
        finite = " and finite" if value == math.inf else ""
        raise ConfigError(f"{where} must be at least {least}{f' ({meaning})' if meaning else ''}{finite}, got {value}")


def _check_counts(run: Run) -> None:
    """Numbers that make no sense, before any work is done."""
    for name in ("steps", "prompts_per_step", "group_size", "keep", "verify_workers", "eval_prompts", "keep_groups"):
        _least(name, getattr(run, name), 1)
    _least("updates_per_batch", run.updates_per_batch, 0, "0: as the method says")
    _least("token_budget", run.token_budget, 0, "0: no limit")
    if run.max_staleness not in (0, 1):
        raise ConfigError(f"max_staleness={run.max_staleness}: 0 (sample, then learn) or 1 (sample the next batch meanwhile): "
                          "the engine of this process has one set of weights, so going further ahead would save no time")
    if run.token_budget and run.learner.schedule != "constant":
        raise ConfigError(f"token_budget={run.token_budget} and schedule={run.learner.schedule}: a schedule falls over "
                          "the steps, and a budget leaves their number open; take schedule=constant, or steps alone")
    _least("max_prompt_tokens", run.max_prompt_tokens, 0, "0: what the context leaves")
    _least("eval_every", run.eval_every, 0, "0: never")
    _least("checkpoint_every", run.checkpoint_every, 0, "0: only after the last step")
    _least("keep_rollouts", run.keep_rollouts, 0, "0: never")
    for name in run.trackers:
        if name not in TRACKERS:
            raise ConfigError(f"unknown tracker {name!r}; {nearest(name, TRACKERS)}")
    if run.updates_per_batch > run.prompts_per_step:
        raise ConfigError(f"updates_per_batch={run.updates_per_batch} is more than prompts_per_step={run.prompts_per_step}: a "
                          "batch is cut by whole groups, so there must be at least one group for each optimiser step")
    if not 0.0 < run.verify_deadline < math.inf:
        raise ConfigError(f"verify_deadline must be above 0 seconds and finite, got {run.verify_deadline}")
    if not run.task or not run.method:
        raise ConfigError("task and method must not be empty")
    if run.name and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", run.name):
        raise ConfigError(f"run name {run.name!r} must be letters, digits, '.', '_' and '-', as it names a folder")


def _check_weights(weights: Mapping[str, Any]) -> None:
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise ConfigError(f"reward_weights: the weight of {name!r} must be a finite number, got {weight!r}")


def _check_sampling(sampling: SamplingSettings) -> None:
    _least("sampling.max_tokens", sampling.max_tokens, 0, "0: what the task suggests")
    _least("sampling.max_rows", sampling.max_rows, 0, "0: as the engine likes best")
    if not sampling.temperature < math.inf:
        raise ConfigError(f"sampling.temperature must be above 0 and finite, got {sampling.temperature}")
    if not sampling.temperature > 0.0:
        raise ConfigError(f"sampling.temperature={sampling.temperature} in training: a greedy group is one completion many "
                          "times, with nothing to compare; take a temperature above 0, such as 1 (evaluations are greedy anyhow)")
    if sampling.top_p != 1.0 or sampling.top_k != 0 or sampling.min_p != 0.0:
        raise ConfigError(f"sampling.top_p={sampling.top_p}, top_k={sampling.top_k}, min_p={sampling.min_p} in training: the "
                          "learner's log-probs are those of the whole distribution, so a truncated one would make every ratio "
                          "wrong; leave them off (top_p=1, top_k=0, min_p=0)")
    if "" in sampling.stop:
        raise ConfigError("sampling.stop holds an empty text, which would stop everything at once")


def _check_learner(learner: LearnerSettings) -> None:
    for name in ("warmup_steps", "weight_decay", "grad_clip", "router_aux", "threads", "workers", "ranks"):
        _least(name, getattr(learner, name), 0)
    _least("micro_tokens", learner.micro_tokens, 0)
    _least("logit_chunk", learner.logit_chunk, 1)
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
    _least("lora_rank", learner.lora_rank, 0, "0: all weights are trained")
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
    sharded = learner.parallel != "none"
    if learner.ranks > 1 and not sharded:
        raise ConfigError(f"ranks={learner.ranks} and parallel=none: ranks hold shards of the weights; take parallel=fsdp2, "
                          f"or workers={learner.ranks} for processes that hold whole ones")
    against = {"workers": learner.workers > 1, "compute": learner.compute == "kernels",
               "optimizer": learner.optimizer == "adamw8bit", "quantise": learner.quantise != "none"}
    if sharded and (wrong := [f"{name}={getattr(learner, name)}" for name, given in against.items() if given]):
        raise ConfigError(f"parallel=fsdp2 and {wrong[0]}: weights in shards are trained by the model's own modules, "
                          f"unquantised, by adamw, in as many processes as `ranks` says; leave {wrong[0].partition('=')[0]} off")
