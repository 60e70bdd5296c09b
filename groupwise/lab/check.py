"""`groupwise check`: the invariance suite on any method or objective, the user's own included.

A check is a property that holds whatever the equation is, or that the equation's parts declare. It runs on toy batches, in
float64, through the functions that the loop calls. What fails is shown on the smallest batch that can be found.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from groupwise.lab import cuts, facts, invariance, toys
from groupwise.lab.example import example_of, text_of
from groupwise.lab.ranks import across
from groupwise.lab.samples import Sample, generate
from groupwise.lab.shrink import Check, attempt, blamed, shrunk
from groupwise.lab.trials import Found, Subject

CHECKS: tuple[Check, ...] = (
    Check("micro-batches", cuts.micro_batches, "a loss or a weight is normalised inside the micro-batch, where it must use the "
          "weights of the whole optimiser step; or a loss looks further than its term's `reach` says"),
    Check("ranks", invariance.ranks, "a weight uses what one process holds, where `counts` must carry it to the totals"),
    Check("order", invariance.order, "something depends on positions in the batch: it takes the first, the last, or a neighbour"),
    Check("padding", invariance.padding, "a mask or a count takes in tokens that are not trained on, or is shifted by one"),
    Check("packing", invariance.packing, "a weight or a statistic counts sequences where it should count episodes"),
    Check("credit per episode", invariance.lengthening, "a mean or std of the credit runs over tokens, not over rollouts (a "
          "part that means this says reads_lengths = True)"),
    Check("reward shift", facts.shift, "the baseline"),
    Check("reward scale", facts.scaling, "the scale"),
    Check("flat groups", facts.flat_groups, "the baseline, or an aggregate that counts only groups with variance"),
    Check("groups of one", facts.singletons, "the baseline's singleton rule", samples=1),
    Check("masked rollouts", invariance.masked, "an aggregate counts by loss_mask where denominators go by `counted`, or a loss "
          "reads tokens outside the mask that it is given"),
    Check("all masked", invariance.all_masked, "a division by a count that is 0"),
    Check("truncated rollouts", invariance.truncated, "something reads `finish`"),
    Check("dropped tokens", invariance.dropped, "a ratio or loss sums over tokens outside the mask that it is given"),
    Check("garbage", invariance.garbage, "a term's mask takes in tokens that are not trained on (is it shifted by one?), or a "
          "product with 0 is used for a mask, which keeps nan", tolerance=1e-12),
    Check("finite differences", facts.differences, "a stop-gradient in the wrong place, or an own backward that is wrong",
          tolerance=1e-5, samples=2),
    Check("on policy", facts.on_policy, "the ratio (another temperature, another base) or the trust rule"),
    Check("sampling distribution", toys.ratio_of_sampler, "the ratio rescales log-probs, which already are those of the sampling "
          "temperature", shrinks=False, samples=1),
    Check("optimiser steps", cuts.steps, "the update strategy cuts a batch that was weighed as a whole: weigh each part alone",
          tolerance=1e-8),
    Check("reference pull", toys.pull, "the sign of the KL term's coefficient or of its log-ratio, or the estimator",
          shrinks=False, samples=1),
)


@dataclass(frozen=True)
class Verdict:
    """What came of one check: `status` is pass, fail, note (something to know, nothing wrong) or skip."""

    name: str
    status: str
    max_error: float
    message: str = ""
    example: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Report:
    """All verdicts on one method."""

    method: str
    composition: str
    checks: tuple[Verdict, ...]
    seconds: float = field(default=0.0, compare=False)

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(one.status != "fail" for one in self.checks)


def check(subject: Subject, checks: Sequence[Check] = CHECKS, *, seeds: Sequence[int] = range(4)) -> Report:
    """Run the suite on a subject, in this process."""
    began = time.perf_counter()
    samples = [generate(seed, subject.wishes, "old" if seed // 2 % 2 == 0 else "self") for seed in seeds]
    verdicts = tuple(_verdict(one, subject, samples[:one.samples]) for one in checks)
    return Report(subject.name, repr(subject.objective), verdicts, time.perf_counter() - began)


def check_all(subjects: Sequence[Subject], *, processes: Sequence[int] = (2, 3)) -> Iterator[Report]:
    """The suite on several subjects; the processes of the rank split are started once for all of them."""
    samples = [[generate(seed, own.wishes, "old") for seed in (0, 1)] for own in subjects]
    split = across(subjects, samples, processes)
    for i, own in enumerate(subjects):
        report = check(own)
        yield replace(report, checks=(*report.checks, *(_of_processes(size, split[size][i], report) for size in processes)))


def _of_processes(size: int, found: Found, report: Report) -> Verdict:
    name, likely = f"{size} processes", next(one.likely for one in CHECKS if one.name == "ranks")
    if found.skipped or found.error <= 1e-9:
        return Verdict(name, "skip" if found.skipped else "pass", found.error, found.skipped)
    smaller = next(one.example for one in report.checks if one.name == "ranks")
    return Verdict(name, "fail", found.error, f"{found.message}. Likely: {likely}" + " (the example stands under 'ranks')."
                   * (smaller is not None))


def _verdict(one: Check, subject: Subject, samples: Sequence[Sample]) -> Verdict:
    """The check on all samples; a failure is looked at more closely."""
    found = [attempt(one, subject, sample) for sample in samples]
    worst = max(range(len(found)), key=lambda i: (not found[i].skipped, found[i].error))
    if found[worst].error <= one.tolerance or found[worst].skipped:
        return _calm(one, found)
    sample, smallest = samples[worst], found[worst]
    if one.shrinks:
        sample, smallest = shrunk(one, subject, sample, smallest)
    sample = smallest.sample or sample
    likely = blamed(one, subject, sample) if smallest.before is not None else one.likely
    example = example_of(subject, sample, smallest) if one.shrinks or smallest.before is not None else None
    return Verdict(one.name, "fail", found[worst].error, f"{smallest.message}. Likely: {likely}.", example)


def _calm(one: Check, found: Sequence[Found]) -> Verdict:
    """The verdict where nothing failed."""
    done = [f for f in found if not f.skipped]
    if not done:
        return Verdict(one.name, "skip", 0.0, found[0].skipped)
    notes = dict.fromkeys(f.note for f in done if f.note)
    return Verdict(one.name, "note" if notes else "pass", max(f.error for f in done), "; ".join(notes))


# ---- what is said --------------------------------------------------------------------------------------------------------

SIGNS = {"pass": "ok  ", "fail": "FAIL", "note": "note", "skip": "-   "}


def as_text(report: Report) -> str:
    """The report for a terminal."""
    width = max(len(one.name) for one in report.checks)
    lines = [f"{report.method}  (its equation: groupwise explain {report.method})", ""]
    for one in report.checks:
        size = f"{one.max_error:8.1e}" if one.status in ("pass", "fail") else " " * 8
        said = one.message if one.status in ("note", "skip") else ""
        lines.append(f"  {SIGNS[one.status]}  {one.name:<{width}}  {size}  {said}".rstrip())
        if one.status == "fail":
            lines += ["", *(f"        {line}".rstrip() for line in text_of(one.message, one.example).splitlines()), ""]
    failed = [one.name for one in report.checks if one.status == "fail"]
    lines += ["", f"{report.method}: {len(failed)} of {len(report.checks)} checks failed ({', '.join(failed)})" if failed else
              f"{report.method}: all checks passed"]
    return "\n".join(lines)


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON values."""
    return {"method": report.method, "composition": report.composition, "ok": report.ok,
            "checks": [{"name": one.name, "status": one.status, "max_error": one.max_error, "message": one.message,
                        "example": one.example} for one in report.checks]}
