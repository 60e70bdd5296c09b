"""The arms of a comparison: from words to settings, what differs between them, and the name that a run is known by.

grpo                  a shipped method
mine.py:mine          a method of one's own
recipe:small-dapo     a shipped recipe
mine.toml             a file of settings
grpo:kl=0,lr=1e-4     any of these with settings or arguments of the method changed
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

import groupwise
from groupwise.errors import ConfigError
from groupwise.methods.method import Method
from groupwise.run import recipes, toml
from groupwise.run.assemble import base_of
from groupwise.run.compose import method_of
from groupwise.run.config import flags, from_keywords, from_toml, from_words
from groupwise.run.equation import differences, equation
from groupwise.run.evals import Subject, fingerprint
from groupwise.run.settings import Run
from groupwise.tasks import make

METHOD = ("method", "method_args")
"""The settings that are the method; whatever else differs is something else."""
SILENT = frozenset({"name", "seed", "preflight", "trackers", "model"})
"""Settings that are not compared between arms: what changes nothing, what is matched by itself, and the folder of a base policy,
whose weights are compared instead.
"""


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: its name, its settings (of the first seed), its composition, and a hash of its base weights."""

    name: str
    run: Run
    method: Method
    base: str

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by their paths, as plain values."""
        return dict(_flat(toml.plain(toml.table_of(self.run))))


def arms(words: Sequence[str], shared: Sequence[str], default: Run) -> list[Arm]:
    """The arms of some words; `shared` are words of `groupwise train` that hold for all, over files and under an arm's own.

    ConfigError before any work: no such method, setting, file or model, or two arms that are the same.
    """
    found = [arm(word, shared, default) for word in words]
    for i, one in enumerate(found):
        for other in found[:i]:
            if one.settings == other.settings and one.base == other.base:
                raise ConfigError(f"the arms {other.name!r} and {one.name!r} are the same settings: give one an argument, as in "
                                  f"{one.run.method}:lr=1e-4")
    return found


def arm(word: str, shared: Sequence[str], default: Run) -> Arm:
    """The arm of a word."""
    where, changes = split(word)
    if where.startswith(recipes.PREFIX):
        run = from_toml(recipes.text_of(where.removeprefix(recipes.PREFIX)), where)
    elif where.endswith(".toml"):
        if not Path(where).is_file():
            raise ConfigError(f"arm {word!r}: there is no file {where}")
        run = from_toml(toml.text_of(Path(where)), where)
    else:
        kept = default.method_args if where == default.method else {}
        run = replace(default, method=where, method_args=kept)
    run = from_words(list(shared), run, "groupwise compare")
    names = {flag.removeprefix("--").replace("-", "_") for flag in flags()} - {"json", "config", "run"}
    if clash := [name for name in changes if name in ("method", "seed")]:
        raise ConfigError(f"arm {word!r} sets {clash[0]}: the method is the arm's first word, and seeds are the same for all "
                          f"arms")
    own = {name: value for name, value in changes.items() if name in names}
    arguments = {name: value for name, value in changes.items() if name not in names}
    run = from_keywords(own, replace(run, method_args={**run.method_args, **arguments}, name="", preflight="off", trackers=()))
    task = make(run.task, run.task_args)
    method = method_of(run, run.sampling.max_tokens or task.max_tokens)
    return Arm(word, run, method, fingerprint(Subject("", "", base_of(run))))


def split(word: str) -> tuple[str, dict[str, Any]]:
    """A word as what it begins from and what it changes.

    >>> split("mine.py:mine:kl=0.1,lora_targets=[q_proj, v_proj]")
    ('mine.py:mine', {'kl': 0.1, 'lora_targets': '[q_proj, v_proj]'})
    """
    found = re.fullmatch(r"(.+?)(?::([A-Za-z_]\w*=.*))?", word, re.DOTALL)
    if found is None:
        raise ConfigError(f"an arm is a method, recipe:NAME or FILE.toml, perhaps with :key=value,...; got {word!r}")
    changes = re.findall(r"(?:[^,\[\]{}\"]|\[[^\]]*\]|\{[^}]*\}|\"[^\"]*\")+", found[2] or "")
    return found[1], toml.parse_words(changes)


def _flat(table: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{where}{name}.")
        else:
            yield f"{where}{name}", value


@dataclass(frozen=True)
class Change:
    """A setting, or a field of the composition, with its value in every arm (None: not there)."""

    path: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Differences:
    """What differs between arms: settings of the method, its composition, and `other` settings, for which arms are not
    matched.
    """

    method: tuple[Change, ...]
    composition: tuple[Change, ...]
    other: tuple[Change, ...]


def differing(found: Sequence[Arm]) -> Differences:
    """What differs between arms."""
    settings = changes([one.settings for one in found])
    settings = [one for one in settings if one.path.partition(".")[0] not in SILENT]
    method = tuple(one for one in settings if one.path.partition(".")[0] in METHOD)
    other = [one for one in settings if one not in method]
    if len({one.base for one in found}) > 1:
        other.insert(0, Change("base weights", tuple(f"{one.run.model or one.run.task} ({one.base})" for one in found)))
    return Differences(method, tuple(changes([equation(one.method) for one in found])), tuple(other))


def changes(tables: Sequence[Mapping[str, Any]]) -> list[Change]:
    """The entries that are not the same in all tables, in the order of their first appearance."""
    paths = dict.fromkeys(path for table in tables for path in table)
    rows = [Change(path, tuple(table.get(path) for table in tables)) for path in paths]
    return [row for row in rows if any(value != row.values[0] for value in row.values)]


def apart(a: Arm, b: Arm) -> list[str]:
    """What differs between two arms in words, settings first: what a rung of a ladder changes."""
    found = differing([a, b])
    lines = [f"{one.path}: {one.values[0]} -> {one.values[1]}" for one in (*found.method, *found.other)]
    return lines or differences(equation(a.method), equation(b.method))


def run_of(one: Arm, seed: int) -> Run:
    """The settings of an arm's run of a seed, under the name that says its content: settings, equation, versions, base weights,
    and the files and problems that it reads. A run that has been made before has the same name.
    """
    run = replace(one.run, seed=seed)
    task = make(run.task, run.task_args)
    parts = [toml.document(toml.table_of(replace(run, model="", name=""))), repr(sorted(equation(one.method).items())), one.base,
             groupwise.__version__, torch.__version__, transformers.__version__,
             *(repr((p.id, p.text, p.answer)) for p in (*task.heldout, *task.train)), *_files(one.settings.values())]
    name = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    plain = re.sub(r"[^A-Za-z0-9]+", "-", f"{run.method}-{run.task}").strip("-")[-40:]
    return replace(run, name=f"{plain}-s{seed}-{name}")


def _files(values: Any) -> Iterator[str]:
    """Hashes of the files that settings name, alone or as file.py:function."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from _files(value)
        elif isinstance(value, str):
            parts = [value, value.partition("=")[2], *(text.rpartition(":")[0] for text in (value, value.partition("=")[2]))]
            yield from (hashlib.sha256(Path(part).read_bytes()).hexdigest() for part in parts if part and Path(part).is_file())
