"""Evaluations along the way, and what a run leaves behind: model, summary, held-out prompts, plot, samples."""

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from groupwise.core.keyed import fold
from groupwise.core.services import Plan
from groupwise.errors import ConfigError
from groupwise.models import adapter
from groupwise.models.load import save as save_policy
from groupwise.models.template import decode
from groupwise.run.assemble import Job, form_of
from groupwise.run.disk import publish, read_lines, write, write_json
from groupwise.run.evaluate import counted, evaluate
from groupwise.run.look import generated
from groupwise.run.plot import curve
from groupwise.run.track import Console, Record

SHOWN = 3
WIDEST = 160
UNDRAWN = "not drawn, for want of matplotlib: pip install 'groupwise[plots]', then groupwise show RUN --png curve.png"


def command() -> str:
    """How this program was called, for commands to try next."""
    called = Path(sys.argv[0])
    return near(called) if called.stem == "groupwise" else "python -m groupwise"


def near(path: Path) -> str:
    """The path as seen from the current folder; whole if there is no way to it, as from one Windows drive to another."""
    try:
        return os.path.relpath(path)
    except ValueError:
        return str(path)


def evaluate_now(job: Job, step: int, record: Record, console: Console) -> float:
    """Greedy accuracy on the held-out prompts, into the record and onto the console; returns the seconds it took."""
    began = time.perf_counter()
    if job.task.environment is None:
        found = evaluate(job.engine, job.heldout, job.grader.answers(job.policy), job.sampling.greedy(), seed=job.run.seed,
                         decode=lambda tokens: decode(job.policy.tokenizer, tokens, job.policy.eos_ids))
    else:
        plans = [Plan(p, 1, visit=fold(job.run.seed, "eval", p.id), group=p.id, temperature=0.0) for p in job.heldout]
        episodes = [episode for some in job.sampler.episodes(plans) for episode, _ in some]
        verdicts = [r.verdict for r in job.grader.rollouts(episodes, [()] * len(episodes))]
        found = counted(verdicts, [e.length for e in episodes], [e.truncated for e in episodes], [e.text for e in episodes],
                        samples=1, seed=job.run.seed)
    record.evaluation(step, found.row() | {"texts": list(found.texts)})
    job.watch.evaluations.append({"step": step, **found.row()})
    seconds = time.perf_counter() - began
    console.evaluated(f"held-out greedy accuracy after step {step}: {found.value:.1%} [{found.low:.1%}, {found.high:.1%}], "
                      f"{found.length:.1f} tokens", seconds)
    return seconds


def alarms(job: Job, step: int, seen: Mapping[str, float], console: Console) -> None:
    """Say once what would otherwise be only numbers in the record: rewards that fail, and what the rules of `watch` find."""
    for message, n in job.grader.problems().items():
        console.warn(f"grading: {message} ({n} so far): such answers count as abstentions, or as wrong if they ran out of time; "
                     "mend the reward, then resume", key=message)
    for found in job.watch.after(step, seen):
        console.warn(f"{found.name}: {found.text}. {found.advice}", key=found.name)


def finish(job: Job) -> dict[str, Any]:
    """Write the final model, the held-out prompts, the plot and the summary; each is written whole, the summary last."""
    folder = job.folder
    job.learner.discard()
    job.learner.scorer.rest()  # before the plotting library comes in
    evaluations, steps = read_lines(folder / "evaluations.jsonl"), read_lines(folder / "metrics.jsonl")
    timing = read_lines(folder / "timing.jsonl")
    _publish(folder / "model", lambda build: save_policy(job.policy, build))
    if job.run.learner.lora_rank:
        _publish(folder / "adapter", lambda build: adapter.save(job.policy.model, build))
    write(folder / "heldout.jsonl", _heldout(job).encode())
    title = f"{job.run.method} on {job.run.task}, seed {job.run.seed}"
    with contextlib.suppress(ConfigError):  # without the extra `plots` a run is whole but for its picture, and `show` says so
        drawn = folder / ".building-curve.png"
        curve(steps, evaluations, drawn, title)
        write(folder / "curve.png", drawn.read_bytes())
        drawn.unlink()
    summary = {
        "method": job.run.method, "task": job.run.task, "seed": job.run.seed, "steps": len(steps),
        "seconds": sum(row["seconds"] + row.get("evaluate", 0.0) for row in timing),
        "tokens": sum(map(generated, steps)),
        "accuracy": {when: {k: row[k] for k in ("value", "low", "high", "n")}
                     for when, row in (("before", evaluations[0]), ("after", evaluations[-1]))} if evaluations else {},
        "base": str((folder / "base").resolve()), "model": str((folder / "model").resolve()),
        "samples": _samples(job, evaluations),
    }
    write_json(folder / "summary.json", summary)
    return summary


def _publish(final: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder under another name, unless it is there already."""
    if final.is_dir():
        return
    build = final.with_name(f".building-{final.name}")
    shutil.rmtree(build, ignore_errors=True)
    fill(build)
    publish(build, final)


def _samples(job: Job, evaluations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first held-out prompts with what the policy said to them before and after."""
    if not evaluations:
        return []
    return [{"prompt": prompt.text, "answer": prompt.answer, "before": before, "after": after}
            for prompt, before, after in zip(job.heldout, evaluations[0]["texts"], evaluations[-1]["texts"], strict=False)]


def _heldout(job: Job) -> str:
    """The held-out prompts as they are read: the rendered text (no special tokens added), the ids, the answer."""
    render = form_of(job.run).render
    rows = [{"prompt": render(job.policy.tokenizer, p.text, p.messages), "ids": list(p.tokens), "answer": p.answer}
            for p in job.heldout]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def brief(text: str) -> str:
    """The text on one line, cut in its middle if it is long."""
    line = " ".join(text.split())
    return line if len(line) <= WIDEST else f"{line[: WIDEST // 2]} ... {line[-WIDEST // 2:]}"


def show(summary: dict[str, Any], console: Console) -> None:
    """What a person wants to see at the end: accuracy before and after, samples, the folder, what to try next."""
    folder = Path(summary["model"]).parent
    if summary["accuracy"]:
        before, after = summary["accuracy"]["before"], summary["accuracy"]["after"]
        console.say(f"\nheld-out greedy accuracy  {before['value']:.1%} [{before['low']:.1%}, {before['high']:.1%}]  ->  "
                    f"{after['value']:.1%} [{after['low']:.1%}, {after['high']:.1%}]\n(95 % intervals, {after['n']} prompts)")
    for sample in summary["samples"][:SHOWN]:
        console.say(f"  {brief(sample['prompt'])}  (answer {brief(str(sample['answer']))})")
        console.say(f"    before  {brief(sample['before'])}\n    after   {brief(sample['after'])}")
    other = "dr_grpo" if summary["method"] == "dapo" else "dapo"
    picture = folder / "curve.png"
    console.say(f"run folder   {near(folder)}\ncurve        {near(picture) if picture.is_file() else UNDRAWN}\n"
                f"look         {command()} show {near(folder)} --html report.html\nnext         {command()} train --config "
                f"{near(folder / 'run.toml')} --method {other} --run {folder.name}-{other}", whole=True)
