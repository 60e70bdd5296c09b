"""A supervised warm start: a policy learns from traces, enough to be worth training further.

    groupwise warmup --out FOLDER --start MODEL --traces FILE.jsonl      a model of one's own, on one's own traces
    groupwise warmup --out FOLDER --traces FILE.jsonl --hidden 256 ...    a random one, with a tokenizer learnt from the traces
    groupwise warmup --out FOLDER                                         a task's demonstrations

The last, with its defaults, makes the base policy of the embedded task that is shipped with the package. Seeded; on another
machine the last bits differ.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from groupwise.core.rollout import Group
from groupwise.core.services import Sampling
from groupwise.engines.native import Native
from groupwise.errors import ConfigError, DataError, nearest
from groupwise.learner.learner import Learner
from groupwise.learner.settings import Compile, Settings
from groupwise.models.build import byte_pair_tokenizer, character_tokenizer, random_policy
from groupwise.models.load import Policy, context_limit, load, policy_of, save
from groupwise.models.template import encode, fill, template
from groupwise.models.worked import end_id
from groupwise.run import supervised
from groupwise.run.compute import compiler, engine_of, kernels_of
from groupwise.run.disk import write_json
from groupwise.run.evaluate import evaluate
from groupwise.run.grade import Grader
from groupwise.run.machine import MAX_THREADS, cores
from groupwise.run.settings import Words
from groupwise.run.supervised import Example
from groupwise.run.toml import plain
from groupwise.tasks import DEMONSTRATIONS, make
from groupwise.tasks.task import Task
from groupwise.tasks.traces import Trace, held_out, read

EMBEDDED_STEPS = 900
EVERY = 50
"""Steps between two lines on the console."""


@dataclass(frozen=True)
class Warmup:
    """Settings of a warm start; the defaults are those of the embedded base policy."""

    out: Path
    """Folder to write the policy to; must not exist."""
    traces: str = ""
    """JSONL file of problems with worked completions to learn from; empty: the demonstrations of `task`."""
    column: str = ""
    """Field of the file that holds the completion; empty: completion, response, solution or messages."""
    template: str = ""
    """How a problem is put to the policy, as in training; empty: none."""
    epochs: float = 3.0
    """How often every trace is learnt from (if `steps` is 0)."""
    heldout: float = 0.05
    """The share of the traces that is not learnt from, for the held-out loss (unless a `split` field says which)."""
    overlong: Literal["drop", "refuse"] = "drop"
    """What becomes of traces that the policy's context cannot hold; they are never cut."""
    task: str = "reduce"
    """Task whose demonstrations are learnt where there are no traces; its held-out prompts are left out."""
    steps: int = 0
    """Optimiser steps; 0: 900 on demonstrations, as many as the epochs take on traces."""
    tokens: int = 3072
    """Prompt and completion tokens of one step."""
    lr: float = 0.0
    """Learning rate at its highest: it rises for 100 steps, then falls. 0: 1e-5 from a model on traces, else 1.5e-3."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls."""
    floor: float = 0.2
    """The share of the learning rate that it never falls below: a policy that is not annealed has more left to learn."""
    task_args: Words = field(default_factory=dict)
    """Arguments of the task and of its demonstrations, such as kmin=10 kmax=15."""
    start: str = ""
    """Folder or hub name of a policy to go on from; empty: a random one, of the sizes below."""
    family: str = "qwen2"
    """Architecture of a random policy: llama, qwen2, qwen3, ..."""
    vocabulary: int = 4096
    """Tokens of a random policy on traces: byte pairs learnt from them; rows that these do not fill are left unused."""
    context: int = 512
    """Positions of a random policy."""
    hidden: int = 256
    """Width of the policy."""
    layers: int = 4
    """Layers of the policy."""
    heads: int = 4
    """Attention heads; half as many key-value heads."""
    mlp: int = 512
    """Width of the feed-forward blocks."""
    seed: int = 0
    """Seed of the weights, and of the order of traces or demonstrations."""
    threads: int = 0
    """Processor threads; 0: all cores up to 16 with kernels, else 1."""
    compute: Literal["auto", "kernels", "modules"] = "auto"
    """Who runs the model: compiled kernels, where they can be built, or the model's own modules."""
    device: str = "cpu"
    """cpu, or a CUDA device such as cuda."""
    micro_tokens: int = 0
    """Tokens of one forward and backward pass; 0: 1024 (2048 in kernels, 16384 on a GPU)."""
    store: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the saved weights; auto: float32 from traces, bfloat16 from demonstrations."""


def warmup(settings: Warmup, *, every: int = EVERY) -> Path:
    """Train and save; prints the loss now and then. Returns the folder, in which `warmup.json` holds what was measured."""
    if settings.out.exists():
        raise ConfigError(f"{settings.out} exists already: choose another --out, or remove it")
    sizes = ("tokens", "context", "hidden", "layers", "heads", "mlp")
    if small := [name for name in sizes if getattr(settings, name) < 1]:
        raise ConfigError(f"{small[0]} must be at least 1, got {getattr(settings, small[0])}")
    if not settings.epochs > 0.0 or settings.steps < 0 or not 0.0 <= settings.lr < 1.0:
        raise ConfigError("epochs must be above 0, steps at least 0 and lr in [0, 1), got "
                          f"{settings.epochs}, {settings.steps} and {settings.lr}")
    template(settings.template or "none")
    transformers.utils.logging.disable_progress_bar()
    return _from_traces(settings, every) if settings.traces else _from_demonstrations(settings, every)


def _from_demonstrations(settings: Warmup, every: int) -> Path:
    """The embedded way: a task's own endless demonstrations, judged by the task."""
    if settings.task not in DEMONSTRATIONS:
        raise ConfigError(f"task {settings.task!r} has no demonstrations; {nearest(settings.task, DEMONSTRATIONS)}; or give "
                          "--traces FILE.jsonl")
    settings = replace(settings, steps=settings.steps or EMBEDDED_STEPS, lr=settings.lr or 1.5e-3)
    policy = load(settings.start) if settings.start else _random(settings, character_tokenizer())
    learner, compile = _learner(settings, policy, settings.steps)
    args, task = plain(settings.task_args), make(settings.task, plain(settings.task_args))
    heldout = frozenset(p.text for p in task.heldout)
    tokenizer, end = policy.tokenizer, policy.eos_ids[0]
    traces = (supervised.group_of(Example(encode(tokenizer, "none", prompt), (*encode(tokenizer, "none", completion), end)), i)
              for i, (prompt, completion) in enumerate(DEMONSTRATIONS[settings.task](settings.seed, exclude=heldout, **args)))
    for step in range(settings.steps):
        stats = supervised.step(learner, list(_fill(traces, settings.tokens)))
        _say(step, settings.steps, stats, every)
    save(policy, settings.out, torch.float32 if settings.store == "float32" else torch.bfloat16)
    saved = load(settings.out)
    found = measure(engine_of(saved, compile(saved.model) if compile else None), task)
    write_json(settings.out / "warmup.json", {"settings": _shown(settings), "measured": found})
    greedy = found["greedy"]["value"]
    print(f"greedy {greedy:.1%}, pass@1 {found['pass@1']:.1%}, pass@8 {found['pass@8']:.1%} on held-out prompts")
    return settings.out


