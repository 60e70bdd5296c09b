"""From settings to a job: everything a run needs, checked before any work starts."""

import contextlib
from collections.abc import Mapping, Sequence
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
from groupwise.engines.vllm.client import VLLM
from groupwise.engines.whole import Whole
from groupwise.errors import ConfigError, DataError
from groupwise.kernels.build import Library
from groupwise.kernels.library import CHUNK_ROWS
from groupwise.learner.compiled import KernelScorer
from groupwise.learner.learner import Learner
from groupwise.methods.method import Method
from groupwise.models import adapter
from groupwise.models.linear import Linear
from groupwise.models.load import Policy, context_limit
from groupwise.models.template import Template, fill, spelled, template
from groupwise.run.collect import Sampler
from groupwise.run.compose import method_of
from groupwise.run.compute import by_modules, check_ahead, compiler, kernels_of, native_of
from groupwise.run.grade import Grader
from groupwise.run.learning import rates, scale_of, shared_learner
from groupwise.run.link import number
from groupwise.run.look import generated
from groupwise.run.machine import SMALL, device_of, most_rows, with_threads
from groupwise.run.policy import described, policy_for
from groupwise.run.preview import preview
from groupwise.run.ranks import Ranks
from groupwise.run.rewards import check_weights, named
from groupwise.run.serving import python_of, vllm_of
from groupwise.run.settings import Run
from groupwise.run.watch import Watch
from groupwise.run.workers import Workers
from groupwise.tasks import make
from groupwise.tasks.task import Task
from groupwise.verify import check_ready

EMBEDDED = {"reduce": "reduce"}
"""Tasks with a base policy in the package, and the folder of it."""


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
    workers: Workers | Ranks
    state: MethodState
    sampling: Sampling
    notes: list[str]
    watch: Watch
    empty_steps: int = 0

    @property
    def spent(self) -> bool:
        """Whether the budget of tokens is used up."""
        return 0 < self.run.token_budget <= sum(map(generated, self.watch.rows))

    def lowered(self) -> dict[str, float]:
        """The settings that want of memory has lowered, with their present values."""
        rows = {} if self.engine.max_rows == most_rows(self.run) else {"max_rows": self.engine.max_rows}
        return {name: float(value) for name, value in (self.learner.budget.lowered() | rows).items()}


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


def assemble(run: Run, folder: Path, weights: Path | None = None, *, serve: bool = False) -> Job:
    """Build a job from resolved settings. `weights` is the folder of the policy to go on with (None: the base policy).
    `serve`: the engine that the settings name is started, if that is another process; else the native one samples.

    Who computes is chosen here: compiled kernels in this process, or the model's own modules in `learner.workers` processes, this
    one included. Close the job's grader, workers and engine.
    """
    transformers.utils.logging.disable_progress_bar()  # the console says what a run does
    torch.manual_seed(run.seed)
    task = make(run.task, run.task_args)
    run = replace(run, template=spelled(run.template or task.template))
    form = form_of(run)
    check_weights(run.reward_weights, run.rewards, task.verifier, task.environment is not None)
    method = method_of(run, run.sampling.max_tokens or task.max_tokens)
    python = python_of(run) if serve else ""
    check_ready([task.verifier, *named(run.rewards).values()], run.unsafe_exec)
    device, base = device_of(run), (folder / "base" if (folder / "base").is_dir() else base_of(run))
    policy = policy_for(run.learner, base, weights, device=device, seed=run.seed, home=str(folder.resolve() / "base"))
    form.check(policy.tokenizer)
    compute = run.learner.compute if run.learner.workers <= 1 else "modules"
    library = by_modules(run.learner) or kernels_of(compute, policy, device)
    run = _filled(run, task, policy, device, library, form)
    context = context_limit(policy.model.config) or 2**31
    if run.sampling.max_tokens >= context:
        raise ConfigError(f"the model holds {context} positions and max_tokens is {run.sampling.max_tokens}, which leaves no "
                          "room for a prompt: lower --max-tokens")
    with contextlib.ExitStack() as opening:
        compile = compiler(library, run.learner.threads, run.learner.dtype)
        learner, workers = shared_learner(opening, run, policy, method, base, weights, compile)
        grader = opening.enter_context(
            Grader(task.verifier, run.rewards, weights=run.reward_weights, workers=run.verify_workers,
                   deadline=run.verify_deadline, device=device))
        job = _job(run, folder, task, method, learner, grader, workers, context, python)
        opening.callback(job.engine.close)
        opening.pop_all()
    job.notes += described(run.learner, policy)
    if isinstance(library, str) and compute == "auto":
        job.notes.append(f"compiled kernels are not used: {library}")
    if run.learner.routing == "old" and method.update.steps == 1:
        job.notes.append("routing=old changes nothing here: a batch serves one optimiser step, so live routes are the old ones")
    return job


