"""The loop, on one screen, and how a run starts, goes on and ends."""

import contextlib
import gc
import itertools
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from groupwise.core.keyed import fold
from groupwise.core.rollout import Group
from groupwise.errors import CheckpointError, TrainingError
from groupwise.learner import checkpoint as learner_checkpoint
from groupwise.models.load import save as save_policy
from groupwise.objective.batch import pack
from groupwise.objective.objective import NO_FACTORS
from groupwise.run import equation, metrics
from groupwise.run.ahead import Ahead, ahead
from groupwise.run.assemble import Job, assemble, base_of, meta
from groupwise.run.checkpoint import Checkpoints
from groupwise.run.compose import method_of
from groupwise.run.config import arithmetic, from_toml, resolved, to_toml
from groupwise.run.disk import publish, read_lines, write, writing
from groupwise.run.finish import alarms, command, evaluate_now, finish, show
from groupwise.run.link import launched, launched_for
from groupwise.run.lock import LOCK, lock
from groupwise.run.policy import base_to_save
from groupwise.run.rollouts import Kept
from groupwise.run.settings import Run
from groupwise.run.stop import Stop, Stopped
from groupwise.run.toml import text_of
from groupwise.run.track import Console, Record
from groupwise.run.trackers import Trackers, check_trackers

SETTINGS = "run.toml"
GIVEN = "given"
"""The folder in a run's own of what it was given as Python objects (`groupwise.run.given`)."""
BEGUN = ("base", ".building-base", GIVEN)
"""What a run makes before its settings are written."""
PATIENCE = 3
"""Steps in a row without a single group to train on, after which the run stops."""


def loop(job: Job, start: int, record: Record, console: Console, checkpoints: Checkpoints, stop: Stop) -> None:
    """Steps `start` to the end: draw, collect, credit, weigh, step, load. Stopped: that was asked for, and is saved."""
    run, method, learner, sampler = job.run, job.method, job.learner, job.sampler
    objective = method.objective
    for step in itertools.takewhile(lambda _: not job.spent, range(start, run.steps)):
        began = time.perf_counter()
        plans = sampler.draw(step)
        groups = sampler.collect(plans, step)  # generate, verify, observe, intervene, admit, shape
        kept = Kept(job, step)  # some groups for the record, at some steps
        job.empty_steps = _patience(job, groups)
        stats, factors, collected = [], NO_FACTORS, time.perf_counter()
        if groups:
            job.state.observe(groups)
            factors = job.state.coefficients()
            batch = pack(groups, default=method.divides_by, version=job.engine.version, device=str(learner.device))
            batch, needed = learner.scored(batch, groups, method.needs)  # nothing if nothing is needed
            sampler.tally.scored(needed, len(batch.tokens))
            credit = objective.credit(groups, batch, needed, job.state)  # the advantage
            batch = batch.with_columns(needed, credit)
            kept.credited(groups, batch)
            own = batch.written_by(learner.policy_id)
            for minibatch in method.update.split(own, fold(run.seed, "update", step)):  # cut by whole groups
                planned = learner.planned(minibatch, objective)
                weighed = objective.weigh(planned, factors=factors)  # the aggregation, of THIS optimiser step
                stats.append(method.update.step(learner, weighed, objective))  # the gradient
        sampler.settle()  # what is sampled ahead was begun with the old weights
        job.engine.load(learner.weights(), version=step + 1)
        job.state.after_update(sampler)
        seen, timing = metrics.of_step(sampler.tally, stats, objective, factors) | job.lowered(), _timing(job, began, collected)
        console.log(step + 1, seen, timing)
        alarms(job, step + 1, seen, console)
        last = step + 1 == run.steps or job.spent
        if run.eval_every and ((step + 1) % run.eval_every == 0 or last):
            timing["evaluate"] = evaluate_now(job, step + 1, record, console)
        record.log(step + 1, seen, timing)
        record.rollouts(step + 1, kept.rows())
        ending = stop.asked and not last
        if last or ending or (run.checkpoint_every and (step + 1) % run.checkpoint_every == 0):
            record.sync()
            checkpoints.save(step + 1, lambda folder: _state(job, folder, record))
        if ending:
            raise Stopped(f"ended after step {step + 1} of {run.steps}: go on with `{command()} resume {job.folder}`")


