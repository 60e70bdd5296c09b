"""A comparison as tables for the console, and as one self-contained page with curves."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from groupwise.lab.arm_record import AXES
from groupwise.lab.figure import figure
from groupwise.lab.page import page
from groupwise.lab.scorecard import Table, aligned, drawn, section
from groupwise.run import toml
from groupwise.run.look import Look, Panel, Series
from groupwise.run.look import drawn as there

SHARES = ("accuracy", "greedy", "avg", "pass@", "cut", "distinct", "clip_", "ess", "informative", "flipped", "lost", "empty")
LABELS = {
    "accuracy": "held-out accuracy, greedy, at the end", "accuracy_at_tokens": "the same, at equal tokens",
    "accuracy_over_run": "the same, mean over the run's tokens", "greedy": "greedy pass@1 of the model",
    "avg": "avg@n of drawn answers", "tokens_right": "tokens of right answers", "tokens_wrong": "tokens of wrong answers",
    "cut": "answers out of tokens", "distinct_texts": "different texts per drawn answer",
    "distinct_answers": "different answers per drawn answer", "entropy": "entropy, last tenth of the run (nats a token)",
    "clip_high": "clipped above, mean of the run", "clip_low": "clipped below", "ess": "effective sample size of the ratios",
    "informative": "groups with a contrast", "grad_norm": "gradient norm before clipping",
    "noise_base": "gradient noise / signal, at the base", "noise_final": "gradient noise / signal, at the end",
    "flipped_base": "advantage signs flipped, base", "flipped_final": "advantage signs flipped, end",
    "lost_base": "advantages lost, base", "lost_final": "advantages lost, end", "empty_base": "groups without advantage, base",
    "empty_final": "groups without advantage, end", "steps": "steps", "tokens": "tokens sampled", "seconds": "seconds of steps"}
FIRST = ("accuracy", "accuracy_at_tokens", "accuracy_over_run", "greedy", "avg")
PANELS = (
    Panel("Held-out accuracy (greedy)", "", (Series("value", "accuracy", "evaluations", ("value/low", "value/high")),),
          zero=False),
    *(Panel(title, unit, tuple(Series(name, label, "metrics", (f"{name}/low", f"{name}/high")) for name, label in series),
            zero=zero)
      for title, unit, zero, series in (
          ("Reward of drawn answers", "", False, (("reward", "reward"),)),
          ("Length", "tokens", True, (("length_right", "right"), ("length_wrong", "wrong"))),
          ("Entropy", "nats a token", True, (("entropy", "entropy"),)),
          ("Clipped", "share", True, (("clip_high", "above"), ("clip_low", "below"))),
          ("Effective sample size", "", False, (("ess", "of the ratios"),)),
          ("Groups with a contrast", "share", True, (("informative", "mixed rewards"),)),
          ("Gradient norm", "before clipping", True, (("grad_norm", "norm"),)),
          ("Truncated", "share", True, (("truncated", "all"),)))))
STYLE = """
.axes { margin: .4rem 0; } .axes input { margin: 0 .3rem 0 1rem; } .axes .curves { display: none; margin-top: .6rem; }
#by-tokens:checked ~ .against-tokens, #by-seconds:checked ~ .against-seconds, #by-steps:checked ~ .against-steps
  { display: grid; }
