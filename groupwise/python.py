"""`groupwise train` and `groupwise resume` as functions."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from groupwise.lab.preflight import before_training
from groupwise.run import loop
from groupwise.run.config import from_file, from_keywords, resolved, unused
from groupwise.run.given import sorted_out
from groupwise.run.result import Result, load_run
from groupwise.run.settings import Run


def train(model: Any = None, task: Any = None, *, rewards: Any = (), tokenizer: Any = None, config: str | Path = "",
          root: str | Path = "runs", **settings: Any) -> Result:
    """Train a policy; what `groupwise train` does, with every setting of its command line as a keyword of the same name.

    model      a folder, a hub id, or a transformers model with its `tokenizer` (a copy is trained); None: the task's own small
               base policy
    task       a name, a file, a list of dicts with prompt and answer (a tenth is held out, or what has split="test"), or a Task;
               None: the embedded task. `task_args` holds its arguments; its verifier may be a function
    rewards    functions (docs/rewards.md), names, or {name: reward} with a reward model as (model, tokenizer) too
    method     a name, or a function that returns a Method; its arguments in `method_args`
    config     a TOML file of settings, which keywords override
    root       the folder that holds the run's folder; a run without a name (`run`) gets one that is free

    Functions run in processes of their own: those of a notebook or a script are written down with what they use
    (`groupwise.run.source`). Raises what the command line says, as GroupwiseError; a first Ctrl-C ends the run after its step,
    saved, and `groupwise.resume` goes on.
    """
    given = sorted_out(model, tokenizer, task, rewards, settings)
    run = from_keywords(given.words, from_file(str(config), Path(root)) if config else Run())
    run = run if "run" in settings else unused(resolved(run), Path(root))
    return _done(lambda: loop.train(run, Path(root), fill=given.fill, before=before_training))


def resume(run: str | Path | Result, *, accept_equation: bool = False, ranks: int = 0) -> Result:
    """Go on with a run from its last checkpoint: its folder, its name in runs/, or its Result; as `groupwise resume`."""
    found = run if isinstance(run, Result) else load_run(run)
    return _done(lambda: loop.resume(found.folder, accept_equation=accept_equation, ranks=ranks))


def _done(work: Callable[[], Path]) -> Result:
    """The run that some work leaves behind; the number of threads, which a run chooses, is what it was again."""
    threads = torch.get_num_threads()
    try:
        return Result(work())
    finally:
        torch.set_num_threads(threads)


def _signature() -> inspect.Signature:
    """What `train` takes, all settings written out: for help, and for a notebook's completion."""
    known = inspect.signature(train)
    own = [p for p in known.parameters.values() if p.kind is not p.VAR_KEYWORD]
    run = Run()
    parts = (run, run.sampling, run.learner, run.serving)
    every = {("run" if f.name == "name" else f.name): getattr(part, f.name) for part in parts
             for f in fields(part) if f.name not in ("sampling", "learner", "serving")}
    taken = {p.name for p in own}
    more = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default) for name, default in every.items()
            if name not in taken]
    return known.replace(parameters=[*own, *more])


train.__signature__ = _signature()  # type: ignore[attr-defined]