def _patience(job: Job, groups: Sequence[Group]) -> int:
    """How many steps in a row had no group; TrainingError after too many."""
    empty = 0 if groups else job.empty_steps + 1
    if empty >= PATIENCE:
        raise TrainingError(f"no group was admitted {empty} steps in a row ({dict(job.sampler.tally.refused)} refused in the "
                            "last one): the problems are all solved or all too hard for this policy; change the data, raise "
                            "group_size, or take a method without dynamic sampling "
                            f"(`{command()} diagnose {job.folder}` looks for the cause)")
    return empty


def _timing(job: Job, began: float, collected: float) -> dict[str, float]:
    now, tally = time.perf_counter(), job.sampler.tally
    tokens = sum(n for purpose, n in tally.budget.tokens.items() if purpose.endswith("/generate"))
    return {"seconds": now - began, "generate": tally.seconds["generate"], "verify": tally.seconds["verify"],
            "train": now - collected, "tokens_per_second": tokens / max(1e-9, tally.seconds["generate"])} | (
                {"waited": job.sampler.idle} if isinstance(job.sampler, Ahead) else {})


def _state(job: Job, folder: Path, record: Record) -> dict[str, Any]:
    """Write the learner into a checkpoint's folder; the rest of the run's state as JSON values."""
    counters = learner_checkpoint.save(job.learner, folder)
    return {"learner": counters, "sampler": job.sampler.state_dict(), "method": job.state.state_dict(),
            "record": record.sizes(), "version": job.engine.version, "meta": dict(meta(job)), "empty_steps": job.empty_steps,
            "max_rows": int(job.lowered().get("max_rows", 0))}


def train(run: Run, root: Path = Path("runs"), *, fill: Callable[[Run, Path], Run] = lambda run, folder: run,
          before: Callable[[Run, Path], None] = lambda run, folder: None) -> Path:
    """Start a run from its settings; returns its folder. CheckpointError if there is a run of that name already.

    `fill` may put into the new folder what the run is to read, and returns the settings that name it. `before` is called with
    these settings and the folder before any work; what it raises leaves no folder behind.
    """
    run = resolved(launched_for(run))
    check_trackers(run.trackers)
    folder = root / run.name
    if (folder / SETTINGS).exists():
        raise CheckpointError(f"there is a run in {folder} already: go on with `{command()} resume {folder}`, or start "
                              "another with --run NAME (make train ARGS='--run NAME')")
    with _new(folder):
        for left in BEGUN:  # of a start that was cut off before its settings were written
            shutil.rmtree(folder / left, ignore_errors=True)
        run = fill(run, folder)
        before(run, folder)
        job = ahead(assemble(run, folder))
        if not (folder / "base").is_dir():
            build = folder / ".building-base"
            with writing(build):
                save_policy(base_to_save(run.learner, job.policy, base_of(run)), build)
            publish(build, folder / "base")
        write(folder / SETTINGS, to_toml(job.run, meta(job), equation.equation(job.method)).encode())
        _go(job, 0, None)
    return folder


@contextlib.contextmanager
def _new(folder: Path) -> Iterator[None]:
    """Lock the folder of a new run; if it does not come to its settings, take away what the start made there, and no more."""
    missing, ours = [place for place in (folder, *folder.parents) if not place.exists()], False
    try:
        with lock(folder):
            ours = True
            try:
                yield
            finally:
                if not (folder / SETTINGS).exists():
                    for made in BEGUN:
                        shutil.rmtree(folder / made, ignore_errors=True)
                    (folder / "preflight.json").unlink(missing_ok=True)
    finally:
        if ours and not (folder / SETTINGS).exists():
            with contextlib.suppress(OSError):  # a folder that holds something else stays
                (folder / LOCK).unlink()
                for place in missing:
                    place.rmdir()


