"""`groupwise diagnose`: what is wrong with a run, from its folder, with what it looked at where nothing is."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from groupwise.errors import CheckpointError, GroupwiseError
from groupwise.lab import probes
from groupwise.lab.overlap import overlap
from groupwise.learner.checkpoint import MODEL
from groupwise.models.load import load
from groupwise.run.assemble import Job, assemble
from groupwise.run.checkpoint import Checkpoints
from groupwise.run.compose import method_of
from groupwise.run.config import from_toml
from groupwise.run.findings import Finding, bad, fine, unsure
from groupwise.run.learner_settings import LearnerSettings
from groupwise.run.learning import rates
from groupwise.run.settings import Run
from groupwise.run.watch import RULES, Watch, settle
from groupwise.tasks import make

SHARED = 0.005
"""Share of held-out prompts that may stand in the training data, or twice, in other prints (MATH has 0.2 %)."""
PROMPTS = 64


@dataclass(frozen=True)
class Report:
    """What was found in a run of so many `steps`, of which `done` were made."""

    run: str
    done: int
    steps: int
    findings: tuple[Finding, ...]

    @property
    def wrong(self) -> list[Finding]:
        """What is to be acted on."""
        return [f for f in self.findings if f.wrong]


def diagnose(folder: Path, *, prompts: int = PROMPTS, probe: bool = True) -> Report:
    """Look at a run's settings, record, weights and data; with `probe` also ask its policies and its verifier, on `prompts`
    held-out problems. Nothing in the folder is changed. CheckpointError: there is no run in it.
    """
    if not (folder / "run.toml").is_file():
        raise CheckpointError(f"{folder} holds no run (no run.toml): give the folder of a run, or its name if it lies in runs/")
    run = from_toml((folder / "run.toml").read_text(encoding="utf-8"), str(folder / "run.toml"))
    trained, (scale, moved) = newest(folder), (math.nan, math.nan)
    if (folder / "base").is_dir():
        scale, moved = sizes(folder / "base", trained)
    watch = Watch(run, rates(run, method_of(run, run.sampling.max_tokens)), scale)
    watch.remember(folder)
    found = [weights(moved, trained), *data(run), *[rule(watch.seen) for rule in RULES]]
    if probe:
        found = [*probed(run, folder, trained, prompts, watch.evaluations), *found]
    return Report(str(folder), len(watch.rows), run.steps, tuple(settle(joined(found))))


def newest(folder: Path) -> Path | None:
    """The model of a run's end, or else of its last checkpoint; None if there is none."""
    if (folder / "model").is_dir():
        return folder / "model"
    last = Checkpoints(folder, 1).latest()
    model = last[0] / MODEL if last else None
    return model if model is not None and any(model.glob("*.safetensors")) else None


def sizes(base: Path, model: Path | None) -> tuple[float, float]:
    """The root mean square of the base policy's weights, and the norm of what was added to them relative to theirs (nan: no
    model, or none of its tensors is the base policy's).
    """
    square, count, change, whole = 0.0, 0, 0.0, 0.0
    trained = _tensors(model) if model else {}
    for name, file in _tensors(base).items():
        own = _read(file, name)
        square, count = square + float(own.square().sum()), count + own.numel()
        if name in trained:
            change += float((_read(trained[name], name) - own).square().sum())
            whole += float(own.square().sum())
    return math.sqrt(square / max(1, count)), math.sqrt(change / whole) if whole else math.nan


def _tensors(folder: Path) -> dict[str, Path]:
    """The tensors of a model folder, each with its file."""
    out: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as held:
            out |= dict.fromkeys(held.keys(), file)
    return out


def _read(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, framework="pt") as held:
        tensor: torch.Tensor = held.get_tensor(name)
    return tensor.float()


def weights(moved: float, model: Path | None) -> Finding:
    """How far the weights have moved from the base policy's."""
    if model is None or math.isnan(moved):
        return unsure("weights", "no trained weights are kept yet")
    text = f"the weights have moved from the base policy's by {moved:.2g} of their norm"
    if moved < 1e-7:
        return bad("weights_unmoved", text, "look at the learning rate and at the norm of the gradient (grad_norm)")
    if moved > 0.5:
        return bad("weights_far", f"{text}: little of the base policy is left", "lower --lr")
    return fine("weights", text)