.warn { border-left: 3px solid var(--mark); padding: .2rem .8rem; margin: .3rem 0; }
.good { border-left: 3px solid var(--up); padding: .2rem .8rem; margin: .3rem 0; }
body { max-width: 1300px; }
"""
SAID = (
    "Pairs are seeds: both runs begin with the same weights, prompts and random numbers. `difference` has a 95 % bootstrap "
    "interval over seeds (expanded percentile, Hesterberg 2015), `p` is that of a sign-flip test over seeds (exact up to 16), "
    "`detectable` what so many seeds find in 80 % of cases at 5 %, `more seeds` what the effect asked (or seen) would take.")
PROBLEMS = (
    "Problem by problem: Agresti and Min's interval and a sign-flip test, for these trained models. `models to come` draws seeds "
    "and problems anew (pigeonhole bootstrap, Owen 2007): what training again, and asking other problems, would give.")
REPEATS = (
    "`noise / signal`: the prompts of the first step answered {repeats} times; trace of the covariance of a batch's gradient "
    "over the squared norm of its mean, both estimated without bias from inner products of the repeats (McCandlish et al. 2018). "
    "`flipped`, `lost`: rollouts whose advantage has another sign, or none, against one group of all {repeats} repeats.")


def tables(found: Mapping[str, Any]) -> Iterator[Table]:
    """What is the matter, most important first."""
    names = [one["name"] for one in found["arms"]]
    apart = found["differences"]
    rows = [(kind, one["path"], *(_plain(value) for value in one["values"]))
            for kind, part in (("other", "other"), ("method", "method"), ("composition", "composition")) for one in apart[part]]
    yield Table("What differs", ("kind", "setting", *names), rows)
    order = [name for name in (*FIRST, *(n for n in found["metrics"] if n not in FIRST)) if name in found["metrics"]]
    yield Table("Means over seeds", ("number", *names), [
        (label(name), *(written(name, one["means"].get(name)) for one in found["arms"])) for name in order],
        ("95 % intervals over seeds (Student's).", REPEATS.format(repeats=found["plan"]["repeats"])))
    for pair in found["pairs"]:
        yield Table(f"{pair['arm']} less {pair['less']}, seed by seed",
                    ("number", "difference", "p", "sd", "detectable", "more seeds"), [
            (label(name), written(name, one, signed=True), f"{one['p']:.2g}", value(name, one["sd"]),
             value(name, one["detectable"]),
             "-" if one["n"] < 2 else "over 1000" if one["more"] is None else str(one["more"]))
            for name in order if (one := pair["by_seed"].get(name))], (SAID,))
        for metric, own in pair["by_problem"].items():
            rows = [(f"seed {one['seed']}", written("avg", one, signed=True), f"{one['p']:.2g}", str(one["n"])) for one
                    in own["seeds"]]
            rows.append(("mean, these models", written("avg", own["mean"], signed=True), f"{own['mean']['p']:.2g}",
                         str(own["mean"]["n"])))
            rows.append(("mean, models to come", written("avg", own["mean"] | {"low": own["low"], "high": own["high"]},
                                                         signed=True), "-",
                         str(own["mean"]["n"])))
            yield Table(f"{pair['arm']} less {pair['less']}, problem by problem: {label(metric)}",
                        ("", "difference", "p", "problems"), rows, (PROBLEMS,))


def console(found: Mapping[str, Any]) -> str:
    """The tables as text; of the differences the scores, unless something else stands out (p at most 0.1)."""
    lines = []
    for table in tables(found):
        kept = table.rows
        if ", seed by seed" in table.title:
            kept = [row for row in table.rows if row[0] in map(label, FIRST) or float(row[2]) <= 0.1]
        if table.title != "What differs":  # said before the runs began
            lines += [*aligned(Table(table.title, table.heads, kept)), ""]
    return "\n".join([*lines, *verdict(found)])


def verdict(found: Mapping[str, Any]) -> list[str]:
    """Whether the arms are matched, and what to know."""
    matched = ["matched: the method alone differs" if found["matched"] else
               "NOT MATCHED, so that no difference is the method's alone: " + "; ".join(found["unmatched"])]
    return [*matched, f"prompts: {found['prompts']}", *(f"note: {note}" for note in found["notes"])]


def html(found: Mapping[str, Any], title: str = "groupwise compare", before: Sequence[Table] = ()) -> str:
    """The report as one page that needs no network."""
    names = [one["name"] for one in found["arms"]]
    body = [f"<h1>{escape(' against '.join(names))}</h1>",
            *(f"<p class={'good' if line.startswith('matched') else 'warn'}>{escape(line)}</p>" for line in verdict(found)),
            *map(section, before)]
    every = list(tables(found))
    body += [section(every[0]), "<h2>Curves</h2>", "<p class=note>Means over seeds with 95 % intervals (Student's).</p>",
             _curves(found)]
    body += ["<h2>Lengths and pass@k of drawn answers</h2>", '<div class="curves">', *_ends(found), "</div>"]
    body += [*map(section, every[1:]), "<h2>Runs</h2>", drawn(_runs(found)), "<h2>Settings</h2>"]
    body += [f"<details><summary>{escape(one['name'])}</summary><pre>{escape(_settings(one['settings']))}</pre></details>"
             for one in found["arms"]]
    body.append(f"<pre>{escape(toml.document({'machine': found['machine'], 'plan': found['plan']}))}</pre>")
    style = (resources.files("groupwise.lab") / "report.css").read_text(encoding="utf-8")
    return page(title, body, style + STYLE)


def label(name: str) -> str:
    """A number in words."""
    return LABELS.get(name, name)


def value(name: str, number: float | None, signed: bool = False) -> str:
    """A number as it is read: shares in per cent."""
    if number is None or number != number:
        return "-"
    sign = "+" if signed else ""
    if name.startswith(SHARES):
        return format(number, f"{sign}.1%")
    return format(number, f"{sign},.4g" if abs(number) < 1e4 else f"{sign},.0f")


def written(name: str, one: Mapping[str, Any] | None, signed: bool = False) -> str:
    """A number with its interval."""
    if one is None or one["value"] is None:
        return "-"
    ends = [one[end] for end in ("low", "high")]
    if name.startswith(SHARES) and not signed and None not in ends:
        ends = [min(1.0, max(0.0, end)) for end in ends]  # Student's interval knows no bounds
    ends = [value(name, end, signed) for end in ends]
    return value(name, one["value"], signed) + ("" if "-" in ends else f" [{', '.join(ends)}]")


def _plain(given: Any) -> str:
    return "(not there)" if given is None else str(given)


def _settings(flat: Mapping[str, Any]) -> str:
    return "\n".join(f"{name} = {toml.literal(given)}" for name, given in flat.items())


def _looks(found: Mapping[str, Any], rows: Sequence[Sequence[Mapping[str, Any]]]) -> list[Look]:
    """Rows of numbers as if they were runs, which the figures know how to draw: `step` is any axis."""
    return [Look(Path(one["name"]), {"name": one["name"]}, some, (), some) for one, some in zip(found["arms"], rows, strict=True)]


def _curves(found: Mapping[str, Any]) -> str:
    """All panels against each axis, of which one is shown."""
    switches, grids = [], []
    for i, (axis, words) in enumerate(AXES.items()):
        switches.append(f"<input type=radio name=axis id=by-{axis}{' checked' * (i == 0)}><label "
                        f"for=by-{axis}>{escape(words)}</label>")
        curves = found["curves"][axis]
        figures = []
        for panel in PANELS:
            names = [series.column for series in panel.series]
            rows = [[{k: v for name in names for k, v in row[name].items()}
                     for row in (dict(zip(names, each, strict=True)) for each in zip(*(one[name] for name in names),
                                                                                     strict=True))]
                    if all(name in one for name in names) else [] for one in curves]
            looks = _looks(found, rows)
            if there(panel, looks):
                figures.append(figure(panel, looks))
        grids.append(f'<div class="curves against-{axis}">{"".join(figures)}</div>')
    return f'<div class="axes">{"".join(switches)}{"".join(grids)}</div>'


def _ends(found: Mapping[str, Any]) -> Iterator[str]:
    """Lengths by verdict, before and after, as shares of all answers; pass@k."""
    for title, key in (("Lengths before training", "base_lengths"), ("Lengths after training", "lengths")):
        rows = [_shares(one[key]) for one in found["arms"]]
        panel = Panel(title, "share of answers by tokens", (Series("right", "right"), Series("wrong", "wrong")))
        looks = _looks(found, rows)
        if any(rows):
            yield figure(panel, looks if key == "lengths" else looks[:1])
    rows = [one["pass_at"] for one in found["arms"]]
    if all(len(some) > 1 for some in rows):
        yield figure(Panel("pass@k", "by k", (Series("pass", "pass@k", "metrics", ("pass/low", "pass/high")),), zero=False),
                     _looks(found, rows))


def _shares(counts: Mapping[str, Mapping[str, int]], bins: int = 24) -> list[dict[str, float]]:
    """A histogram of lengths by verdict, both over the number of all answers."""
    every = [int(n) for side in counts.values() for n in side]
    if not every:
        return []
    width, total = max(1, -(-(max(every) + 1) // bins)), sum(sum(side.values()) for side in counts.values())
    return [{"step": (i + 0.5) * width, **{name: sum(k for n, k in side.items() if int(n) // width == i) / total
                                           for name, side in counts.items()}} for i in range(max(every) // width + 1)]


def _runs(found: Mapping[str, Any]) -> Table:
    rows = [(one["name"], str(run["seed"]), Path(run["folder"]).name, value("accuracy", run.get("accuracy")),
             f"{run['steps']:.0f}",
             f"{run['tokens']:,.0f}", f"{run['seconds']:.0f}") for one in found["arms"] for run in one["runs"] if run]
    return Table("Runs", ("arm", "seed", "run", "accuracy", "steps", "tokens", "seconds"), rows)
