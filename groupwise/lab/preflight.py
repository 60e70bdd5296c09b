"""`groupwise preflight`: what a run's own policy, data and verifier do before any training, and whether it will learn.

Some training prompts are answered and graded as in a step of the run, by a policy, an engine and graders of their own, so nothing
of the run is touched. The rules are those of `groupwise diagnose`: the answers are a step of a policy that stands still.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any

from rich.console import Console

from groupwise.core.rollout import Rollout
from groupwise.errors import PreflightError
from groupwise.lab import plan, probes
from groupwise.lab.diagnose import joined
from groupwise.lab.drawn import GRADING, Drawn, Opinion, draw, second
from groupwise.lab.plan import Outlook
from groupwise.models.memory import release
from groupwise.models.template import TEMPLATES
from groupwise.run import causes
from groupwise.run.assemble import Job, assemble
from groupwise.run.disk import write_json
from groupwise.run.findings import Finding, Row, bad, fine, unsure
from groupwise.run.finish import brief
from groupwise.run.link import alone
from groupwise.run.settings import Run
from groupwise.run.track import duration, screen
from groupwise.run.watch import settle

QUICK = 60.0
"""Seconds that probes may take before a training run, by what the first answers took; longer ones are left out."""
FEW = 0.25
"""Share of groups with different rewards below which a run learns slowly."""
SHOWN = 5
PROBES = ("verifier", "template", "ends", "limit", "probes")
"""Findings of what was asked besides the first answers."""
HEADLINES: Mapping[str, str] = MappingProxyType({
    "does_not_fit": "does not fit", "grader_timeout": "the grader is too slow", "grader_fails": "the grader fails",
    "answers_refused": "the grader rejects the data's own answers",
    "inverted_reward": "wrong answers are paid more than right ones",
    "wrong_template": "wrong template", "eos_missing": "answers do not end where they should",
    "never_ends": "answers do not end", "max_tokens_too_short": "max_tokens is too short", "all_hard": "too hard",
    "constant_reward": "all rewards are the same", "no_contrast": "no group is informative",
    "learning_rate_too_low": "the learning rate is too low", "learning_rate_too_high": "the learning rate is too high"})
"""What a finding makes of the run, the gravest first."""


@dataclass(frozen=True)
class Text:
    """One answer as it was graded; `correct` None: it was not."""

    prompt: str
    answer: Any
    text: str
    correct: bool | None
    kind: str
    extracted: str | None
    reward: float | None


@dataclass(frozen=True)
class Report:
    """What was found: `graded` of `asked` answers to `prompts` training prompts, with the metrics of a step (`row`), success of
    an answer with its 95 % interval (`pass_one`) and of a group (`pass_all`), seconds to verify an answer (median, most),
    messages of rewards that failed, a second verifier, some texts, the findings, memory and time, and what becomes of the run.
    """

    what: str
    prompts: int
    group_size: int
    asked: int
    graded: int
    max_tokens: int
    row: Row
    pass_one: tuple[float, float, float]
    pass_all: float
    clock: tuple[float, float]
    problems: dict[str, int]
    second: Opinion | None
    texts: tuple[Text, ...]
    findings: tuple[Finding, ...]
    outlook: Outlook
    verdict: str
    advice: str
    learns: bool
    seconds: float


def preflight(run: Run, *, thorough: bool = True) -> Report:
    """Look at a run before it starts; nothing is written. Errors are those of starting it.

    Without `thorough`, probes that would take minutes are left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = assemble(alone(run), Path(folder))
        with job.workers, job.grader:
            return of_job(job, thorough=thorough)