def _from_traces(settings: Warmup, every: int) -> Path:
    """Traces of a file: shuffled, learnt for some epochs, judged by the loss on those held out."""
    train, apart = held_out(read(settings.traces, settings.column), settings.heldout, settings.seed)
    if settings.start:
        policy = load(settings.start, device=settings.device)
    else:
        policy = _random(settings, byte_pair_tokenizer(_texts(train), settings.vocabulary))
        policy.model.to(settings.device)
    settings = replace(settings, lr=settings.lr or (1e-5 if settings.start else 1.5e-3), template=settings.template or "none")
    examples, heldout, counts = _encoded(settings, policy, train, apart)
    plan = supervised.batches(examples, settings.tokens, settings.epochs, settings.steps, settings.seed)
    learner, _ = _learner(settings, policy, len(plan))
    size = sum(p.numel() for p in policy.model.parameters())
    print(f"{size / 1e6:.2f}M parameters, {len(policy.tokenizer)} tokens; {len(examples)} traces to learn from, {len(heldout)} "
          f"held out; {len(plan)} steps of {settings.tokens} tokens", flush=True)
    before = supervised.loss(learner, heldout)
    for step, members in enumerate(plan):
        stats = supervised.step(learner, [supervised.group_of(examples[i], i) for i in members])
        _say(step, len(plan), stats, every)
        if heldout and (step + 1) % (10 * every) == 0 and step + 1 < len(plan):
            print(f"held-out loss {supervised.loss(learner, heldout):.4f}", flush=True)
    found: dict[str, Any] = {**counts, "steps": len(plan), "parameters": size, "vocabulary": len(policy.tokenizer)}
    if heldout:
        found |= {"heldout_loss_before": before, "heldout_loss": supervised.loss(learner, heldout)}
        print(f"held-out loss {before:.4f} before, {found['heldout_loss']:.4f} after, in nats per token of a completion")
    save(policy, settings.out, torch.bfloat16 if settings.store == "bfloat16" else None)
    write_json(settings.out / "warmup.json", {"settings": _shown(settings), "measured": found})
    return settings.out


