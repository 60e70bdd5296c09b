"""All settings of a run: defaults, then a TOML file, then the command line; each checked before any work.

    groupwise train --steps 300 --method dapo --method-args clip_high=0.3 overlong=true --config recipe.toml

A run saves its settings as `run.toml`; `--config` of that file repeats it. This file knows what the settings are called and
which contradict each other; what a method's or a task's own arguments mean, those say themselves.
"""

import contextlib
import io
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Any, Literal

import tyro

from groupwise.errors import ConfigError, nearest
from groupwise.run import toml

Words = Annotated[dict[str, Any], toml.WORDS]
MAX_THREADS = 16
"""More threads than this slow down models of the size that one trains on a processor."""
SMALL = 20_000_000
"""Below so many parameters one thread is faster than several: waking the others costs more than a small matrix product."""


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
    0: 1024 on a processor, 1280 with kernels (measured best there), 16384 on a GPU."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the products; sums, and the weights of the optimiser, stay float32. auto: bfloat16 in kernels on a
    processor that is fast at it, else float32."""
    compute: Literal["auto", "kernels", "modules"] = "auto"
    """Who runs the model on a processor: compiled kernels or the model's own modules. auto: kernels where they can be built and
    cover the model (Llama, Qwen2, Qwen3, Mistral)."""
    device: str = "auto"
    """auto: a CUDA device if there is one, else the processor."""
    threads: int = 0
    """Threads of each process; 0: 1 for a small model without kernels, or several processes; else all cores up to 16. The number
    chosen is saved with the run."""
    workers: int = 0
    """Processes that share generation and gradients by the model's own modules; 0: 2 for a small model on a processor with two
    cores or more, else 1. The number chosen is saved with the run."""


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
    """Further rewards, each module:function; empty: the task's verifier alone."""
    model: str = ""
    """A folder or a hub name; empty: the task's own small base policy."""
    template: str = ""
    """How a problem is put to the model; empty: as the task says."""
    steps: int = 120
    """Batches of rollouts to learn from."""
    prompts_per_step: int = 32
    """Groups in a batch."""
    group_size: int = 8
    """Rollouts of each prompt, compared with each other."""
    seed: int = 0
    """Seed of every random choice."""
    updates_per_batch: int = 0
    """Optimiser steps that a batch is cut into; 0: as the method says."""
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
    verify_workers: int = 1
    """Processes that grade answers."""
    verify_deadline: float = 5.0
    """Seconds that grading one answer may take."""

    def __post_init__(self) -> None:
        for name in ("task_args", "method_args"):
            object.__setattr__(self, name, toml.plain(getattr(self, name)))
        _check_counts(self)
        _check_sampling(self.sampling)
        _check_learner(self.learner)


def _least(where: str, value: float, least: float, meaning: str = "") -> None:
    if not value >= least:
        raise ConfigError(f"{where} must be at least {least}{f' ({meaning})' if meaning else ''}, got {value}")


def _check_counts(run: Run) -> None:
    """Numbers that make no sense, before any work is done."""
    for name in ("steps", "prompts_per_step", "group_size", "keep", "verify_workers", "eval_prompts"):
        _least(name, getattr(run, name), 1)
    _least("updates_per_batch", run.updates_per_batch, 0, "0: as the method says")
    _least("eval_every", run.eval_every, 0, "0: never")
    _least("checkpoint_every", run.checkpoint_every, 0, "0: only after the last step")
    if run.updates_per_batch > run.prompts_per_step:
        raise ConfigError(f"updates_per_batch={run.updates_per_batch} is more than prompts_per_step={run.prompts_per_step}: a "
                          "batch is cut by whole groups, so there must be at least one group for each optimiser step")
    if not run.verify_deadline > 0.0:
        raise ConfigError(f"verify_deadline must be above 0 seconds, got {run.verify_deadline}")
    if not run.task or not run.method:
        raise ConfigError("task and method must not be empty")
    if run.name and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", run.name):
        raise ConfigError(f"run name {run.name!r} must be letters, digits, '.', '_' and '-', as it names a folder")