def of_job(job: Job, *, thorough: bool = True) -> Report:
    """The same of a job, which cannot be trained afterwards: its weights are not the policy's any more."""
    began, run = perf_counter(), job.run
    drawn = draw(job)
    seen = replace(job.watch.seen, rows=[{"step": 0, **drawn.row}], still=True)
    rules = [rule(seen) for rule in (causes.grader, causes.endings, causes.contrast, causes.direction)]
    found, opinion = list[Finding](), None
    if rules[0].state != "found":  # a grader that hangs or fails would hold up what follows, and say nothing
        found += _probed(job, drawn, thorough)
        opinion = second(job, drawn)
    known = {ours: drawn.row[name] for ours, name in (("length", "length"), ("cut", "truncated"), ("informative", "informative"))
             if name in drawn.row}
    outlook = plan.measured(job, **known, seconds_to_grade=sum(r.verdict.seconds for r in drawn.rollouts) / len(drawn.rollouts))
    findings = (_fits(outlook), *settle(joined([*found, *rules])), causes.learning_rate(seen))
    verdict, advice, learns = judged(findings, {f.name: f.text for f in rules}, drawn, run.group_size)
    return Report(f"{run.method} on {run.task}", len(drawn.groups), run.group_size, drawn.asked, len(drawn.rollouts),
                  job.sampling.max_tokens, drawn.row, drawn.pass_one, drawn.found.pass_at(drawn.found.samples), drawn.clock,
                  job.grader.problems(), opinion, tuple(_texts(drawn.rollouts)), findings, outlook, verdict, advice, learns,
                  perf_counter() - began)


def _probed(job: Job, drawn: Drawn, thorough: bool) -> Iterator[Finding]:
    """What verifier and policy say when they are asked otherwise."""
    yield probes.verifier(job, drawn.prompts, hopeless=not drawn.row.get("accuracy"))
    if job.task.environment is not None:
        yield unsure("probes", "the task has several turns: other templates, end tokens and limits were not tried")
        return
    room = QUICK / max(drawn.seconds, 1e-9) if not thorough else float("inf")
    if room < len(TEMPLATES):
        yield unsure("template", "other templates were not tried, which takes long here: `groupwise preflight` does")
    else:
        greedy = probes.ask(job, drawn.prompts, job.sampling.greedy())
        yield probes.templates(job, greedy)
        yield probes.ends(job, greedy)
    if drawn.row.get("truncated", 0.0) <= causes.CUT:
        return
    if room < sum(probes.MORE):
        yield unsure("limit", "more tokens were not tried, which takes long here: `groupwise preflight` does")
    else:
        yield probes.limits(job, probes.ask(job, drawn.prompts, job.sampling))


def _fits(outlook: Outlook) -> Finding:
    said, _, ways = plan.advice(outlook).partition("; take ")
    return fine("memory", said) if outlook.fits else bad("does_not_fit", said.removeprefix("does not fit: "), f"take {ways}")


def judged(findings: Sequence[Finding], brief: Mapping[str, str], drawn: Drawn, group_size: int) -> tuple[str, str, bool]:
    """The verdict in a line, what to do, and whether the run can learn: by the gravest finding, where there is any.

    `brief` has shorter texts for the names of some findings.
    """
    wrong = [f for name in HEADLINES for f in findings if f.name == name and f.wrong]
    right, mixed = (drawn.row.get(name, 0.0) for name in ("accuracy", "informative"))
    if wrong:
        one, headline = wrong[0], HEADLINES[wrong[0].name]
        refuses = any(f.name == "verifier" and f.state == "fine" for f in findings)
        if one.name in ("constant_reward", "no_contrast") and right > 0.9 and refuses:
            headline = "too easy"
        return f"{headline}: {brief.get(one.name, one.text)}", one.advice, False
    if any(f.name == "contrast" and f.state == "unknown" for f in findings):
        return (f"cannot tell: {len(drawn.rollouts)} of {drawn.asked} answers were graded, which are too few "
                f"({GRADING:g} s is what grading may take here)"), "", True
    share = f"{right:.1%} of the answers are right"
    if group_size == 1:
        return f"will learn: {share}", "", True
    share += f", and rewards differ in {mixed:.0%} of the groups"
    if mixed < FEW:
        better = "harder" if right > 0.5 else "easier"
        return f"will learn slowly: {share}", f"take {better} problems, or a larger --group-size", True
    return f"will learn: {share}", "", True


def _texts(rollouts: Sequence[Rollout]) -> Iterator[Text]:
    """A few answers: one of each kind of verdict first, then as they come."""
    order = sorted(range(len(rollouts)), key=lambda i: (
        any(r.verdict.kind == rollouts[i].verdict.kind for r in rollouts[:i]), i))
    for r in [rollouts[i] for i in order[:SHOWN]]:
        own = r.verdict
        yield Text(r.episode.prompt.text, r.episode.prompt.answer, r.episode.text, own.correct, own.kind, own.extracted, r.reward)


