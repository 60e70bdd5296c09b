"""Conformance on the screen: a matrix of kinds against implementations, what disagrees, and what the vectors are made of."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from groupwise.lab.conformance import Row


def table(data: Mapping[str, Any], rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The matrix of kinds (first word of an id) against implementations: headings, and a line per kind of "passed/total"."""
    source = {str(v["id"]): _short(str(v["implementation"])) for v in data["vectors"]}
    sources = list(dict.fromkeys(source[row.id] for row in rows))
    kinds = list(dict.fromkeys(row.id.partition(".")[0] for row in rows))
    lines = []
    for kind in kinds:
        cells = []
        for name in sources:
            own = [row.status == "pass" for row in rows if source[row.id] == name and row.id.startswith(f"{kind}.")]
            cells.append(f"{sum(own)}/{len(own)}" if own else "")
        lines.append([kind, *cells])
    return ["", *sources], lines


def _short(implementation: str) -> str:
    """A name for a column: the project, and the first letters of its commit."""
    name, _, commit = implementation.partition("@")
    name = name.partition("/")[2] or re.split(r"[(,]", name)[0].strip()
    return f"{name}\n{commit[:7]}" if commit else name.replace(" ", "\n")


def show(data: Mapping[str, Any], rows: Sequence[Row], console: Console | None = None) -> None:
    """Print it."""
    console = console or Console(highlight=False)
    headings, lines = table(data, rows)
    shown = Table(*headings, title="golden vectors that agree", title_justify="left", box=None, pad_edge=False)
    for line in lines:
        shown.add_row(*line)
    console.print(shown)
    for row in (row for row in rows if row.status != "pass"):
        off = f"off by {row.max_error:.3g}, allowed {row.tolerance:g}" if row.status == "fail" else row.note
        console.print(f"\n[bold red]{row.status}[/] {row.id}: {off}")
        console.print(f"  {row.objective}", markup=False)
    for row in (row for row in rows if row.path == "direct"):
        console.print(f"direct  {row.id}: {row.note}", markup=False)
    for row in (row for row in rows if row.variant):
        console.print(f"variant {row.id}: depends on how a step is cut into micro-batches", markup=False)
    passed, trained = [row for row in rows if row.status == "pass"], [row for row in rows if row.path == "train"]
    through = f", {len(trained)} of them through the credit, weights and loss of training, by " \
              f"{len({row.hash for row in trained})} different objectives" if trained else ""
    console.print(f"\n{len(passed)} of {len(rows)} vectors agree{through}")
    if passed:
        worst = max(passed, key=lambda row: row.max_error)
        exact = max((row for row in passed if row.tolerance < 1e-8), key=lambda row: row.max_error, default=worst)
        console.print(f"largest deviation {worst.max_error:.2g} ({worst.id}, allowed {worst.tolerance:g}); of those whose "
                      f"reference is exact {exact.max_error:.2g} ({exact.id})")