def _check_sampling(sampling: SamplingSettings) -> None:
    _least("sampling.max_tokens", sampling.max_tokens, 0, "0: what the task suggests")
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
    for name in ("warmup_steps", "weight_decay", "grad_clip", "threads", "workers"):
        _least(name, getattr(learner, name), 0)
    _least("micro_tokens", learner.micro_tokens, 0)
    if learner.workers > 1 and learner.compute == "kernels":
        raise ConfigError(f"workers={learner.workers} and compute=kernels: kernels share the work among threads of one process; "
                          f"take workers=1 and threads={learner.workers}, or compute=modules")
    if not 0.0 < learner.lr < 1.0:
        raise ConfigError(f"lr must lie between 0 and 1, got {learner.lr}")
    if not 0.0 <= learner.value_lr < 1.0:
        raise ConfigError(f"value_lr must lie between 0 (as lr) and 1, got {learner.value_lr}")
    if not all(0.0 <= beta < 1.0 for beta in learner.betas):
        raise ConfigError(f"betas must lie in [0, 1), got {learner.betas}")


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def resolved(run: Run) -> Run:
    """The run with its name filled in."""
    return replace(run, name=run.name or re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{run.method}-{run.task}-{run.seed}").lstrip("-."))


def with_threads(run: Run, parameters: int, kernels: bool = False, device: str = "cpu") -> Run:
    """The run with its numbers of processes and threads filled in, for a model of so many parameters, run by kernels or not.

    ConfigError: several processes where they cannot be (a GPU, Windows).
    """
    own, small = run.learner, parameters < SMALL and not kernels
    able = device == "cpu" and sys.platform != "win32"
    workers = own.workers or (2 if small and able and own.threads <= 1 and cores() > 1 else 1)
    if workers > 1 and not able:
        where = sys.platform if device == "cpu" else device
        raise ConfigError(f"workers={workers} on {where}: several processes share a processor's memory, on Linux and macOS; take "
                          "workers=1")
    threads = own.threads or (1 if small or workers > 1 else min(cores(), MAX_THREADS))
    return replace(run, learner=replace(own, threads=threads, workers=workers))


def arithmetic(run: Run, task_size: int, updates: int = 1) -> list[str]:
    """The batch arithmetic in words, one line each; `task_size` is the number of train prompts (0: unlimited), `updates` the
    number of optimiser steps per batch.
    """
    rollouts, visits = run.prompts_per_step * run.group_size, run.steps * run.prompts_per_step
    lines = [f"{run.prompts_per_step} prompts x {run.group_size} rollouts = {rollouts:,} rollouts a step; "
             f"x {run.steps:,} steps = {run.steps * rollouts:,}",
             f"{updates} optimiser step{'s' if updates > 1 else ''} a batch, {run.steps * updates:,} in all"]
    if limit := run.sampling.max_tokens:
        lines.append(f"at most {rollouts:,} x {limit:,} = {rollouts * limit:,} tokens sampled a step")
    if task_size:
        lines.append(f"{visits:,} visits of {task_size:,} train prompts = {visits / task_size:.2f} epochs")
    else:
        lines.append(f"{visits:,} prompts, made as they are needed")
    return lines


def to_toml(run: Run, meta: Mapping[str, Any] | None = None, equation: Mapping[str, str] | None = None) -> str:
    """The settings as a TOML file; `meta` (versions, the objective's hash) and `equation` become tables that reading ignores."""
    more = {name: dict(table) for name, table in (("meta", meta), ("equation", equation)) if table}
    return toml.document({**toml.table_of(run), **more})


def from_toml(text: str, where: str = "the settings", default: Run | None = None) -> Run:
    """Settings from TOML, over `default`; `where` names the file in errors. Raises ConfigError."""
    table = toml.read(text, where)
    for name in ("meta", "equation"):
        table.pop(name, None)
    return toml.build(Run, table, default=default)


def from_words(args: Sequence[str], default: Run, prog: str = "groupwise train") -> Run:
    """Settings from command-line words, over `default`; tables of arguments are merged key by key. Raises ConfigError.

    Prints the help and raises SystemExit(0) if it is asked for.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            run, unknown = tyro.cli(Run, args=list(args), default=default, prog=prog, return_unknown_args=True)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise _said_before(stop) or ConfigError(f"the command line cannot be read\n{said.getvalue().strip()}") from None
    if unknown:
        flag = unknown[0].partition("=")[0]
        what = "unknown setting" if flag.startswith("-") else "unexpected word"
        raise ConfigError(f"{what} {flag!r}; {nearest(flag.replace('_', '-'), flags())}")
    return replace(run, task_args={**default.task_args, **run.task_args}, method_args={**default.method_args, **run.method_args})


def _said_before(error: BaseException) -> ConfigError | None:
    """Our own error that the reader of the command line turned into an exit, if it was one."""
    cause = error.__context__
    while cause is not None and not isinstance(cause, ConfigError):
        cause = cause.__context__
    return cause


def flags() -> list[str]:
    """Every setting's name on the command line."""
    every = [f for cls in (Run, SamplingSettings, LearnerSettings) for f in fields(cls)]
    names = [f.name for f in every if not is_dataclass(f.default_factory)]
    return [f"--{'run' if name == 'name' else name.replace('_', '-')}" for name in [*names, "config", "json"]]
