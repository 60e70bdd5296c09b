"""Settings from a TOML file and the command line, over the defaults; each checked before any work.

    groupwise train --steps 300 --method dapo --method-args clip_high=0.3 overlong=true --config recipe.toml

A run saves its settings as `run.toml`; `--config` of that file repeats it.
"""

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from groupwise.engines.vllm.settings import EngineSettings
from groupwise.errors import ConfigError, nearest
from groupwise.run import recipes, toml
from groupwise.run.learner_settings import LearnerSettings
from groupwise.run.settings import Run, SamplingSettings


def resolved(run: Run) -> Run:
    """The run with its name filled in."""
    return replace(run, name=run.name or re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{run.method}-{run.task}-{run.seed}").lstrip("-."))


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
        raise _said_before(stop) or ConfigError(f"the command line cannot be read: {_unboxed(said.getvalue())}") from None
    if unknown:
        flag = unknown[0].partition("=")[0]
        if not flag.startswith("-"):
            raise ConfigError(f"unexpected word {flag!r}: settings are given as --name value (`{prog} --help` lists them)")
        raise ConfigError(f"unknown setting {flag!r}; {nearest(flag.replace('_', '-'), flags())}")
    return replace(run, **{name: getattr(default, name) | getattr(run, name)
                           for name in ("task_args", "method_args", "reward_weights", "correction_args")})


def _unboxed(text: str) -> str:
    """What the reader of the command line printed in a box, as one line: the part between its first two rules."""
    parts = re.split(r"[-─]{5,}", re.sub(r"[|│╭╮╰╯├┤]", " ", text))
    return " ".join(parts[1].split()) if len(parts) > 1 else " ".join(text.split())


def from_keywords(given: Mapping[str, Any], default: Run) -> Run:
    """Settings from Python keywords, called as on the command line and checked alike, over `default`. Raises ConfigError."""
    parts = {"sampling": SamplingSettings, "learner": LearnerSettings, "serving": EngineSettings}
    names = [flag.removeprefix("--").replace("-", "_") for flag in flags()]
    for name in given:
        if name not in names or name == "json":
            raise ConfigError(f"unknown setting {name!r}; {nearest(name, names)}")
    words = {name: getattr(default, name) | value if isinstance(value, Mapping) else value for name, value in given.items()}
    words = {"name" if name == "run" else name: value for name, value in words.items()}
    inside = {part: toml.build(cls, {f.name: words.pop(f.name) for f in fields(cls) if f.name in words},
                               default=getattr(default, part)) for part, cls in parts.items()}
    return replace(toml.build(Run, words, default=default), **inside)


def from_file(name: str, root: Path = Path("runs")) -> Run:
    """The settings of a TOML file, or of "recipe:NAME", for a run of a name that is free: a run's own file repeats it beside the
    first, and a recipe's run is called as the recipe.
    """
    if name.startswith(recipes.PREFIX):
        own = name.removeprefix(recipes.PREFIX)
        return unused(replace(from_toml(recipes.text_of(own), name), name=own), root)
    file = Path(name)
    if not file.is_file():
        raise ConfigError(f"--config {file}: {'this is a folder' if file.is_dir() else 'there is no such file'}")
    return unused(from_toml(toml.text_of(file), str(file)), root)


def unused(run: Run, root: Path = Path("runs")) -> Run:
    """The run under its own name, or with a number behind it if there is a run of that name in `root`."""
    names = [run.name, *(f"{run.name}-{n}" for n in range(2, 1000))]
    return replace(run, name=next(name for name in names if not name or not (root / name / "run.toml").exists()))


def _said_before(error: BaseException) -> ConfigError | None:
    """Our own error that the reader of the command line turned into an exit, if it was one."""
    cause = error.__context__
    while cause is not None and not isinstance(cause, ConfigError):
        cause = cause.__context__
    return cause


def flags() -> list[str]:
    """Every setting's name on the command line."""
    every = [f for cls in (Run, SamplingSettings, LearnerSettings, EngineSettings) for f in fields(cls)]
    names = [f.name for f in every if not is_dataclass(f.default_factory)]
    return [f"--{'run' if name == 'name' else name.replace('_', '-')}" for name in [*names, "config", "json"]]
