"""What can be set of a training run, with the defaults; each value is checked when it is given.

This file knows what the settings are called and which contradict each other; what the own arguments of a method or a task mean,
those say themselves.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

import tyro

from groupwise.engines.vllm.settings import EngineSettings
from groupwise.errors import ConfigError, nearest
from groupwise.run import toml
from groupwise.run.learner_settings import LearnerSettings, check_learner, least

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
    behaviour: Literal["method", "old", "recorded"] = "method"
    """What ratios divide by: the learner before the update (old), or what the engine said when it sampled (recorded)."""
    correction: Literal["method", "none", "truncated", "masked", "rejected", "normalised"] = "method"
    """What is done about log-probs that engine and learner differ in (docs/vllm.md)."""
    correction_args: Words = field(default_factory=dict)
    """Arguments of the correction, such as cap=2 unit=sequence."""
    sampling: Annotated[SamplingSettings, tyro.conf.arg(name="")] = field(default_factory=SamplingSettings)
    learner: Annotated[LearnerSettings, tyro.conf.arg(name="")] = field(default_factory=LearnerSettings)
    engine: Literal["native", "vllm"] = "native"
    """Who samples: this process, or vLLM in a process and an environment of its own (docs/vllm.md)."""
    serving: Annotated[EngineSettings, tyro.conf.arg(name="")] = field(default_factory=EngineSettings)
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
        for name in ("task_args", "method_args", "reward_weights", "correction_args"):
            object.__setattr__(self, name, toml.plain(getattr(self, name)))
        _check_counts(self)
        _check_weights(self.reward_weights)
        _check_sampling(self.sampling)
        check_learner(self.learner)
        _check_engine(self)


def _check_counts(run: Run) -> None:
    """Numbers that make no sense, before any work is done."""
    for name in ("steps", "prompts_per_step", "group_size", "keep", "verify_workers", "eval_prompts", "keep_groups"):
        least(name, getattr(run, name), 1)
    least("updates_per_batch", run.updates_per_batch, 0, "0: as the method says")
    least("token_budget", run.token_budget, 0, "0: no limit")
    if run.max_staleness not in (0, 1):
        raise ConfigError(f"max_staleness={run.max_staleness}: 0 (sample, then learn) or 1 (sample the next batch meanwhile): "
                          "the engine of this process has one set of weights, so going further ahead would save no time")
    if run.token_budget and run.learner.schedule != "constant":
        raise ConfigError(f"token_budget={run.token_budget} and schedule={run.learner.schedule}: a schedule falls over "
                          "the steps, and a budget leaves their number open; take schedule=constant, or steps alone")
    least("max_prompt_tokens", run.max_prompt_tokens, 0, "0: what the context leaves")
    least("eval_every", run.eval_every, 0, "0: never")
    least("checkpoint_every", run.checkpoint_every, 0, "0: only after the last step")
    least("keep_rollouts", run.keep_rollouts, 0, "0: never")
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


def _check_engine(run: Run) -> None:
    if run.engine == "native":
        if given := [f.name for f in fields(EngineSettings) if getattr(run.serving, f.name) != f.default]:
            raise ConfigError(f"{given[0]} is for an engine that is a process of its own: give engine=vllm, or leave it off")
    elif run.learner.routing == "recorded":
        raise ConfigError("routing=recorded needs the engine's choice of experts, and vLLM does not record it: take routing=old "
                          "or live, or engine=native")


def _check_weights(weights: Mapping[str, Any]) -> None:
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise ConfigError(f"reward_weights: the weight of {name!r} must be a finite number, got {weight!r}")


def _check_sampling(sampling: SamplingSettings) -> None:
    least("sampling.max_tokens", sampling.max_tokens, 0, "0: what the task suggests")
    least("sampling.max_rows", sampling.max_rows, 0, "0: as the engine likes best")
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