def resume(folder: Path, *, accept_equation: bool = False, ranks: int = 0) -> Path:
    """Go on with a run from its newest whole checkpoint, or from its start if it has none; returns its folder.

    `ranks` is how many a learner in shards has from here on; 0: as before, or as torchrun says.

    CheckpointError: the method composes another equation than at the start, and that was not accepted.
    """
    if not (folder / SETTINGS).is_file():
        raise CheckpointError(f"{folder} holds no run (no {SETTINGS}): it was cut off before it began; start it with "
                              f"`{command()} train`")
    run, written = from_toml(text_of(folder / SETTINGS), str(folder / SETTINGS)), equation.read(folder / SETTINGS)
    if not written.meta:
        raise CheckpointError(f"{folder / SETTINGS} is cut off: its table [meta] is missing, so settings before it may be too; "
                              "copy the file back, or start another run")
    if not (folder / "base").is_dir():
        raise CheckpointError(f"{folder / 'base'} is missing, which holds the policy that the run began with: copy it back, or "
                              "start another run")
    run = launched_for(run, ranks or launched())
    changed = written.check(run, command(), accept=accept_equation)
    with lock(folder):
        checkpoints = Checkpoints(folder, run.keep)
        checkpoints.clear_unfinished()
        found = checkpoints.latest()
        if changed:
            written.accept(method_of(run, run.sampling.max_tokens), changed, int(found[1]["step"]) if found else 0)
        news = [f"the equation is another one than before, as accepted: {line}" for line in changed]
        if found is None:
            _go(ahead(assemble(run, folder)), 0, None, news)
            return folder
        where, state, problems = found
        checkpoints.prune(where.name)
        job = ahead(assemble(run, folder, learner_checkpoint.weights(where)))
        learner_checkpoint.load(job.learner, where, state["learner"])
        job.sampler.load_state_dict(state["sampler"])
        job.state.load_state_dict(state["method"])
        job.engine.version, job.empty_steps = state["version"], int(state["empty_steps"])
        job.engine.max_rows = int(state.get("max_rows", 0)) or job.engine.max_rows
        problems += [f"{name} was {old} when the checkpoint was made and is {meta(job)[name]} now: the run goes on, but no "
                     "longer bit for bit" for name, old in state["meta"].items() if meta(job)[name] != old]
        _go(job, int(state["step"]), state["record"], [*problems, *news])
    return folder


def _go(job: Job, start: int, sizes: dict[str, int] | None, problems: Sequence[str] = ()) -> None:
    """Run the loop from a step, with its record cut back to that step, and end the run."""
    for left in job.folder.glob(".*.tmp"):  # of files that a killed process was writing
        left.unlink()
    if start < job.run.steps:
        for made in ("model", "adapter"):  # of steps that are made again from an older checkpoint
            shutil.rmtree(job.folder / made, ignore_errors=True)
    told = max((row["step"] for row in read_lines(job.folder / "metrics.jsonl")), default=-1)
    record = Record(job.folder)
    try:
        record.truncate(sizes or dict.fromkeys(record.sizes(), 0))
        job.watch.remember(job.folder)
        with (job.workers, job.grader, contextlib.closing(job.sampler),
              Console(job.run.steps, eval_every=job.run.eval_every, start=start) as console, Stop(console.warn) as stop,
              Trackers(job.run, job.folder, start, told, console.warn) as record.trackers):
            if job.task.dropped:
                console.say(f"{job.task.dropped} training prompts were left out: they stand twice, or are held out too")
            for line in job.notes:
                console.say(line)
            for line in arithmetic(job.run, len(job.task.train), job.method.update.steps):
                console.say(line)
            if start:
                console.say(f"going on after step {start}")
            for problem in problems:
                console.warn(problem)
            if start == 0 and job.run.eval_every:
                evaluate_now(job, 0, record, console)
            gc.freeze()  # what was made so far stays: collections need not walk the libraries' objects at every step
            loop(job, start, record, console, Checkpoints(job.folder, job.run.keep), stop)
            with writing(job.folder):
                summary = finish(job)
            show(summary, console)
    finally:
        gc.unfreeze()
        record.close()
