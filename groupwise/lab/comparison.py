"""`groupwise compare`: matched runs of several arms over several seeds, and what their differences are worth.

Every run is an ordinary one, in runs/ under a name made of its content; what is there already is not run again.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

import groupwise
from groupwise.errors import ConfigError
from groupwise.lab.arm_record import AXES, METRICS, Record, lengths, powers, spoken
from groupwise.lab.arm_run import Wanted
from groupwise.lab.arms import Arm, differing, run_of
from groupwise.lab.side_by_side import Outcome, side_by_side
from groupwise.methods.method import Method
from groupwise.run.config import to_toml
from groupwise.run.machine import cores
from groupwise.run.paired import band, crossed, paired
from groupwise.run.scores import difference
from groupwise.run.toml import read
from groupwise.sampling.planner import Shuffled

FEW = 5
"""Fewer seeds than this are warned of."""
CLOSE = 0.02
"""Mean tokens that differ by more than this part are not a matched budget."""
PLACES = 40
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How much is run and measured: seeds, processes at a time (0: one for each core), drawn answers for each held-out problem,
    problems at most (0: all of the run's evaluations), repeats of a batch's groups (0: none), and the difference in accuracy that
    matters (0: the one that is seen).
    """

    seeds: int = 5
    jobs: int = 0
    samples: int = 8
    problems: int = 0
    repeats: int = 8
    effect: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("seeds", 1), ("jobs", 0), ("samples", 0), ("problems", 0), ("repeats", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.repeats == 1:
            raise ConfigError("repeats=1 shows no variance: take 2 or more, such as 8, or 0 to leave it out")
        if not 0.0 <= self.effect < 1.0:
            raise ConfigError(f"effect is a difference of shares, such as 0.02, got {self.effect}")


def compare(found: Sequence[Arm], plan: Plan, say: Say, pairs: Sequence[tuple[int, int]] = ()) -> dict[str, Any]:
    """Run what is missing and compare; `pairs` are (arm, arm that it is less), all with the first by default. As JSON values."""
    found = [_alone(one) for one in found]
    say("\n".join(headline(found)))
    jobs = plan.jobs or (1 if any(_on_gpu(one) for one in found) else cores())
    wanted = [(one.name, run_of(one, one.run.seed + s)) for s in range(plan.seeds) for one in found]
    problems = plan.problems or max(one.run.eval_prompts for one in found)
    work = [(f"{name} seed {run.seed}", Wanted(to_toml(run), plan.samples, problems, plan.repeats, run.seed == found[0].run.seed))
            for name, run in wanted]
    outcomes = side_by_side(work, jobs, say)
    records = [[_record(work[s * len(found) + a][1], outcomes[s * len(found) + a]) for s in range(plan.seeds)]
               for a in range(len(found))]
    return results(found, records, plan, pairs or [(a, 0) for a in range(1, len(found))], outcomes)


def results(found: Sequence[Arm], records: Sequence[Sequence[Record | None]], plan: Plan, pairs: Sequence[tuple[int, int]],
            outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What the runs come to; a run that failed is None."""
    if bare := [one.name for one, some in zip(found, records, strict=True) if not any(some)]:
        raise ConfigError(f"no run of the arm {bare[0]!r} ended well: nothing to compare (see the messages above)")
    tokens = min(float(r.clocks["tokens"][-1]) for some in records for r in some if r)
    ends = [[r.ends(tokens) if r else {} for r in some] for some in records]
    names = list(dict.fromkeys(name for some in ends for one in some for name in one))
    meta = [_machine(r) for some in records for r in some if r]
    apart = differing(found)
    spent = [_mean_of(some, "tokens") for some in ends]
    unmatched = [f"{one.path}: {', '.join(map(str, one.values))}" for one in apart.other]
    unmatched += [f"{key} of the runs: {', '.join(sorted({str(m[key]) for m in meta}))}" for key in meta[0]
                  if len({str(m[key]) for m in meta}) > 1]
    if max(spent) > (1 + CLOSE) * min(spent):
        unmatched.append(f"tokens sampled: {', '.join(f'{x:,.0f}' for x in spent)} on average (a budget makes them the same: "
                         f"--budget)")
    return {
        "groupwise": groupwise.__version__, "seeds": plan.seeds, "plan": asdict(plan), "machine": meta[0],
        "tokens": tokens * 1000,
        "arms": [_arm(one, some, end) for one, some, end in zip(found, records, ends, strict=True)],
        "differences": asdict(apart), "matched": not unmatched, "unmatched": unmatched, "prompts": _prompts([one.method for one
                                                                                                             in found]),
        "metrics": names, "pairs": [_pair(found, records, ends, names, plan, a, b) for a, b in pairs],
        "curves": {axis: [_curves([r for r in some if r], axis) for some in records] for axis in AXES},
        "notes": _notes(plan, [o.trouble for o in outcomes if o.trouble]),
    }


def headline(found: Sequence[Arm]) -> list[str]:
    """What differs between arms, and what is the same, before anything is run."""
    apart = differing(found)
    lines = [f"arms: {', '.join(one.name for one in found)}"]
    lines += [f"  {one.path}: {' | '.join(map(str, one.values))}" for one in (*apart.method, *apart.other)]
    if not apart.method and apart.composition:
        lines += [f"  {one.path}: {' | '.join(map(str, one.values))}" for one in apart.composition]
    same = "the method alone differs: base weights, prompts, evaluation and all other settings are the same"
    return [*lines, same if not apart.other else
            f"NOT MATCHED: {', '.join(one.path for one in apart.other)} differ{'s' * (len(apart.other) == 1)} besides the method"]


def _alone(one: Arm) -> Arm:
    """The arm on one core, where nothing else was asked for: runs lie side by side."""
    own = one.run.learner
    return one if _on_gpu(one) else replace(one, run=replace(one.run, learner=replace(
        own, threads=own.threads or 1, workers=own.workers or 1)))


def _on_gpu(one: Arm) -> bool:
    return one.run.learner.device.startswith("cuda") or (one.run.learner.device == "auto" and torch.cuda.is_available())


def _record(wanted: Wanted, outcome: Outcome) -> Record | None:
    return None if outcome.trouble else Record(wanted, outcome.seconds)


def _machine(record: Record) -> dict[str, Any]:
    """Versions, device and who computes, as the run wrote them down."""
    file = record.wanted.folder / "run.toml"
    meta = read(file.read_text(encoding="utf-8"), str(file)).get("meta", {})
    return {key: meta.get(key) for key in ("groupwise", "torch", "transformers", "device", "compute", "threads", "workers")}


def _mean_of(rows: Sequence[dict[str, float]], name: str) -> float:
    return float(np.mean([row[name] for row in rows if name in row]))


def _arm(one: Arm, records: Sequence[Record | None], ends: Sequence[dict[str, float]]) -> dict[str, Any]:
    """An arm: its runs, the mean of every number with its interval over seeds, lengths, pass@k."""
    there = [r for r in records if r]
    means = {}
    for name in dict.fromkeys(name for end in ends for name in end):
        values = np.array([end[name] for end in ends if name in end])
        centre, low, high = band(values[:, None])[0]
        means[name] = {"value": centre, "low": low, "high": high, "n": len(values)}
    rows = [row for r in there for row in r.answers() if row["mode"] != "greedy"] or [row for r in there for row in r.answers()]
    base = next((r.answers("base") for r in there if r.wanted.base), [])
    drawn = [row for row in base if row["mode"] != "greedy"] or base
    ks = [k for k in powers(there[0].wanted.samples) if all(f"pass@{k}" in r.scores for r in there)]
    table = np.array([[np.mean(list(r.scores[f"pass@{k}"].values())) for k in ks] for r in there]).reshape(len(there), len(ks))
    return {"name": one.name, "method": one.run.method, "settings": one.settings, "base": one.base,
            "objective": one.method.objective.hash, "means": means,
            "runs": [{"folder": str(r.wanted.folder), "seed": r.wanted.run.seed, "made_now_seconds": r.seconds, **end}
                     if r else None for r, end in zip(records, ends, strict=True)],
            "lengths": {"right": _counts(lengths(rows, True)), "wrong": _counts(lengths(rows, False))},
            "base_lengths": {"right": _counts(lengths(drawn, True)), "wrong": _counts(lengths(drawn, False))},
            "base_answers": spoken(drawn),
            "pass_at": [{"step": k, "pass": c, "pass/low": max(0.0, lo), "pass/high": min(1.0, hi)}
                        for k, (c, lo, hi) in zip(ks, band(table), strict=True)]}


def _counts(found: Sequence[int]) -> dict[str, int]:
    """How many answers have so many tokens."""
    return {str(n): found.count(n) for n in sorted(set(found))}


def _pair(found: Sequence[Arm], records: Sequence[Sequence[Record | None]], ends: Sequence[Sequence[dict[str, float]]],
          names: Sequence[str], plan: Plan, a: int, b: int) -> dict[str, Any]:
    """What one arm has more than another: by seed for every number, and by problem for the scores."""
    rows = {}
    for name in names:
        both = [(x[name], y[name]) for x, y in zip(ends[a], ends[b], strict=True) if name in x and name in y]
        if both:
            x, y = np.array(both, dtype=np.float64).T
            rows[name] = asdict(paired(x, y, effect=plan.effect if name.startswith(("accuracy", "greedy", "avg", "pass"))
                                       else 0.0))
    there = [(x, y) for x, y in zip(records[a], records[b], strict=True) if x and y]
    return {"arm": found[a].name, "less": found[b].name, "by_seed": rows,
            "by_problem": {name: _by_problem(there, name) for name in ("greedy", "avg") if there and name in there[0][0].scores}}


def _by_problem(there: Sequence[tuple[Record, Record]], name: str) -> dict[str, Any]:
    """Differences of problems: of every seed, of the mean over seeds, and the interval with seeds and problems drawn anew."""
    tables = [(x.scores[name], y.scores[name]) for x, y in there]
    ids = [key for key in tables[0][0] if all(key in x and key in y for x, y in tables)]
    a, b = (np.array([[pair[i][key] for key in ids] for pair in tables]) for i in (0, 1))
    low, high = crossed(a, b)
    return {"seeds": [{"seed": x.wanted.run.seed, **asdict(difference(p, q))} for (x, _), p, q in zip(there, a, b, strict=True)],
            "mean": asdict(difference(a.mean(axis=0), b.mean(axis=0))), "low": low, "high": high}


def _curves(records: Sequence[Record], axis: str) -> dict[str, list[dict[str, float]]]:
    """Mean over seeds with Student's interval, of every metric, at places that all runs of the arm reach."""
    out = {}
    for name in ("value", *METRICS):
        curves = [r.curve(name, axis) for r in records]
        if not all(len(x) > 1 for x, _ in curves):
            continue
        first, last = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
        few = max(len(x) for x, _ in curves) < PLACES
        places = np.linspace(first, last, PLACES) if axis != "steps" or not few else np.array([x for x in curves[0][0]
                                                                                               if first <= x <= last])
        if name == "value" and axis != "steps":
            places = np.linspace(first, last, len(curves[0][0]))
        table = np.array([np.interp(places, x, y) for x, y in curves])
        out[name] = [{"step": round(float(x), 2), name: round(c, 5), f"{name}/low": round(lo, 5), f"{name}/high": round(hi, 5)}
                     for x, (c, lo, hi) in zip(places, band(table), strict=True)]
    return out


def _prompts(methods: Sequence[Method]) -> str:
    """Whether all arms see the same problems in the same order."""
    if any(one.refill is not None for one in methods):
        return ("one stream of problems in one order; a method with dynamic sampling draws more of it at each step, so its "
                "later steps "
                "hold other problems")
    if any(one.planner is not Shuffled for one in methods):
        return "a method plans its prompts by itself, so the problems of a step need not be the same"
    return "the same problems in the same order at every step"


def _notes(plan: Plan, troubles: Sequence[str]) -> list[str]:
    """What a reader must know."""
    notes = [f"a run was left out with its pairs: {text}" for text in troubles]
    if plan.seeds == 1:
        notes.append("one seed: nothing can be said about methods, whatever the difference; problems are another matter, but "
                     "they are "
                     "of these two models")
    elif plan.seeds < FEW:
        notes.append(f"{plan.seeds} seeds: bootstrap intervals reach no farther than the seeds that were seen; of normal "
                     f"differences "
                     "they hold the truth in 77 % of cases for 3 seeds, 91 % for 5, 93 % for 8")
    if 1 < plan.seeds < 6:
        notes.append(f"{plan.seeds} seeds: no sign-flip test of them can give p below {2.0 ** (1 - plan.seeds):g}")
    return notes


