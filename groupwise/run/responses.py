"""The answers of an evaluation on disk: asked for, written as they come, taken up again after an interruption, graded.

problems.jsonl    one line a problem of a benchmark: its text, its answer, what graders are told
responses.jsonl   one line an answer, in the order of the plan
verdicts.jsonl    one line an answer, in the same order; made anew from the two above
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from groupwise.core.keyed import fold
from groupwise.core.rollout import Context, Prompt
from groupwise.core.services import Request, Sampling
from groupwise.engines.native import Native
from groupwise.errors import CheckpointError, ConfigError, DataError
from groupwise.kernels.build import Library
from groupwise.models.load import Policy, load
from groupwise.models.template import OPENED, Template, decode, fill
from groupwise.run.compute import compiler, engine_of, kernels_of
from groupwise.run.disk import Journal, read_json, read_lines, write_json
from groupwise.run.eval_settings import Eval
from groupwise.run.evals import Subject
from groupwise.run.learner_settings import LearnerSettings
from groupwise.run.machine import device_of, with_threads
from groupwise.run.policy import policy_for
from groupwise.run.settings import Run
from groupwise.verify.pool import Item, Pool

PROBLEMS, RESPONSES, VERDICTS, ENGINES = "problems.jsonl", "responses.jsonl", "verdicts.jsonl", "engines.json"
OVERLONG = "overlong"
Row = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """One model's answers to one benchmark under one template, greedy or drawn: `samples` to each problem.

    `template` is its name, `form` the template itself; `prompts` carry no tokens.
    """

    subject: Subject
    template: str
    form: Template
    benchmark: str
    mode: str
    prompts: Sequence[Prompt]
    sampling: Sampling
    samples: int

    @property
    def name(self) -> dict[str, str]:
        """What a line says besides problem and sample."""
        return {"model": self.subject.name, "template": self.template, "benchmark": self.benchmark, "mode": self.mode}


@dataclass(frozen=True)
class Chunk:
    """Some problems of a part: what is asked at once and written at once."""

    asked: Asked
    prompts: Sequence[Prompt]

    def lines(self) -> list[Row]:
        """The beginnings of its lines."""
        return [{**self.asked.name, "id": p.id, "sample": s} for p in self.prompts for s in range(self.asked.samples)]


def chunks(plan: Sequence[Asked], most: int) -> Iterator[Chunk]:
    """The plan in pieces of about `most` answers; they do not depend on where an evaluation was interrupted."""
    for asked in plan:
        size = max(1, most // asked.samples)
        for start in range(0, len(asked.prompts), size):
            yield Chunk(asked, asked.prompts[start:start + size])


def respond(folder: Path, plan: Sequence[Asked], own: Eval, say: Say) -> None:
    """Ask for what is not in the folder yet. DataError: problems that are too long or cannot be put, before any model is loaded;
    CheckpointError: the answers in the folder are to another plan.
    """
    known, todo = {line["id"]: line for line in read_lines(folder / PROBLEMS)}, list(chunks(plan, own.max_rows))
    assert all(p.id in known for one in todo for p in one.prompts)
    with Journal(folder / RESPONSES) as journal:
        done = _taken_up(journal, todo)
        if done:
            say(f"{sum(len(one.lines()) for one in todo[:done])} answers are there already")
        current: tuple[str, Native] | None = None
        for chunk in todo[done:]:
            subject = chunk.asked.subject
            if current is None or current[0] != subject.name:
                current = None  # the last model's memory is free before the next one is loaded
                engine, what = opened(subject, own)
                say(f"{subject.name}: {what}")
                _same(folder / ENGINES, subject.name, what)
                current = subject.name, engine
            for row in _answers(chunk, current[1], own):
                journal.append(row)
            journal.sync()
            say(f"{' '.join(chunk.asked.name.values())}: {todo.index(chunk) + 1} of {len(todo)} parts")


def _taken_up(journal: Journal, todo: Sequence[Chunk]) -> int:
    """How many chunks are there whole; lines of one that is not are taken away."""
    lines = journal.path.read_bytes().split(b"\n")[:-1]
    held, at, done = read_lines(journal.path), 0, 0
    for chunk in todo:
        wanted = chunk.lines()
        found = [{key: line.get(key) for key in wanted[0]} for line in held[at:at + len(wanted)]]
        if found != wanted[:len(found)]:
            raise CheckpointError(f"{journal.path} holds answers to other questions (line {at + 1}): choose another --out")
        if len(found) < len(wanted):
            break
        at, done = at + len(wanted), done + 1
    if len(held) > at or journal.size() > sum(len(line) + 1 for line in lines):
        journal.truncate(sum(len(line) + 1 for line in lines[:at]))
    return done


def _answers(chunk: Chunk, engine: Native, own: Eval) -> Iterator[Row]:
    """The lines of a chunk."""
    asked, policy = chunk.asked, engine.policy
    filled = {p.id: p for p in fill(chunk.prompts, policy.tokenizer, asked.form, room(engine.context_limit, asked), "drop")}
    requests = [Request(Context(p.tokens), tuple(fold(own.seed, "eval", p.id, s) for s in range(asked.samples)), asked.sampling)
                for p in filled.values()]
    made = dict(zip(filled, engine.generate(requests), strict=True))
    for start in chunk.lines():
        if start["id"] not in made:
            yield start | {"text": "", "tokens": 0, "finish": OVERLONG}
            continue
        one = made[start["id"]][start["sample"]]
        opening = {"opened": True} if "opened" in filled[start["id"]].meta else {}
        yield start | opening | {"text": decode(policy.tokenizer, one.tokens, policy.eos_ids), "tokens": len(one.tokens),
                                 "finish": one.finish}


def room(context: int | None, asked: Asked) -> int:
    """The tokens that a prompt may not reach. ConfigError: no prompt has any room."""
    limit = (context or 2**31) - asked.sampling.max_tokens + 1
    if limit <= 1:
        raise ConfigError(f"model {asked.subject.name!r} holds {context} positions and max_tokens={asked.sampling.max_tokens}, "
                          "which leaves no room for a problem: lower --max-tokens")
    return limit


def check(plan: Sequence[Asked], tokenizers: Mapping[str, tuple[Any, int | None]], own: Eval) -> list[str]:
    """Put every problem by every template, with the tokenizers and positions of the models. Returns notes on overlong problems;
    raises DataError where they, or others, cannot be asked.
    """
    notes: list[str] = []
    for asked in plan:
        tokenizer, context = tokenizers[asked.subject.name]
        asked.form.check(tokenizer)
        try:
            kept = fill(asked.prompts, tokenizer, asked.form, room(context, asked),
                        "drop" if own.overlong == "wrong" else "refuse")
        except DataError as error:
            advice = str(error).replace("overlong_prompts=drop", "--overlong wrong, which counts them as wrong")
            raise DataError(f"benchmark {asked.benchmark!r}: {advice}") from error
        if lost := len(asked.prompts) - len(kept):
            notes.append(f"{asked.benchmark}, {asked.subject.name}, {asked.template}: {lost} problems leave no room to answer "
                         "and count as wrong")
    return list(dict.fromkeys(notes))


def _same(file: Path, model: str, what: str) -> None:
    """Note who computes a model's answers; CheckpointError if it was somebody else before: the answers would be of two kinds."""
    known = read_json(file) if file.is_file() else {}
    if known.setdefault(model, what) != what:
        raise CheckpointError(f"the answers of {model!r} so far were made by {known[model]}, and now it is {what}: go on where "
                              "they were begun, or choose another --out")
    write_json(file, known)


