"""Fills the generated sections of README.md: the table of methods from the code, the results from bench/results/train-*.json.

    python bench/readme.py            writes them
    python bench/readme.py --check    exit code 1 if the README is out of date

A results file holds {"command": ..., "machine": ..., "rows": [{"seed", "before", "after", "seconds", "tokens"}, ...]}; `before`
and `after` are held-out accuracies {"value", "low", "high", "n"}, shares with a 95 % interval, as in a run's summary.json.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout is enough: nothing has to be installed

from groupwise.methods import METHODS  # noqa: E402
from groupwise.methods.method import Method  # noqa: E402
from groupwise.methods.update import Once  # noqa: E402
from groupwise.objective.baselines import NoBaseline, One  # noqa: E402
from groupwise.objective.correction import Uncorrected  # noqa: E402
from groupwise.objective.credit import Advantage, Reward  # noqa: E402
from groupwise.objective.objective import Objective  # noqa: E402
from groupwise.objective.terms import Policy, Term  # noqa: E402
from groupwise.objective.trust import LogProb  # noqa: E402
from groupwise.run.catalogue import Entry, catalogue, default  # noqa: E402

README = ROOT / "README.md"
RESULTS = ROOT / "bench" / "results"
COLUMNS = ("baseline", "scale", "ratio", "trust", "aggregate", "besides")
NONE = "-"


def words(part: Any) -> str:
    """A part's name in plain words: `LeaveOneOut()` is leave one out, a function by its own name; neutral parts are a dash."""
    if isinstance(part, NoBaseline | One):
        return NONE
    name = part.__name__ if isinstance(part, FunctionType | type) else type(part).__name__
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").lower()


def numbers(part: Any) -> str:
    """A part's name with the numbers that are set in it: clip (low 0.2, high 0.28)."""
    own = {f.name: getattr(part, f.name) for f in fields(part)} if is_dataclass(part) else {}
    said = [f"{name} {value:g}" for name, value in own.items() if isinstance(value, int | float) and not isinstance(value, bool)]
    return words(part) + (f" ({', '.join(said)})" if said else "")


def parts(method: Method) -> dict[str, str]:
    """What a method is composed of, a few words for each column."""
    objective = method.objective
    credit, policy = objective.credit_by, next((term for term in objective.terms if isinstance(term, Policy)), None)
    return {
        "baseline": words(credit.baseline if isinstance(credit, Advantage) else credit),
        "scale": words(credit.scale) if isinstance(credit, Advantage) else NONE,
        "ratio": NONE if policy is None or isinstance(policy.trust, LogProb) else words(policy.ratio),
        "trust": NONE if policy is None else numbers(policy.trust),
        "aggregate": words((policy or objective.terms[0]).aggregate),
        "besides": ", ".join([*_of_objective(objective, policy), *_around(method)]) or NONE,
    }


def _of_objective(objective: Objective, policy: Term | None) -> Iterable[str]:
    """What an objective has besides plain credit and its policy term."""
    credit = objective.credit_by
    if isinstance(credit, Advantage):
        if not isinstance(credit.signal, Reward):
            yield words(credit.signal)
        if credit.key != "group":
            yield f"per {credit.key}"
        if credit.transform is not None:
            yield words(credit.transform)
    yield from (f"{term.name.replace('_', ' ')} {term.coef:g}" for term in objective.terms if term is not policy)
    if not isinstance(objective.correction, Uncorrected):
        yield words(objective.correction)


def _around(method: Method) -> Iterable[str]:
    """What a method does outside of its objective."""
    neutral = Method(objective=method.objective)
    yield from (f"{words(rule)} groups only" for rule in method.admit)
    yield from (words(part) for part in ((method.refill,) if method.refill else ()) + method.shape + method.intervene)
    kept = ((method.planner, neutral.planner), (method.state, neutral.state))
    yield from (words(own) for own, plain in kept if own is not plain)
    if not isinstance(method.update, Once):
        yield numbers(method.update)


def linked(title: str) -> str:
    """A title with its arXiv number as a link."""
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", title.rstrip("."))


def row(cells: Iterable[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def methods_table(entries: list[Entry]) -> str:
    """One line per method: its file, its paper, its parts, and where its equation was taken from."""
    lines = [row(["method", "paper", *COLUMNS, "source"]), row(["---"] * (len(COLUMNS) + 3))]
    for one in entries:
        of = parts(default(METHODS[one.name]))
        lines.append(row([f"[`{one.name}`](groupwise/{one.file})", linked(one.title), *(of[name] for name in COLUMNS),
                          one.source.rstrip(".")]))
    return "\n".join(lines)


def share(found: dict[str, Any]) -> str:
    """An accuracy with its interval."""
    return f"{found['value']:.1%} [{found['low']:.1%}, {found['high']:.1%}]"


def results_row(name: str, before: str, after: str, seconds: float, tokens: float) -> str:
    """One line of a table of results."""
    return row([name, before, after, f"{seconds / 60:.1f}", f"{tokens:,.0f}"])


def results_table(found: dict[str, Any]) -> str:
    """Before and after, seed by seed, under the command that gives it."""
    rows = found["rows"]
    lines = [f"    {found['command']}", "",
             f"Held-out greedy accuracy on {rows[0]['after']['n']} problems (95 % intervals); {found['machine']}.", "",
             row(["seed", "before", "after", "minutes", "tokens sampled"]), row(["---:"] * 5)]
    lines += [results_row(str(one["seed"]), share(one["before"]), share(one["after"]), one["seconds"], one["tokens"])
              for one in rows]
    if len(rows) > 1:
        before, after = (statistics.mean(one[when]["value"] for one in rows) for when in ("before", "after"))
        seconds, tokens = (statistics.mean(one[what] for one in rows) for what in ("seconds", "tokens"))
        lines.append(results_row("mean", f"{before:.1%}", f"{after:.1%}", seconds, tokens))
    return "\n".join(lines)


def results(folder: Path) -> str:
    """The tables of all results files of a folder; empty if there are none."""
    files = sorted(folder.glob("train-*.json"))
    return "\n\n".join(results_table(json.loads(file.read_text(encoding="utf-8"))) for file in files)


def filled(text: str, section: str, content: str) -> str:
    """The text with what stands between a section's two marks replaced."""
    marks = [f"<!-- {section}: {end} -->" for end in ("begin", "end")]
    if [text.count(mark) for mark in marks] != [1, 1] or text.index(marks[0]) > text.index(marks[1]):
        raise SystemExit(f"README.md must hold {marks[0]} and, after it, {marks[1]}, once each")
    before, rest = text.split(marks[0])
    return f"{before}{marks[0]}\n{content}{chr(10) if content else ''}{marks[1]}{rest.split(marks[1])[1]}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fill the generated sections of README.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the README is out of date")
    check = parser.parse_args(argv).check
    old = README.read_text(encoding="utf-8")
    new = filled(filled(old, "methods", methods_table(catalogue())), "results", results(RESULTS))
    if check and new != old:
        print("README.md is out of date: run `python bench/readme.py`", file=sys.stderr)
        return 1
    if new != old:
        README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
