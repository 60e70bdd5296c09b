"""From settings to a job: everything a run needs, checked before any work starts."""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import transformers

import groupwise
from groupwise.core.rollout import Prompt
from groupwise.core.services import MethodState, Sampling
from groupwise.engines.native import Native
from groupwise.errors import ConfigError, nearest
from groupwise.learner.learner import Learner, Models, Settings
from groupwise.methods import METHODS
from groupwise.methods.method import Method
from groupwise.methods.update import Minibatches
from groupwise.models.load import Policy, load
from groupwise.models.template import fill
from groupwise.run.collect import Sampler
from groupwise.run.config import Run, with_threads
from groupwise.run.grade import Grader
from groupwise.tasks import make
from groupwise.tasks.task import Task

EMBEDDED = {"reduce": "reduce"}
"""Tasks with a base policy in the package, and the folder of it."""
MOST_ROWS = 256


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
    state: MethodState
    sampling: Sampling


def method_of(run: Run, max_tokens: int) -> Method:
    """The method with its arguments checked; `max_tokens` is given to those that ask for it. ConfigError names what is wrong."""
    make_method = METHODS[run.method] if run.method in METHODS else _user_method(run.method)
    known = inspect.signature(make_method).parameters
    for name in run.method_args:
        if name not in known:
            raise ConfigError(f"method {run.method!r} has no argument {name!r}; {nearest(name, known)}")
    given = {"max_tokens": max_tokens, **run.method_args} if "max_tokens" in known else dict(run.method_args)
    for name, value in given.items():
        wanted = known[name].annotation
        allowed = (int, float) if wanted is float else (wanted,)
        if wanted in (int, bool, str, float) and type(value) not in allowed:
            raise ConfigError(f"method {run.method!r}: {name} must be {wanted.__name__}, got {value!r}")
    method = make_method(**given)
    if not isinstance(method, Method):
        raise ConfigError(f"method {run.method!r} returned {type(method).__name__}; it must return a Method")
    return replace(method, update=Minibatches(run.updates_per_batch)) if run.updates_per_batch else method


def _user_method(name: str) -> Callable[..., Method]:
    module, _, function = name.partition(":")
    if not function:
        raise ConfigError(f"unknown method {name!r}; {nearest(name, METHODS)}; or give 'module:function' of your own")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = vars(importlib.import_module(module)).get(function)
    except ModuleNotFoundError as error:
        raise ConfigError(f"method {name!r}: {error}; put the module's folder on PYTHONPATH, or start from it") from error
    if not callable(found):
        raise ConfigError(f"method {name!r}: the module has no function {function!r}")
    return found


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


def device_of(run: Run) -> str:
    """The device's name; ConfigError if it is not there."""
    wanted = run.learner.device
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {wanted!r} was asked for, but torch sees no CUDA device; take --device cpu or auto")
    return wanted


def assemble(run: Run, folder: Path, weights: Path | None = None) -> Job:
    """Build a job from resolved settings. `weights` is the folder of the policy to go on with (None: the base policy)."""
    transformers.utils.logging.disable_progress_bar()  # the console says what a run does
    torch.manual_seed(run.seed)
    task = make(run.task, run.task_args)
    sampling = Sampling(max_tokens=run.sampling.max_tokens or task.max_tokens, temperature=run.sampling.temperature,
                        stop=run.sampling.stop)
    method = method_of(run, sampling.max_tokens)
    device, base = device_of(run), (folder / "base" if (folder / "base").is_dir() else base_of(run))
    policy = load(weights or base, device=device)
    run = with_threads(run, sum(p.numel() for p in policy.model.parameters()))
    torch.set_num_threads(run.learner.threads)
    frozen = {"ref": load(base, device=device)} if "ref" in method.needs else {}
    template, context = run.template or task.template, _context_limit(policy)
    limit = context - sampling.max_tokens + 1
    prompts = fill(task.train, policy.tokenizer, template, limit)
    heldout = fill(task.heldout[: run.eval_prompts], policy.tokenizer, template, limit)
    learner = Learner(policy, settings_of(run, method), needs=method.needs, models=Models(frozen, method.contexts))
    engine = Native(policy, max_rows=MOST_ROWS, trunk=learner.scorer.trunk)
    grader = Grader(task.verifier, run.rewards, workers=run.verify_workers, deadline=run.verify_deadline)
    sampler = Sampler(method, engine, grader, policy, prompts, sampling, prompts_per_step=run.prompts_per_step,
                      group_size=run.group_size, seed=run.seed, environment=task.environment, learner=learner,
                      context_limit=context)
    return Job(run, folder, task, heldout, method, policy, learner, engine, sampler, grader, method.state(), sampling)


def settings_of(run: Run, method: Method) -> Settings:
    """The learner's settings; a schedule spans all optimiser steps of the run."""
    own = run.learner
    return Settings(lr=own.lr, schedule=own.schedule, warmup_steps=own.warmup_steps, total_steps=run.steps * method.update.steps,
                    weight_decay=own.weight_decay, betas=own.betas, grad_clip=own.grad_clip, micro_tokens=own.micro_tokens,
                    temperature=run.sampling.temperature, precision=getattr(torch, own.dtype))


def _context_limit(policy: Policy) -> int:
    limit = policy.model.config.get_text_config().to_dict().get("max_position_embeddings")
    return int(limit) if limit else 2**31


def meta(job: Job) -> Mapping[str, Any]:
    """What a run file says besides its settings: versions and the name of the equation."""
    return {"groupwise": groupwise.__version__, "torch": torch.__version__, "transformers": transformers.__version__,
            "objective": job.method.objective.hash}