def opened(subject: Subject, own: Eval) -> tuple[Native, str]:
    """The engine of a model, in the format and on the device that the settings say, and what computes in it."""
    device = device_of(Run(learner=LearnerSettings(device=own.device)))
    narrow = own.dtype == "bfloat16" or (own.dtype == "auto" and device != "cpu")
    policy = _policy(subject, device, torch.bfloat16 if narrow and device != "cpu" else torch.float32)
    library: Library | str = "adapters" if subject.adapters else kernels_of(
        "modules" if own.truncates and own.compute == "auto" else own.compute, policy, device)
    modules = isinstance(library, str)
    if modules and narrow and device == "cpu":
        policy.model.to(torch.bfloat16)
    size = sum(p.numel() for p in policy.model.parameters())
    alone = Run(learner=LearnerSettings(threads=own.threads, workers=1))
    threads = with_threads(alone, size, not modules, device).learner.threads
    torch.set_num_threads(threads if modules else 1)
    made = compiler(library, threads, own.dtype)
    compiled = made(policy.model) if made else None
    engine = engine_of(policy, compiled)
    engine.max_rows = own.max_rows
    what = f"kernels {compiled.name}" if compiled else f"modules in {str(policy.model.dtype).removeprefix('torch.')}"
    return engine, f"{size / 1e6:.2f}M parameters, {what}, {device}"


