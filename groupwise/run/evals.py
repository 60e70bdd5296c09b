"""Which models an evaluation asks what: models, benchmarks, and the hashes that they are known by. All before any work."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import transformers

import groupwise
from groupwise.core.rollout import Prompt
from groupwise.errors import ConfigError, nearest
from groupwise.learner.checkpoint import MODEL, weights
from groupwise.models.load import check_source
from groupwise.models.template import spelled
from groupwise.run.config import from_toml
from groupwise.run.eval_settings import EVERY_TEMPLATE, SILENT, Eval
from groupwise.run.learner_settings import LearnerSettings
from groupwise.run.machine import device_of
from groupwise.run.settings import Run
from groupwise.tasks import BENCHMARKS, TASKS, benchmark, make
from groupwise.tasks.columns import prompt_of
from groupwise.tasks.data import SUFFIXES, rows
from groupwise.tasks.task import Task
from groupwise.verify import check_name

BASE, ALL = "base", "all"


@dataclass(frozen=True)
class Subject:
    """A model that is asked: the word that asks for it, its name in reports, where its weights lie, and the run that made it,
    with the folder of adapters that its checkpoint holds instead of weights.
    """

    word: str
    name: str
    source: str | Path
    run: Run | None = None
    adapters: Path | None = None


@dataclass(frozen=True)
class Benchmark:
    """Problems with the names of what grades and renders them."""

    name: str
    prompts: Sequence[Prompt]
    verifier: str
    template: str
    max_tokens: int


def subjects(words: Sequence[str]) -> list[Subject]:
    """The models of some words, each once, by the names of their folders where these tell them apart. ConfigError: there is none
    such.
    """
    found = [one for word in dict.fromkeys(words) for one in _of_word(word)]
    short = [Path(one.name).name for one in found]
    return [replace(one, name=name if short.count(name) == 1 else one.name) for one, name in zip(found, short, strict=True)]


def _of_word(word: str) -> Iterator[Subject]:
    name, _, which = word.partition("@")
    folder = next((f for f in (Path(name), Path("runs") / name) if (f / "run.toml").is_file()), None)
    if folder is None:
        if not Path(word).is_dir() and "/" not in word:
            known = [path.parent.name for path in Path("runs").glob("*/run.toml")]
            raise ConfigError(f"there is no model folder, hub id (owner/name) or run {word!r}; "
                              f"{nearest(name, known) if known else 'there are no runs here yet'}")
        check_source(word)
        yield Subject(word, word, word)
        return
    run = from_toml((folder / "run.toml").read_text(encoding="utf-8"), str(folder / "run.toml"))
    kept = {int(path.name.removeprefix("step-")): path for path in sorted((folder / "checkpoints").glob("step-*"))}
    if (which == ALL and kept) or (which.isdecimal() and int(which) in kept):
        for step in kept if which == ALL else (int(which),):
            found = weights(kept[step])
            adapters = None if found.name == MODEL else found
            yield Subject(word, f"{name}@{step}", folder / BASE if adapters else found, run, adapters)
    elif which in ("", BASE) and (folder / (which or MODEL)).is_dir():
        yield Subject(word, word, folder / (which or MODEL), run)
    else:
        there = [part for part in (BASE, MODEL) if (folder / part).is_dir()]
        raise ConfigError(f"run {name!r} has no {which or 'trained model yet'}; it has {', '.join(there) or 'no model'} and the "
                          f"checkpoints {', '.join(map(str, kept)) or 'none'}: give {name}@STEP, {name}@all or {name}@base")


def benchmarks(own: Eval, asked: Sequence[Subject]) -> list[Benchmark]:
    """The benchmarks, with their first `limit` problems. ConfigError or DataError: one cannot be read."""
    runs = [one.run for one in asked if one.run is not None]
    if not own.benchmarks and not runs:
        raise ConfigError(f"give --benchmarks: names ({', '.join(BENCHMARKS)}), NAME=FILE, or files")
    words = own.benchmarks or (runs[0].task,)
    found = [_benchmark(word, own, runs[0] if runs and not own.benchmarks else None) for word in words]
    if twice := [name for name in {b.name for b in found} if sum(b.name == name for b in found) > 1]:
        raise ConfigError(f"two benchmarks are called {twice[0]!r}: give one another name, as NAME=FILE")
    return [replace(one, prompts=one.prompts[:own.limit] if own.limit else one.prompts) for one in found]


def _benchmark(word: str, own: Eval, run: Run | None) -> Benchmark:
    """The benchmark of a word; of a run its held-out part."""
    name, equals, file = word.partition("=")
    if run is not None:
        task = make(run.task, run.task_args)
    elif name in BENCHMARKS:
        task = benchmark(name, file or None, part=own.part)
    elif name not in TASKS and (equals or word.endswith(SUFFIXES)):
        title = name if equals else Path(word).stem
        task = Task(title, (), [prompt_of(title, row) for row in rows(file or word)], "math", max_tokens=512)
    else:
        task = make(name if equals else word, {"path": file} if equals else {})
    if task.environment is not None:
        raise ConfigError(f"benchmark {word!r} has several turns, and an evaluation asks one")
    if not task.heldout:
        raise ConfigError(f"benchmark {word!r} holds no problem")
    return Benchmark(task.name, task.heldout, task.verifier, task.template, task.max_tokens)


def templates(own: Eval, one: Benchmark, usual: str = "") -> list[str]:
    """The templates that a benchmark is put by; `usual` is the run's."""
    given = own.templates or (usual or one.template,)
    return list(dict.fromkeys(spelled(name) for word in given for name in (EVERY_TEMPLATE if word == ALL else (word,))))