# ---- what is shown and kept ------------------------------------------------------------------------------------------------


def lines(report: Report) -> list[str]:
    """The report in words, without the verdict."""
    row, (value, low, high), n = report.row, report.pass_one, report.group_size
    kinds = ", ".join(f"{name.removeprefix('verdict/')} {x:.0%}" for name, x in
                      sorted(row.items(), key=lambda item: -item[1]) if name.startswith("verdict/"))
    graded = f", {report.graded} of them graded" if report.graded < report.asked else ""
    out = [f"preflight of {report.what}: {report.asked} answers to training prompts{graded}, {n} to each; "
           f"it took {report.seconds:.0f} s",
           _line("right", f"{value:.1%} [{low:.1%}, {high:.1%}] of the answers (pass@1); of {n} to a prompt one at least in "
                          f"{report.pass_all:.1%} (pass@{n})"),
           _line("informative", f"rewards differ in {row.get('informative', 0.0):.0%} of the groups"),
           _line("length", f"{row.get('length', 0.0):.1f} tokens, {row.get('truncated', 0.0):.0%} cut at {report.max_tokens}"),
           _line("verdicts", kinds or "none"),
           _line("grading", f"{_brief(report.clock[0])} an answer (median), {_brief(report.clock[1])} at most")]
    out += [_line("", f"{message} ({times} times)") for message, times in report.problems.items()]
    if report.second is not None:
        other = report.second
        example = f", such as {other.example}" if other.example else ""
        out.append(_line("", f"verifier {other.name!r} says otherwise of {other.other} in {other.n} answers{example}"))
    out += [_line("own answers", f.text) for f in report.findings if f.name == "verifier" and f.state == "fine"]
    at = report.outlook.at_mean
    out += [_line("memory", plan.advice(report.outlook)),
            _line("time", f"{_brief(at.step)} a step, {duration(at.run)} in all with evaluations, at answers of this length")]
    for text in report.texts:
        said = "right" if text.correct else "not graded" if text.correct is None else "wrong"
        read = "" if text.extracted is None else f", read as {brief(text.extracted)!r}"
        out += [f"  {brief(text.prompt)}  (answer {brief(str(text.answer))})",
                f"    {said} ({text.kind}{read}): {brief(text.text)}"]
    return out


def _line(name: str, text: str) -> str:
    return f"  {name:<13}{text}"


def _brief(seconds: float) -> str:
    return f"{1000 * seconds:.2g} ms" if seconds < 0.1 else f"{seconds:.2g} s" if seconds < 60 else duration(seconds)


def show(report: Report, console: Console) -> None:
    """Print the report, its verdict last and in colour; behind it what else is wrong, with what to do."""
    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    for line in lines(report):
        say(line)
    colour = "green" if report.learns else "red"
    say(f"verdict: {report.verdict}", f"bold {colour}")
    if report.advice:
        say(f"  -> {report.advice}", colour)
    told = report.verdict.partition(": ")[2]
    for one in report.findings:
        if one.wrong and one.text != told:
            more = "" if one.advice == report.advice else f"\n  -> {one.advice}"
            say(f"  {one.name}: {one.text.removesuffix(f'; {told}')}{more}", "yellow")
        elif one.state == "unknown" and one.name in PROBES:
            say(f"  not looked at: {one.text}")


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON values; seconds, bytes and shares."""
    return asdict(report)


def before_training(run: Run, folder: Path, console: Console | None = None) -> None:
    """What `groupwise.run.loop.train` calls before it does anything: look, say, and keep `preflight.json` in the run's folder.

    PreflightError: the run will not learn, and its setting `preflight` is "strict". Otherwise it goes on: a sample may mislead,
    and somebody may want such a run.
    """
    if run.preflight == "off":
        return
    console = console or screen()
    report = preflight(run, thorough=False)
    release()
    write_json(folder / "preflight.json", as_json(report))
    show(report, console)
    if report.learns:
        return
    if run.preflight == "strict":
        raise PreflightError(f"the run was not started (preflight=strict): {report.verdict}\n  -> {report.advice}")
    console.print("warning: the run goes on all the same; --preflight strict stops here, --preflight off does not look",
                  style="yellow", markup=False, highlight=False, soft_wrap=True)