def data(run: Run) -> Iterator[Finding]:
    """Problems that are not held out, though they seem to be."""
    try:
        task = make(run.task, run.task_args)
    except GroupwiseError as error:
        yield unsure("data", f"the data of the run cannot be read any more: {error}")
        return
    heldout = list(task.heldout[:run.eval_prompts])
    found = overlap(task.train, heldout)
    for name, pairs, what in (("heldout_leak", found.shared, "stand in the training data"),
                              ("heldout_repeats", found.repeated, "are the same as another one")):
        text = f"{len(pairs)} of {len(heldout)} held-out problems {what}, in another print"
        if pairs:
            text += f" (such as {pairs[0][0].text[:60]!r} and {pairs[0][1].text[:60]!r})"
        if len(pairs) > SHARED * len(heldout):
            yield bad(name, text, "take them out of the held-out part: held-out accuracy is too good, or rests on "
                      "fewer problems than it seems")
        else:
            yield fine(name.replace("heldout_", ""), text)


def probed(run: Run, folder: Path, trained: Path | None, most: int, evaluations: Sequence[Any]) -> Iterator[Finding]:
    """What policies and verifier answer; why they were not asked, where they cannot be."""
    own = run.learner
    plain = LearnerSettings(micro_tokens=own.micro_tokens, dtype=own.dtype, compute=own.compute, device=own.device,
                            threads=own.threads, workers=1)
    # Only sampling and grading are needed, so any method serves: this one needs no other model in memory.
    asked = replace(run, method="dr_grpo", method_args={}, updates_per_batch=0, learner=plain)
    try:
        job = assemble(asked, folder)
        with job.workers, job.grader:
            yield from _asked(job, trained, most, evaluations)
    except GroupwiseError as error:
        yield unsure("probes", f"the policies could not be asked: {error}")


def _asked(job: Job, trained: Path | None, most: int, evaluations: Sequence[Any]) -> Iterator[Finding]:
    hopeless = bool(evaluations) and not any(row.get("value") for row in evaluations)
    yield probes.verifier(job, job.heldout[:probes.GRADED], hopeless)
    if job.task.environment is not None:
        yield unsure("probes", "the task has several turns: its policies were not asked")
        return
    yield from probes.of_base(job, job.heldout[:most])
    recorded = evaluations[-1].get("texts", ()) if evaluations else ()
    if trained is None or not recorded:
        yield unsure("saved", "no trained policy, or no recorded text to compare its answers with")
    else:
        yield probes.after(job, load(trained, device=job.run.learner.device).model.state_dict(), recorded)


def joined(findings: Sequence[Finding]) -> list[Finding]:
    """One finding for each name that was found; what is fine or unknown stays as it is."""
    out: dict[Any, Finding] = {}
    for n, one in enumerate(findings):
        key = one.name if one.state == "found" else n
        out[key] = replace(out[key], text=f"{out[key].text}; {one.text}") if key in out else one
    return list(out.values())


def as_text(report: Report) -> str:
    """What is wrong first, then what follows from it, what is fine, and what could not be looked at."""
    lines = [f"{os.path.relpath(report.run)}: {report.done} of {report.steps} steps made"]
    for one in report.wrong:
        lines += ["", f"  {one.name}", f"    {one.text}", f"    -> {one.advice}"]
    if not report.wrong:
        lines += ["", "  nothing wrong was found"]
    parts = {"follows": [f"{f.name} (from {f.because}): {f.text}" for f in report.findings if f.because],
             "fine": [f"{f.name}: {f.text}" for f in report.findings if f.state == "fine"],
             "not looked at": [f"{f.name}: {f.text}" for f in report.findings if f.state == "unknown"]}
    for title, said in parts.items():
        lines += ["", title, *[f"  {line}" for line in said]] if said else []
    return "\n".join(lines)


def as_json(report: Report) -> dict[str, Any]:
    """The report as data."""
    return {"run": report.run, "done": report.done, "steps": report.steps, "wrong": [f.name for f in report.wrong],
            "findings": [asdict(f) for f in report.findings]}