def verifier_of(words: Sequence[str], usual: str, template: str) -> str:
    """Who grades the answers under a template: what `words` say, else the usual one. ConfigError: an unknown name."""
    for word in words:
        name, equals, own = word.partition("=")
        if equals and name == template:
            usual = own
        elif not equals:
            usual = word
    check_name(usual)
    return usual


def described(own: Eval, asked: Sequence[Subject], given: Sequence[Benchmark]) -> dict[str, Any]:
    """All that the answers depend on, as JSON values: what a folder of answers is known by."""
    kept = {field.name for field in fields(own)} - SILENT - {"models", "benchmarks", "against"}
    device = device_of(Run(learner=LearnerSettings(device=own.device)))
    return {"settings": {name: value for name, value in asdict(own).items() if name in kept},
            "models": {one.name: fingerprint(one) for one in asked},
            "benchmarks": {one.name: {"problems": len(one.prompts), "sha256": _digest(_words(one.prompts)),
                                      "verifier": one.verifier} for one in given},
            "software": {"groupwise": groupwise.__version__, "torch": torch.__version__,
                         "transformers": transformers.__version__, "device": _device_name(device)}}


def differing(before: Mapping[str, Any], now: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """The entries in which two nested tables differ, in words."""
    for name in sorted({*before, *now}):
        a, b = before.get(name), now.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from differing(a, b, f"{where}{name}.")
        elif a != b:
            yield f"{where}{name} was {a!r} and is {b!r}"


def fingerprint(one: Subject) -> str:
    """A hash of a model folder's files (and of its adapters); of a hub name its commit."""
    if not Path(one.source).is_dir():
        config = transformers.AutoConfig.from_pretrained(str(one.source), trust_remote_code=False)
        return f"commit {getattr(config, '_commit_hash', None)}"
    files = [path for folder in (Path(one.source), one.adapters) if folder for path in sorted(folder.iterdir())
             if path.suffix in (".safetensors", ".json", ".jinja", ".model", ".txt") and path.name != "warmup.json"]
    return "sha256 " + _digest(part for path in files for part in (path.name.encode(), *_blocks(path)))


def verifier_version(name: str) -> str:
    """The package's version with a hash of its graders' sources, or of the file of a verifier of one's own."""
    own = Path(name.rpartition(":")[0])
    if own.is_file():
        return "sha256 " + _digest(_blocks(own))
    files = sorted(Path(groupwise.__file__).parent.joinpath("verify").rglob("*.py"))
    return f"groupwise {groupwise.__version__}, sources {_digest(b for path in files for b in _blocks(path))}"


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block


def _words(prompts: Sequence[Prompt]) -> Iterator[bytes]:
    for prompt in prompts:
        yield repr((prompt.id, prompt.text, prompt.answer, [dict(m) for m in prompt.messages])).encode("utf-8", "surrogatepass")


def _digest(parts: Any) -> str:
    made = hashlib.sha256()
    for part in parts:
        made.update(part)
    return made.hexdigest()[:16]


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
