"""What the methods say of themselves, read from their own files: the table of `groupwise methods`."""

import ast
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import groupwise
from groupwise.errors import ConfigError
from groupwise.methods import METHODS
from groupwise.methods.method import Method

ROOT = Path(groupwise.__file__).parent


@dataclass(frozen=True)
class Entry:
    """One method: `file` is relative to the package, `lines` counts code without docstrings, comments and blank lines."""

    name: str
    title: str
    equation: str
    departs: str
    source: str
    file: str
    lines: int
    parts: tuple[str, ...]
    hash: str


def catalogue() -> list[Entry]:
    """All methods, in the order of the table that lists them. Raises ConfigError if one lacks a part of its docstring."""
    return [entry(name, factory) for name, factory in METHODS.items()]


def entry(name: str, factory: Callable[..., Method]) -> Entry:
    """What one method says of itself, composed with its default arguments."""
    file = Path(sys.modules[factory.__module__].__file__ or "")
    text = file.read_text(encoding="utf-8")
    said = ast.get_docstring(ast.parse(text)) or ""
    objective = default(factory).objective
    return Entry(
        name=name, title=" ".join(said.split("\n\n")[0].split()), equation=indented(said),
        departs=_said(said, "Departs from the paper", name), source=_said(said, "Source", name),
        file=file.relative_to(ROOT).as_posix(), lines=code_lines(text), parts=_parts(objective), hash=objective.hash)


def default(factory: Callable[..., Method]) -> Method:
    """The method with its default arguments; the token limit, which some need, is that of short answers."""
    known = inspect.signature(factory).parameters
    return factory(**({"max_tokens": 64} if "max_tokens" in known else {}))


def as_json(entries: list[Entry]) -> dict[str, Any]:
    """The table as JSON values."""
    return {"methods": [asdict(one) for one in entries]}


def code_lines(text: str) -> int:
    """Lines of a Python source that are neither blank nor a comment nor part of a docstring."""
    tree, kept = ast.parse(text), set(range(1, text.count("\n") + 2))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            kept -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = text.splitlines()
    return sum(1 for i in kept if i <= len(lines) and lines[i - 1].strip() and not lines[i - 1].lstrip().startswith("#"))


def _parts(objective: Any) -> tuple[str, ...]:
    """The parts that an objective is composed of, as they would be written."""
    values = [getattr(objective, f.name) for f in fields(objective)]
    return tuple(repr(part) for value in values for part in (value if isinstance(value, tuple) else (value,)))


def indented(said: str) -> str:
    """The indented lines of a docstring."""
    lines = [line for line in said.splitlines() if line.startswith("    ")]
    return "\n".join(line[4:] for line in lines)


def _said(said: str, word: str, name: str) -> str:
    """The paragraph of a docstring that begins with `word:`; ConfigError names what has none."""
    found = paragraph(said, word)
    if found is None:
        raise ConfigError(f"method {name!r}: its file's docstring has no line '{word}:'; add one")
    return found


def paragraph(said: str, word: str) -> str | None:
    """The paragraph of a docstring that begins with `word:`, on one line; None if there is none."""
    found = re.search(rf"^{word}:(.*?)(?=^[A-Z][\w ]*:|\n\n|\Z)", said, re.DOTALL | re.MULTILINE)
    return " ".join(found[1].split()) if found else None