def _encoded(settings: Warmup, policy: Policy, train: list[Trace],
             apart: list[Trace]) -> tuple[list[Example], list[Example], dict[str, int]]:
    """Both parts as tokens, and their counts. DataError: traces that are too long where that is refused, or nothing is left."""
    limit, form = context_limit(policy.model.config) or 2**31, template(settings.template)
    end = end_id(policy, form)
    parts = [supervised.encoded(policy, form, part, end, limit) for part in (train, apart)]
    (examples, long), (heldout, more) = parts
    if long + more:
        said = f"{long + more} of {len(train) + len(apart)} traces are longer than the {limit} tokens that the policy can hold"
        if settings.overlong == "refuse" or not examples:
            raise DataError(f"{said}: shorten them, or take another model (a random one: --context)"
                            + ("" if settings.overlong == "drop" else ", or leave them out with --overlong drop"))
        print(f"{said} and are left out", flush=True)
    return examples, heldout, {"learnt": len(examples), "heldout": len(heldout), "too_long": long + more}


def _texts(traces: list[Trace]) -> Iterator[str]:
    """What a tokenizer is learnt from."""
    for trace in traces:
        yield from ([trace.asked] if isinstance(trace.asked, str) else [m["content"] for m in trace.asked])
        yield trace.completion


def _learner(settings: Warmup, policy: Policy, steps: int) -> tuple[Learner, Compile | None]:
    """The learner of a warm start of so many steps, and what puts a model into kernels, if they are used."""
    library = kernels_of(settings.compute, policy, settings.device)
    modules = isinstance(library, str)
    threads = settings.threads or (1 if modules else min(cores(), MAX_THREADS))
    torch.set_num_threads(threads if modules else 1)
    compile = compiler(library, threads, "auto")
    micro = settings.micro_tokens or (16384 if settings.device != "cpu" else 1024 if modules else 2048)
    return Learner(policy, Settings(lr=settings.lr, schedule=settings.schedule, warmup_steps=min(100, steps // 4),
                                    total_steps=steps, floor=settings.floor, weight_decay=0.01, betas=(0.9, 0.98),
                                    micro_tokens=micro),
                   compile=compile), compile


def _random(settings: Warmup, tokenizer: transformers.PreTrainedTokenizerBase) -> Policy:
    return policy_of(random_policy(tokenizer, family=settings.family, hidden=settings.hidden, layers=settings.layers,
                                   heads=settings.heads, kv_heads=max(1, settings.heads // 2), mlp=settings.mlp,
                                   context=settings.context, vocabulary=settings.vocabulary if settings.traces else 0,
                                   seed=settings.seed), tokenizer)


def _say(step: int, steps: int, stats: dict[str, float], every: int) -> None:
    if step % every == 0 or step == steps - 1:
        print(f"step {step}: loss {stats['loss']:.4f}, gradient norm {stats['grad_norm']:.3f}", flush=True)


def _shown(settings: Warmup) -> dict[str, Any]:
    return asdict(settings) | {"out": settings.out.name}


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


def _fill(traces: Iterator[Group], tokens: int) -> Iterator[Group]:
    """Demonstrations until their tokens reach a number."""
    while tokens > 0:
        group = next(traces)
        tokens -= len(group.prompt.tokens) + group.rollouts[0].episode.length
        yield group