def _policy(subject: Subject, device: str, dtype: torch.dtype) -> Policy:
    if subject.adapters is None or subject.run is None:
        return load(subject.source, dtype=dtype, device=device)
    return policy_for(subject.run.learner, subject.source, subject.adapters, device=device, seed=subject.run.seed,
                      home=str(Path(subject.source).resolve()))


def problem_line(benchmark: str, prompt: Prompt) -> Row:
    """A problem as it is kept."""
    return {"benchmark": benchmark, "id": prompt.id, "text": prompt.text, "answer": prompt.answer, "meta": dict(prompt.meta)}


def ready(verifiers: Iterable[str]) -> None:
    """VerifierError if one of the verifiers cannot be started: better now than when all answers are there."""
    for name in sorted(set(verifiers)):
        Pool(name).close()


def grade(folder: Path, own: Eval, verifiers: Mapping[tuple[str, str], str], say: Say) -> list[Row]:
    """Verdicts on all answers of a folder, one line for each, by the verifier of each (benchmark, template)."""
    problems = {(line["benchmark"], line["id"]): line for line in read_lines(folder / PROBLEMS)}
    answers = read_lines(folder / RESPONSES)
    verdicts: list[Row] = [{} for _ in answers]
    for verifier in sorted(set(verifiers.values())):
        chosen = [i for i, a in enumerate(answers)
                  if verifiers[a["benchmark"], a["template"]] == verifier and a["finish"] != OVERLONG]
        with Pool(verifier, workers=own.verify_workers, deadline=own.verify_deadline) as pool:
            graded = pool.grade([_item(answers[i], problems[answers[i]["benchmark"], answers[i]["id"]]) for i in chosen])
            for message, times in pool.problems.items():
                say(f"grading by {verifier}: {message} ({times} times)")
        for i, one in zip(chosen, graded, strict=True):
            verdicts[i] = asdict(one.verdict)
    missed = {"correct": False, "kind": OVERLONG, "tier": "", "extracted": None, "seconds": 0.0}
    keys = ("model", "template", "benchmark", "mode", "id", "sample")
    return [{key: a[key] for key in keys} | (verdict or missed) for a, verdict in zip(answers, verdicts, strict=True)]


def _item(answer: Row, problem: Row) -> Item:
    meta = problem["meta"] | ({"opened": OPENED} if answer.get("opened") else {})
    return Item(answer["id"], answer["text"], problem["answer"], MappingProxyType(meta), answer["finish"], problem["text"],
                answer["tokens"])


def named(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts with ids that tell them apart."""
    seen: dict[str, int] = {}
    out = []
    for one in prompts:
        seen[one.id] = seen.get(one.id, 0) + 1
        out.append(one if seen[one.id] == 1 else replace(one, id=f"{one.id}#{seen[one.id]}"))
    return out
