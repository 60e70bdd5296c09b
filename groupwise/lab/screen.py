"""Explanations and comparisons on a terminal."""

from collections.abc import Iterable

from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from groupwise.lab.boxes import Box, column, draw
from groupwise.lab.diff import Change, Difference, equations_side_by_side
from groupwise.lab.equations import Equation
from groupwise.lab.explain import Explanation
from groupwise.lab.toy import Worked

WIDTH = 120
"""Columns where the output is not a terminal."""
HALF = 7
"""Columns of a bar on each side of zero."""


def console() -> Console:
    """A console as wide as the terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=WIDTH)


def show(one: Explanation, to: Console) -> None:
    """Print an explanation."""
    to.print(Text(f"{one.name}: {one.title}" if one.title != one.name else one.name, style="bold"))
    if one.paper.citation:
        to.print(Text(one.paper.citation, style="italic"))
    for name, said in (("source", one.source), ("departs", one.departs), ("file", one.file), ("hash", one.hash)):
        to.print(Text.assemble((f"{name + ':':<9}", "dim"), said))
    _head(to, "Equation", "as composed, with its numbers")
    gradient = [e for e in one.equations if e.name in ("gradient", "slope")]
    _equations(to, [e for e in one.equations if e not in gradient])
    if one.published:
        to.print(Text("\nas its file quotes it from the paper:", style="dim"))
        to.print(Text("\n".join(f"  {line}" for line in one.published.splitlines()), style="dim"))
    _head(to, "Gradient", "with respect to a token's log-prob ℓ")
    _equations(to, gradient)
    _letters(to, one)
    if one.arguments:
        _head(to, "Arguments")
        to.print(_fields([(f.name, f.value, f.default, f.meaning) for f in one.arguments], "argument"))
    _head(to, "Parts")
    to.print(_parts(one))
    _head(to, "Around the objective")
    facts = [(name, escape(said)) for name, said in one.facts.items()]
    facts += [(name, escape(how) + (f"\n[dim]{escape(said)}[/dim]" if said else "")) for name, how, said in one.around]
    to.print(_grid(facts))
    _head(to, "A worked example", "a toy batch through the objective's own credit, weigh and loss; ratios as at a later step")
    _worked(to, one)


def show_difference(one: Difference, to: Console) -> None:
    """Print a comparison."""
    a, b = one.a.name, one.b.name
    to.print(Text(f"{a}  →  {b}", style="bold"))
    to.print(Text(f"{one.a.title}  →  {one.b.title}", style="italic"))
    if one.same:
        to.print("The same objective in the same surroundings.")
    if one.changes or one.around:
        _head(to, "Parts that differ")
        to.print(_changes([*one.changes, *one.around], a, b))
    sides = equations_side_by_side(one)
    if sides:
        _head(to, "Equations that differ")
        room = (to.width - 22) // 2
        for name, left, right in sides:
            boxes = [fitted(side, room) if side else Box(("-",)) for side in (left, right)]
            _pair(to, name, boxes, (a, b), room)
    _head(to, "The gradient of the same toy batch", "∂L/∂ℓ per token; bars point right where the token is made likelier")
    _gradients(to, one)


def _head(to: Console, title: str, more: str = "") -> None:
    to.print()
    to.print(Text.assemble((title, "bold cyan"), (f"  {more}" if more else "", "dim")))


def _equations(to: Console, found: Iterable[Equation]) -> None:
    tall = False
    for n, one in enumerate(found):
        whole = fitted(one, to.width - 4)
        if n and (tall or len(whole.lines) > 1):
            to.print()
        tall = len(whole.lines) > 1
        to.print(_drawn(whole, one.note))


def fitted(one: Equation, room: int) -> Box:
    """An equation in so many columns: every further summand on a line of its own where the whole is too wide."""
    whole = draw(one.latex)
    if whole.width <= room:
        return whole
    first = draw(f"{one.left} = {one.right[0]}")
    margin = Box((" " * (draw(f"{one.left} =").width + 1),))
    return column([first, *(margin + draw(part) for part in one.right[1:])])


def _drawn(drawn: Box, note: str = "") -> Text:
    """An equation set in from the margin, with a remark on its own line of text."""
    lines = [f"  {line}".rstrip() + (f"    [{note}]" if note and i == drawn.base else "") for i, line in enumerate(drawn.lines)]
    return Text("\n".join(lines), no_wrap=True, overflow="ignore")


def _letters(to: Console, one: Explanation) -> None:
    rows = [(" ".join(line.strip() for line in draw(letter).lines), meaning) for letter, meaning in one.letters.items()]
    _head(to, "Letters")
    to.print(_grid([(letter, escape(meaning)) for letter, meaning in rows], columns=2))


def _grid(rows: list[tuple[str, str]], columns: int = 1) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(columns):
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
    for i in range(0, len(rows), columns):
        table.add_row(*[x for j, row in enumerate(rows[i:i + columns]) for x in (f"  {row[0]}" if j == 0 else row[0], row[1])])
    return table


def _fields(rows: list[tuple[str, str, str, str]], first: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=True)
    for name in (first, "value", "default", "meaning and unit"):
        table.add_column(name, no_wrap=name == first)
    for name, value, default, meaning in rows:
        table.add_row(name, Text(value, style="bold" if value != default else ""), Text(default, style="dim"), Text(meaning))
    return table


def _parts(one: Explanation) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=True)
    for name in ("where", "part", "field", "value", "default", "meaning and unit"):
        table.add_column(name, no_wrap=name in ("part", "field"))
    for part in one.parts:
        table.add_row(part.role, Text(part.name, style="bold"), "", "", "", Text(part.says, style="dim"),
                      end_section=not part.fields)
        for i, f in enumerate(part.fields):
            value, default = Text(f.value, style="bold" if f.value != f.default else ""), Text(f.default, style="dim")
            table.add_row("", "", f.name, value, default, Text(f.meaning), end_section=i == len(part.fields) - 1)
    return table


def _worked(to: Console, one: Explanation) -> None:
    if one.worked is None:
        to.print(Text(f"  no table: {one.trouble}", style="yellow"))
        return
    to.print(table_of(one.worked))
    many = len(one.worked.rows[0].by_term) > 1
    to.print(Text("  r reward, A advantage, ρ ratio, w weight; stopped: the trust rule took the gradient away"
                  + ("; the last columns are the summands of ∂L/∂ℓ" if many else ""), style="dim"))
    to.print(Text(f"  loss {one.worked.loss:.6g}"))
    for note in one.worked.notes:
        to.print(Text(f"  {note}"))
    for name, size in (one.worked.other or {}).items():
        to.print(Text(f"  there is a gradient to {name} too, at most {size:.4g} in size"))


def table_of(worked: Worked) -> Table:
    """The worked table: a row per token, a rule after each completion."""
    terms = list(worked.rows[0].by_term) if len(worked.rows[0].by_term) > 1 else []
    corrected = any(row.correction != 1 for row in worked.rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 1))
    for name in ("group", "answer", "token", "r", "A", "ρ", "stopped", *(["C"] if corrected else []), "w", "∂L/∂ℓ"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("   less | more", justify="left", no_wrap=True)
    for name in terms:
        table.add_column(f"of {name}", justify="right", no_wrap=True)
    top = max(abs(row.gradient) for row in worked.rows) or 1.0
    for row, follows in zip(worked.rows, (*worked.rows[1:], None), strict=True):
        last = follows is None or follows.token == 1
        cells = [str(row.group) if row.token == 1 else "", str(row.completion) if row.token == 1 else "", str(row.token),
                 f"{row.reward:g}" if row.token == 1 else "", _number(row.advantage), _number(row.ratio),
                 row.fate, *([_number(row.correction)] if corrected else []), f"{row.weight:.4f}",
                 _signed(row.gradient)]
        table.add_row(*cells, bar(row.gradient / top), *[_signed(row.by_term[name]) for name in terms],
                      style="dim" if row.stopped else "", end_section=last)
    return table


def bar(size: float) -> Text:
    """A bar for a gradient in [-1, 1]: to the right, green, where the step makes the token likelier."""
    n = min(HALF, round(abs(size) * HALF)) or (1 if abs(size) > 1e-9 else 0)
    block = "█" * n if abs(size) * HALF >= 0.5 else "▏" * min(n, 1)
    if size > 0:
        return Text.assemble((f"{block:>{HALF}}", "red"), ("│", "dim"), " " * HALF)
    return Text.assemble(" " * HALF, ("│", "dim"), (f"{block:<{HALF}}", "green"))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _signed(value: float) -> str:
    """Five places with a sign; what is exactly zero is 0."""
    return f"{value:+.5f}" if value else "0"


def _changes(rows: list[Change], a: str, b: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=True)
    for name in ("where", "field", a, b):
        table.add_column(Text(name), no_wrap=name in ("where", "field"))
    for change in rows:
        if not change.fields:
            table.add_row(change.role, "", Text(change.a or "-", style="red"), Text(change.b or "-", style="green"))
        for name, old, new in change.fields:
            table.add_row(f"{change.role} ({change.a})", name, Text(old, style="red"), Text(new, style="green"))
    return table


def _pair(to: Console, name: str, boxes: list[Box], names: tuple[str, str], room: int) -> None:
    """Side by side if there is room, else one above the other."""
    texts = [Text("\n".join(line.rstrip() for line in one.lines), no_wrap=True, overflow="ignore") for one in boxes]
    table = Table.grid(padding=(0, 3))
    if all(one.width <= room for one in boxes):
        table.add_column(width=12)
        table.add_column(width=room)
        table.add_column(width=room)
        table.add_row(Text(f"  {name}", style="dim"), *texts)
    else:
        for which, one in zip(names, texts, strict=True):
            table.add_row(Text(f"  {name}", style="dim"), Text(which, style="bold"), one)
    to.print(table)
    to.print()


def _gradients(to: Console, one: Difference) -> None:
    for side in (one.a, one.b):
        if side.worked is None:
            to.print(Text(f"  {side.name}: no table: {side.trouble}", style="yellow"))
    if not one.rows:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=True)
    for name in ("group", "answer", "token", one.a.name, "", one.b.name, " ", "stopped by"):
        table.add_column(name, justify="left" if not name.strip() or name == "stopped by" else "right", no_wrap=True)
    tops = [max(abs(x) for x in side) or 1.0 for side in ([r.a for r in one.rows], [r.b for r in one.rows])]
    for row, follows in zip(one.rows, (*one.rows[1:], None), strict=True):
        first, last = row.token == 1, follows is None or follows.token == 1
        table.add_row(str(row.group) if first else "", str(row.completion) if first else "", str(row.token),
                      _signed(row.a), bar(row.a / tops[0]), _signed(row.b), bar(row.b / tops[1]),
                      _stopped(row.stopped_a, row.stopped_b, one.a.name, one.b.name), end_section=last)
    to.print(table)
    to.print(_grid(summary(one)))


def summary(one: Difference) -> list[tuple[str, str]]:
    """The comparison of both gradients in words and numbers."""
    a, b = one.a.name, one.b.name
    rows = [("cosine", "-" if one.cosine is None else f"{one.cosine:.4f}"),
            ("norms", f"{a} {one.norms[0]:.5f}, {b} {one.norms[1]:.5f}"),
            ("ratio of norms", "-" if one.ratio is None else f"{one.ratio:.4f}  ({b} over {a})")]
    for name, tokens in ((a, one.stopped_by["a"]), (b, one.stopped_by["b"])):
        said = ", ".join(f"{g}.{i}.{t}" for g, i, t in tokens)
        rows.append((f"stopped by {name} alone", f"{said}  (group.answer.token)" if said else "none"))
    return rows


def _stopped(a: bool, b: bool, first: str, second: str) -> RenderableType:
    if a and b:
        return Text("both", style="dim")
    return Text(first if a else second if b else "", style="yellow")


