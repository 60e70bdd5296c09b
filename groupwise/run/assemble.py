"""From settings to a job: everything a run needs, checked before any work starts."""

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

import groupwise
from groupwise.core.rollout import Prompt
from groupwise.core.services import MethodState, Sampling
from groupwise.engines.compiled import Kernels
from groupwise.engines.graphs import Graphs
from groupwise.engines.native import Native
from groupwise.errors import ConfigError
from groupwise.kernels.build import Library, find
from groupwise.kernels.library import Compiled, unsupported
from groupwise.learner.compiled import KernelScorer
from groupwise.learner.learner import Compile, Learner, Models, Settings
from groupwise.methods.method import Method
from groupwise.models.linear import Linear
from groupwise.models.load import Policy, context_limit, load
from groupwise.models.template import fill, template
from groupwise.run.collect import Sampler
from groupwise.run.compose import method_of
from groupwise.run.grade import Grader
from groupwise.run.machine import SMALL, device_of, with_threads
from groupwise.run.settings import Run
from groupwise.run.watch import Watch
from groupwise.run.workers import Setup, Split, Workers
from groupwise.tasks import make
from groupwise.tasks.task import Task

EMBEDDED = {"reduce": "reduce"}
"""Tasks with a base policy in the package, and the folder of it."""
MOST_ROWS = 256
"""Completions that are sampled at a time."""


@dataclass
class Job:
    """A run, ready to go."""

    run: Run
    folder: Path
    task: Task
    heldout: list[Prompt]
    method: Method
    policy: Policy
    learner: Learner
    engine: Native
    sampler: Sampler
    grader: Grader
    workers: Workers
    state: MethodState
    sampling: Sampling
    notes: list[str]
    watch: Watch
    empty_steps: int = 0


def base_of(run: Run) -> str | Path:
    """Where the base policy lies: the run's model, or the one shipped for the task."""
    if run.model:
        return run.model
    if run.task not in EMBEDDED:
        raise ConfigError(f"task {run.task!r} has no base policy of its own: give --model, a folder or a hub id "
                          f"(shipped policies: {', '.join(EMBEDDED)})")
    folder = Path(str(resources.files("groupwise.tasks") / "policies" / EMBEDDED[run.task]))
    if not folder.is_dir():
        raise ConfigError(f"the base policy of task {run.task!r} is not in the package; make it with `groupwise warmup --out "
                          "FOLDER` and give --model FOLDER")
    return folder


def assemble(run: Run, folder: Path, weights: Path | None = None) -> Job:
    """Build a job from resolved settings. `weights` is the folder of the policy to go on with (None: the base policy).

    Who computes is chosen here: compiled kernels in this process, or the model's own modules in `learner.workers` processes, this
    one included. Close the job's grader and workers.
    """
    transformers.utils.logging.disable_progress_bar()  # the console says what a run does
    torch.manual_seed(run.seed)
    task = make(run.task, run.task_args)
    device, base = device_of(run), (folder / "base" if (folder / "base").is_dir() else base_of(run))
    policy = load(weights or base, device=device)
    compute = run.learner.compute if run.learner.workers <= 1 else "modules"
    library = kernels_of(compute, policy, device)
    run = _filled(run, task, policy, device, library)
    context = context_limit(policy.model.config) or 2**31
    if run.sampling.max_tokens >= context:
        raise ConfigError(f"the model holds {context} positions and max_tokens is {run.sampling.max_tokens}, which leaves no "
                          "room for a prompt: lower --max-tokens")
    method = method_of(run, run.sampling.max_tokens)
    with contextlib.ExitStack() as opening:
        workers = opening.enter_context(Workers(run.learner.workers, run.learner.threads))  # which start while the rest is made
        learner = learner_of(run, policy, method, base, compiler(library, run.learner.threads, run.learner.dtype), workers)
        workers.join(learner, Setup(run, str(weights or base), str(base)), method.objective)
        grader = opening.enter_context(
            Grader(task.verifier, run.rewards, workers=run.verify_workers, deadline=run.verify_deadline))
        job = _job(run, folder, task, method, learner, grader, workers, context)
        workers.wait()
        opening.pop_all()
    if isinstance(library, str) and compute == "auto":
        job.notes.append(f"compiled kernels are not used: {library}")
    return job


def _job(run: Run, folder: Path, task: Task, method: Method, learner: Learner, grader: Grader, workers: Workers,
         context: int) -> Job:
    """The prompts, the engine and the sampler, around what is there."""
    sampling = Sampling(run.sampling.max_tokens, run.sampling.temperature, stop=run.sampling.stop)
    policy, limit = learner.policy, context - sampling.max_tokens + 1
    prompts = fill(task.train, policy.tokenizer, run.template, limit)
    heldout = fill(task.heldout[: run.eval_prompts], policy.tokenizer, run.template, limit)
    engine = engine_of(policy, learner.scorer.compiled if isinstance(learner.scorer, KernelScorer) else None, workers)
    sampler = Sampler(method, engine, grader, policy, prompts, sampling, prompts_per_step=run.prompts_per_step,
                      group_size=run.group_size, seed=run.seed, environment=task.environment, learner=learner,
                      context_limit=context)
    watch = Watch(run, rates(run, method), scale_of(learner.parameters.values()))
    return Job(run, folder, task, heldout, method, policy, learner, engine, sampler, grader, workers, method.state(), sampling,
               notes=[], watch=watch)