def _job(run: Run, folder: Path, task: Task, method: Method, learner: Learner, grader: Grader, workers: Workers | Ranks,
         context: int, python: str) -> Job:
    """The prompts, the engine and the sampler, around what is there."""
    sampling = Sampling(run.sampling.max_tokens, run.sampling.temperature, stop=run.sampling.stop)
    policy = learner.policy
    given = {"training": task.train, "held-out": task.heldout[: run.eval_prompts]}
    prompts, heldout = (_fitting(run, part, policy, context) for part in given.values())
    if run.max_staleness:
        check_ahead(run, method)
    workers.wait()  # before the engine, whose proof asks all of them
    if python:
        engine: Native = vllm_of(run, learner, python, [p.tokens for p in prompts], [p.tokens for p in heldout],
                                 0 if task.environment is None else context)
    else:
        engine = native_of(run, learner, workers)
    sampler = Sampler(method, engine, grader, policy, prompts, sampling, prompts_per_step=run.prompts_per_step,
                      group_size=run.group_size, seed=run.seed, environment=task.environment, learner=learner,
                      context_limit=context)
    notes = [*task.notes, *preview(prompts[0], run.template, policy, sampling.stop)]
    for (what, part), kept in zip(given.items(), (prompts, heldout), strict=True):
        if lost := len(part) - len(kept):
            notes.append(f"{lost} of {len(part)} {what} prompts are too long and left out")
    if isinstance(engine, Whole | VLLM):
        notes.append(engine.note)
    watch = Watch(run, rates(run, method), scale_of(adapter.trained(policy.model).values()))
    return Job(run, folder, replace(task, train=prompts), heldout, method, policy, learner, engine, sampler, grader, workers,
               method.state(), sampling, notes, watch)


def form_of(run: Run) -> Template:
    """The template of a run, with its system message and its thinking."""
    return template(run.template, run.system, run.thinking)


def _fitting(run: Run, prompts: Sequence[Prompt], policy: Policy, context: int) -> list[Prompt]:
    """The prompts with their tokens, without overlong ones if that is wanted. DataError: none is left."""
    limit = context - run.sampling.max_tokens + 1
    limit = min(limit, run.max_prompt_tokens + 1) if run.max_prompt_tokens else limit
    found = fill(prompts, policy.tokenizer, form_of(run), limit, run.overlong_prompts)
    rows, most = policy.model.get_input_embeddings().weight.shape[0], max((max(p.tokens) for p in found), default=0)
    if most >= rows:
        raise ConfigError(f"the tokenizer gives the id {most}, and the model knows {rows} tokens: they do not belong together; "
                          "take both from one source")
    if not found:
        raise DataError(f"all {len(prompts)} prompts of a part of task {run.task!r} have more than {limit - 1} tokens: nothing "
                        "is left; lower max_tokens or raise max_prompt_tokens")
    return found


def _filled(run: Run, task: Task, policy: Policy, device: str, library: Library | str, form: Template) -> Run:
    """The settings with everything that was left to the task, the model or the machine filled in."""
    kernels, parameters = isinstance(library, Library), sum(p.numel() for p in policy.model.parameters())
    if run.learner.quantise != "none" or (run.max_staleness and not run.learner.workers):
        run = replace(run, learner=replace(run.learner, workers=1))
    if run.learner.parallel == "fsdp2":
        run = replace(run, learner=replace(run.learner, ranks=number(run.learner.ranks, device)))
    run = with_threads(run, parameters, kernels, device)
    torch.set_num_threads(run.learner.threads if parameters >= SMALL or not kernels else 1)
    sampling = replace(run.sampling, max_tokens=run.sampling.max_tokens or task.max_tokens,
                       stop=run.sampling.stop or form.stop)
    usual = 16384 if device != "cpu" else 2 * CHUNK_ROWS * max(2, run.learner.threads) if kernels else 1024
    micro = run.learner.micro_tokens or usual
    dtype = run.learner.dtype
    if dtype == "auto":
        dtype = "bfloat16" if isinstance(library, Library) and library.kind.narrow else run.learner.weights
    learner = replace(run.learner, device=device, micro_tokens=micro, dtype=dtype)
    return replace(run, sampling=sampling, learner=learner)


def meta(job: Job) -> Mapping[str, Any]:
    """What a run file says besides its settings: versions, the name of the equation, the device."""
    return {"groupwise": groupwise.__version__, "torch": torch.__version__, "transformers": transformers.__version__,
            "objective": job.method.objective.hash, "device": str(job.learner.device), "threads": job.run.learner.threads,
            "workers": job.run.learner.workers, "ranks": job.run.learner.ranks or 1,
            "compute": compute_of(job)}


def compute_of(job: Job) -> str:
    """Who computes: the kind of the kernels, or the model's modules and whose products they take."""
    if isinstance(job.learner.scorer, KernelScorer):
        return job.learner.scorer.compiled.name
    quick = any(isinstance(module, Linear) for module in job.policy.model.modules())
    return "modules, products by oneDNN" if quick else "modules"
