"""The parts of a method as a table: their fields, values, defaults, and what the docstrings say of them."""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

from groupwise.methods.method import Method
from groupwise.objective.latex import equation, says
from groupwise.objective.objective import describe

SILENT = {"active", "needs"}
"""Fields that only tell the objective how to use a part."""
COMMON = {"within_cells", "depends_on_microbatches", "name", "unit", "reach",
          "corrected", "vanishes", "of_behaviour", "credit", "elsewhere", "singleton"}
"""Fields that are shown only where they are not the default."""


@dataclass(frozen=True)
class Field:
    """One number or choice: its value and default as they would be written, and the sentence that says its meaning and unit."""

    name: str
    value: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Part:
    """One part: where it stands in the method, its class, the first line of its docstring, its LaTeX (empty if it says none)."""

    role: str
    name: str
    says: str
    latex: str
    fields: tuple[Field, ...]


def parts(method: Method) -> tuple[Part, ...]:
    """The parts of the objective, from the credit down."""
    objective = method.objective
    found = list(_walk("credit", objective.credit_by))
    for term in objective.terms:
        found += _walk(f"term {term.name}", term)
    found += _walk("correction", objective.correction)
    return (*found, *(part for one in objective.screen for part in _walk("screen", one)))


def surroundings(method: Method) -> tuple[tuple[str, str, str], ...]:
    """What is around the objective: the field of the method, how it is composed, and the first line of its docstring."""
    out = []
    for one in fields(Method):
        value = getattr(method, one.name)
        for part in value if isinstance(value, tuple) else () if one.name in ("objective", "contexts") else (value,):
            if part is not None:
                out.append((one.name, written(part), first_line(part)))
    return tuple(out)


def arguments(factory: Callable[..., Any], given: dict[str, Any], composed: tuple[Part, ...]) -> tuple[Field, ...]:
    """What the method's function may be given. What its docstrings do not explain is what a part's field of that name means."""
    known = {f.name: f.meaning for part in composed for f in part.fields if f.meaning}
    of_file = inspect.getdoc(sys.modules[factory.__module__]) or ""
    words = "\n".join(line for line in of_file.splitlines() if not line.startswith("    "))  # indented lines are equations
    said = f"{inspect.getdoc(factory) or ''}\n\n{words}"
    out = []
    for name, one in inspect.signature(factory).parameters.items():
        default = "required" if one.default is inspect.Parameter.empty else repr(one.default)
        of_part = next((meaning for field, meaning in known.items() if f"_{name}".endswith(f"_{field}")), "")
        out.append(Field(name, repr(given[name]) if name in given else default, default, sentence(said, name) or of_part))
    return tuple(out)


def written(part: Any) -> str:
    """A part as it would be written, without the fields that only tell the objective how to use it."""
    if is_dataclass(part) and not isinstance(part, type):
        shown = [f"{f.name}={written(getattr(part, f.name))}" for f in fields(part) if f.name not in SILENT]
        return f"{type(part).__name__}({', '.join(shown)})"
    if callable(part):
        return getattr(part, "__qualname__", None) or f"{type(part).__name__}()"
    return describe(part)


def first_line(part: Any) -> str:
    """The first sentence of a part's docstring."""
    own = part if inspect.isroutine(part) or isinstance(part, type) else type(part)
    said = inspect.getdoc(own) or ""
    if said.startswith(f"{getattr(own, '__name__', '')}("):
        return ""  # what a dataclass without a docstring is given
    return " ".join(said.split("\n\n")[0].split())


def sentence(said: str, name: str) -> str:
    """The first sentence of a docstring that speaks of a field; marked names are preferred to words of the text."""
    every = [" ".join(one.split()) for one in re.split(r"(?<=[.;])\s+(?=[A-Z`(])|\n\n", said)]
    for pattern in (rf"`{name}[`= ]", rf"`\w+_{name}`", rf"(?<![\w`]){name}(?![\w`])", rf"(?i)^{name.split('_')[0]}s\b"):
        for one in every:
            if re.search(pattern, one):
                return one.rstrip(";")
    return ""


def _walk(role: str, part: Any) -> Iterator[Part]:
    """A part and, after it, the parts that it is composed of."""
    if not is_dataclass(part) or isinstance(part, type):
        yield Part(role, written(part), first_line(part), "", ())
        return
    inner = [(f.name, getattr(part, f.name)) for f in fields(part) if _is_part(getattr(part, f.name))]
    names = {name for name, _ in inner}
    said = "\n\n".join(inspect.getdoc(cls) or "" for cls in type(part).__mro__ if cls is not object)
    marked = [one for one in (inspect.getdoc(sys.modules[type(part).__module__]) or "").split("\n\n") if "`" in one]
    said = "\n\n".join([said, *(one for one in marked if re.search(r"`\w+`", one))])
    own = []
    for f in fields(part):
        value, default = written(getattr(part, f.name)), _default(f)
        if f.name in names or f.name in SILENT or (f.name in COMMON and value == default):
            continue
        meaning = sentence(said, f.name)
        own.append(Field(f.name, value, default, "" if meaning == first_line(part) else meaning))
    latex = equation(part) if says(part, "latex") else ""
    yield Part(role, type(part).__name__, first_line(part), latex, tuple(own))
    for name, value in inner:
        many = [value] if is_dataclass(value) else [x for one in value for x in (one if isinstance(one, tuple) else (one,))]
        for n, one in enumerate(one for one in many if is_dataclass(one)):
            yield from _walk(f"{role}, {name}" + (f" {n + 1}" if len(many) > 1 else ""), one)


def _is_part(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(_is_part(one) for one in value)
    return is_dataclass(value) and not isinstance(value, type)


def _default(one: Any) -> str:
    if one.default is not MISSING:
        return written(one.default)
    return "required" if one.default_factory is MISSING else written(one.default_factory())
