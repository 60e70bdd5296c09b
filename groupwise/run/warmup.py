"""A supervised warm start: a small random policy learns from a task's demonstrations, enough to be worth training further.

    groupwise warmup --out FOLDER

with its defaults makes the base policy of the embedded task that is shipped with the package. Seeded; on another machine
the last bits differ.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from groupwise.core.rollout import Completion, Context, Episode, Group, Prompt, Rollout, Span, Turn
from groupwise.core.services import Sampling
from groupwise.core.verdict import Verdict
from groupwise.engines.native import Native
from groupwise.errors import ConfigError, nearest
from groupwise.learner.learner import Learner, Settings
from groupwise.models.build import character_tokenizer, random_policy
from groupwise.models.load import Policy, load, policy_of, save
from groupwise.models.template import encode, fill
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.batch import pack
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Supervised
from groupwise.run.assemble import compiler, engine_of, kernels_of
from groupwise.run.disk import write_json
from groupwise.run.evaluate import evaluate
from groupwise.run.grade import Grader
from groupwise.run.machine import MAX_THREADS, cores
from groupwise.run.settings import Words
from groupwise.run.toml import plain
from groupwise.tasks import DEMONSTRATIONS, make
from groupwise.tasks.task import Task


@dataclass(frozen=True)
class Warmup:
    """Settings of a warm start; the defaults are those of the embedded base policy."""

    out: Path
    """Folder to write the policy to; must not exist."""
    task: str = "reduce"
    """Task whose demonstrations are learnt; its held-out prompts are left out."""
    steps: int = 900
    """Optimiser steps."""
    tokens: int = 3072
    """Prompt and completion tokens of one step."""
    lr: float = 1.5e-3
    """Learning rate at its highest: it rises for 100 steps, then falls linearly."""
    floor: float = 0.2
    """The share of the learning rate that it never falls below: a policy that is not annealed has more left to learn."""
    task_args: Words = field(default_factory=dict)
    """Arguments of the task and of its demonstrations, such as kmin=10 kmax=15."""
    start: str = ""
    """Folder of a policy to go on from; empty: a random one, of the sizes below."""
    family: str = "qwen2"
    """Architecture of a random policy: llama, qwen2, qwen3, ..."""
    hidden: int = 256
    """Width of the policy."""
    layers: int = 4
    """Layers of the policy."""
    heads: int = 4
    """Attention heads; half as many key-value heads."""
    mlp: int = 512
    """Width of the feed-forward blocks."""
    seed: int = 0
    """Seed of the weights and of the demonstrations."""
    threads: int = 0
    """Processor threads; 0: all cores up to 16 with kernels, else 1."""
    compute: Literal["auto", "kernels", "modules"] = "auto"
    """Who runs the model: compiled kernels, where they can be built, or the model's own modules."""


OBJECTIVE = Objective(credit_by=Advantage(), terms=(Supervised(aggregate=TokenMean()),))


def warmup(settings: Warmup, *, every: int = 50) -> Path:
    """Train and save; prints the loss now and then. Returns the folder."""
    if settings.out.exists():
        raise ConfigError(f"{settings.out} exists already: choose another --out, or remove it")
    if settings.task not in DEMONSTRATIONS:
        raise ConfigError(f"task {settings.task!r} has no demonstrations; {nearest(settings.task, DEMONSTRATIONS)}")
    policy = load(settings.start) if settings.start else _random(settings)
    tokenizer, library = policy.tokenizer, kernels_of(settings.compute, policy, "cpu")
    threads = settings.threads or (1 if isinstance(library, str) else min(cores(), MAX_THREADS))
    torch.set_num_threads(threads if isinstance(library, str) else 1)
    compile = compiler(library, threads, "auto")
    learner = Learner(policy, Settings(lr=settings.lr, schedule="linear", warmup_steps=min(100, settings.steps // 4),
                                       total_steps=settings.steps, floor=settings.floor, weight_decay=0.01, betas=(0.9, 0.98),
                                       micro_tokens=1024 if isinstance(library, str) else 2048),
                      compile=compile)
    args, task = plain(settings.task_args), make(settings.task, plain(settings.task_args))
    heldout = frozenset(p.text for p in task.heldout)
    traces = (_trace(encode(tokenizer, "none", prompt), (*encode(tokenizer, "none", completion), policy.eos_ids[0]), i)
              for i, (prompt, completion) in enumerate(DEMONSTRATIONS[settings.task](settings.seed, exclude=heldout, **args)))
    for step in range(settings.steps):
        batch = pack(list(_fill(traces, settings.tokens)), default="unknown")
        stats = learner.gradients(OBJECTIVE.weigh(batch), OBJECTIVE) | learner.apply()
        if step % every == 0 or step == settings.steps - 1:
            print(f"step {step}: loss {stats['loss']:.4f}, gradient norm {stats['grad_norm']:.3f}", flush=True)
    save(policy, settings.out, torch.bfloat16)
    saved = load(settings.out)
    found = measure(engine_of(saved, compile(saved.model) if compile else None), task)
    write_json(settings.out / "warmup.json", {"settings": asdict(settings) | {"out": settings.out.name}, "measured": found})
    greedy = found["greedy"]["value"]
    print(f"greedy {greedy:.1%}, pass@1 {found['pass@1']:.1%}, pass@8 {found['pass@8']:.1%} on held-out prompts")
    return settings.out


def _random(settings: Warmup) -> Policy:
    tokenizer = character_tokenizer()
    return policy_of(random_policy(tokenizer, family=settings.family, hidden=settings.hidden, layers=settings.layers,
                                   heads=settings.heads, kv_heads=max(1, settings.heads // 2), mlp=settings.mlp,
                                   seed=settings.seed), tokenizer)


def measure(engine: Native, task: Task, *, prompts: int = 200, seed: int = 0) -> dict[str, Any]:
    """Held-out greedy accuracy with its interval, and pass@1 and pass@8 of samples at temperature 1 on the first prompts."""
    policy = engine.policy
    heldout = fill(task.heldout, policy.tokenizer, task.template, 2**31)
    sampling = Sampling(max_tokens=task.max_tokens)
    with Grader(task.verifier) as grader:
        grade = grader.answers(policy)
        greedy = evaluate(engine, heldout, grade, sampling.greedy(), seed=seed)
        sampled = evaluate(engine, heldout[:prompts], grade, sampling, seed=seed, samples=8)
    return {"greedy": greedy.row(), "sampled": sampled.row(), "pass@1": sampled.pass_at(1), "pass@8": sampled.pass_at(8)}


def _trace(context: tuple[int, ...], tokens: tuple[int, ...], index: int) -> Group:
    """One demonstration as a group of one rollout that a teacher wrote."""
    prompt = Prompt(id=f"demonstration/{index}", text="", answer=None, tokens=context)
    spans = (Span(0, len(tokens), "teacher", "unknown"),)
    turn = Turn(Context(context), Completion(tokens, (float("nan"),) * len(tokens)), spans)
    return Group(prompt.id, prompt, (Rollout(Episode(prompt, (turn,)), Verdict(correct=True)),))


def _fill(traces: Iterator[Group], tokens: int) -> Iterator[Group]:
    """Demonstrations until their tokens reach a number."""
    while tokens > 0:
        group = next(traces)
        tokens -= len(group.prompt.tokens) + group.rollouts[0].episode.length
        yield group