def learner_of(run: Run, policy: Policy, method: Method, base: str | Path, compile: Compile | None = None,
               workers: Workers | None = None) -> Learner:
    """The learner of a method, with the reference model if it needs one."""
    frozen = {"ref": load(base, device=run.learner.device)} if "ref" in method.needs else {}
    return Learner(policy, settings_of(run, method), needs=method.needs, models=Models(frozen, method.contexts), compile=compile,
                   team=workers)


def kernels_of(wanted: str, policy: Policy, device: str) -> Library | str:
    """The compiled kernels to run a policy with, or why none are used. ConfigError: they are `wanted` and cannot be."""
    if wanted == "modules":
        return "compute=modules"
    found: Library | str = "they are for processors" if device != "cpu" else unsupported(policy.model) or find()
    if isinstance(found, str) and wanted == "kernels":
        raise ConfigError(f"compute=kernels was asked for, but cannot be: {found}; take compute=auto or modules")
    return found


def compiler(library: Library | str, threads: int, dtype: str) -> Compile | None:
    """What puts a model into the kernels, with these threads and this number format (auto: the fast one); None without any."""
    if isinstance(library, str):
        return None
    narrow = library.kind.narrow if dtype == "auto" else dtype == "bfloat16"
    return partial(Compiled, library=library, threads=threads, narrow=narrow)


def engine_of(policy: Policy, compiled: Compiled | None = None, workers: Workers | None = None) -> Native:
    """The engine that samples from a policy: by kernels if it is in them, with other processes if there are any, on a GPU by
    captured steps.
    """
    if compiled is not None:
        return Kernels(policy, compiled, max_rows=MOST_ROWS)
    if workers is not None and workers.size > 1:
        return Split(policy, workers, max_rows=MOST_ROWS)
    on_gpu = next(policy.model.parameters()).is_cuda
    return (Graphs if on_gpu else Native)(policy, max_rows=MOST_ROWS)


def settings_of(run: Run, method: Method) -> Settings:
    """The learner's settings; a schedule spans all optimiser steps of the run."""
    own = run.learner
    return Settings(lr=own.lr, value_lr=own.value_lr, schedule=own.schedule, warmup_steps=own.warmup_steps,
                    total_steps=run.steps * method.update.steps, weight_decay=own.weight_decay, betas=own.betas,
                    grad_clip=own.grad_clip, micro_tokens=own.micro_tokens, temperature=run.sampling.temperature,
                    precision=getattr(torch, own.dtype))


def rates(run: Run, method: Method) -> list[float]:
    """The learning rates of all optimiser steps of a run, the first 100,000 of them."""
    settings = settings_of(run, method)
    return [settings.rate(step) for step in range(min(settings.total_steps, 100_000))]


def scale_of(weights: Iterable[Tensor]) -> float:
    """The root mean square of weights."""
    parts = [(float(w.detach().float().square().sum()), w.numel()) for w in weights]
    return math.sqrt(sum(square for square, _ in parts) / max(1, sum(n for _, n in parts)))


def _filled(run: Run, task: Task, policy: Policy, device: str, library: Library | str) -> Run:
    """The settings with everything that was left to the task, the model or the machine filled in."""
    kernels, parameters = isinstance(library, Library), sum(p.numel() for p in policy.model.parameters())
    run = with_threads(run, parameters, kernels, device)
    torch.set_num_threads(run.learner.threads if parameters >= SMALL or not kernels else 1)
    template_name = run.template or task.template
    sampling = replace(run.sampling, max_tokens=run.sampling.max_tokens or task.max_tokens,
                       stop=run.sampling.stop or template(template_name).stop)
    micro = run.learner.micro_tokens or (16384 if device != "cpu" else 1280 if kernels else 1024)
    dtype = run.learner.dtype
    if dtype == "auto":
        dtype = "bfloat16" if isinstance(library, Library) and library.kind.narrow else "float32"
    learner = replace(run.learner, device=device, micro_tokens=micro, dtype=dtype)
    return replace(run, template=template_name, sampling=sampling, learner=learner)


def meta(job: Job) -> Mapping[str, Any]:
    """What a run file says besides its settings: versions, the name of the equation, the device."""
    return {"groupwise": groupwise.__version__, "torch": torch.__version__, "transformers": transformers.__version__,
            "objective": job.method.objective.hash, "device": str(job.learner.device), "threads": job.run.learner.threads,
            "workers": job.run.learner.workers,
            "compute": compute_of(job)}


def compute_of(job: Job) -> str:
    """Who computes: the kind of the kernels, or the model's modules and whose products they take."""
    if isinstance(job.learner.scorer, KernelScorer):
        return job.learner.scorer.compiled.name
    quick = any(isinstance(module, Linear) for module in job.policy.model.modules())
    return "modules, products by oneDNN" if quick else "modules"
