"""What a method computes, read from its composition: nothing here is written a second time."""

import ast
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import groupwise
from groupwise.errors import ConfigError, GroupwiseError
from groupwise.lab.equations import Equation, equations, glossary
from groupwise.lab.parts import Field, Part, arguments, parts, surroundings
from groupwise.lab.toy import LENGTH_LIMIT, Worked, work
from groupwise.methods.method import Method
from groupwise.objective.objective import describe
from groupwise.run.catalogue import indented, paragraph
from groupwise.run.compose import factory_of, method_of
from groupwise.run.config import from_words
from groupwise.run.settings import Run

UNSAID = "not said"
PLACE = re.compile(r"^(?:Eq|section|Section|Listing|Algorithm|Table|listing)\b")


@dataclass(frozen=True)
class Paper:
    """The citation of a method, its arXiv number, and where in the paper the equation stands; empty where nothing is said."""

    citation: str
    arxiv: str
    where: str


@dataclass(frozen=True)
class Explanation:
    """Everything that is said of a method. `published` is the equation as its file quotes it from the paper; `letters` are the
    letters of the equations (LaTeX) with their meaning; `worked` is None where the toy batch cannot be used, for the reason
    `trouble`.
    """

    name: str
    title: str
    paper: Paper
    published: str
    departs: str
    source: str
    file: str
    arguments: tuple[Field, ...]
    equations: tuple[Equation, ...]
    letters: dict[str, str]
    parts: tuple[Part, ...]
    around: tuple[tuple[str, str, str], ...]
    facts: dict[str, str]
    composition: str
    hash: str
    worked: Worked | None
    trouble: str = ""


def explain(name: str, words: Sequence[str] = ()) -> Explanation:
    """Explain a shipped method, or 'module:function' of the user, with arguments as `key=value`. ConfigError if there is none."""
    for word in words:
        if "=" not in word:
            raise ConfigError(f"--args takes key=value, got {word!r}")
    run = from_words(["--method", name, *(["--method-args", *words] if words else [])], Run(), prog="groupwise explain")
    factory = factory_of(name)
    given = {"max_tokens": LENGTH_LIMIT, **run.method_args}
    return explained(name, factory, method_of(run, LENGTH_LIMIT), given)


def explained(name: str, factory: Callable[..., Any], method: Method, given: dict[str, Any]) -> Explanation:
    """Explain a method that was composed by `factory` with the arguments `given`."""
    said, objective = _docstring(factory), method.objective
    title = " ".join(said.split("\n\n")[0].split()) or name
    found, composed = equations(objective), parts(method)
    try:
        worked, trouble = work(method), ""
    except GroupwiseError as error:
        worked, trouble = None, str(error)
    return Explanation(
        name=name, title=title.partition(" (")[0].rstrip("."), paper=paper(title), published=indented(said),
        departs=paragraph(said, "Departs from the paper") or UNSAID, source=(paragraph(said, "Source") or UNSAID).rstrip("."),
        file=_file(factory), arguments=arguments(factory, given, composed), equations=found, letters=glossary(found),
        parts=composed, around=surroundings(method), facts=_facts(method), composition=describe(objective), hash=objective.hash,
        worked=worked, trouble=trouble)


def latex(one: Explanation) -> str:
    """All equations as an `align*` environment."""
    lines = [f"  {e.left} &= {' '.join(e.right)}" for e in one.equations]
    return "\\begin{align*}\n" + " \\\\\n".join(lines) + "\n\\end{align*}"


def as_json(one: Explanation) -> dict[str, Any]:
    """The explanation as JSON values; every equation has its `latex`."""
    table = asdict(one)
    table["equations"] = [{**asdict(e), "latex": e.latex} for e in one.equations]
    table["latex"] = latex(one)
    return table


def paper(title: str) -> Paper:
    """The citation in a title: `(Author 2024, arXiv 2402.03300, Eq. 3)`.

    >>> paper('GRPO (Shao et al. 2024, arXiv 2402.03300, Eq. 3 and 4).').where
    'Eq. 3 and 4'
    """
    found = re.search(r" \(((?:[^()]|\([^()]*\))*)\)(.*)", title)
    if not found:
        return Paper("", "", "")
    pieces = found[1].split(", ")
    number = re.search(r"arXiv (\d{4}\.\d{4,5})", found[1])
    first = next((i for i, piece in enumerate(pieces) if PLACE.match(piece)), len(pieces))
    besides = found[2].strip(" .,")
    return Paper(found[1] + (f"; {besides}" if besides else ""), number[1] if number else "", ", ".join(pieces[first:]))


def _facts(method: Method) -> dict[str, str]:
    """What a method asks of a run, in words."""
    objective = method.objective
    weights = {term.name: describe(term.aggregate) for term in objective.terms}
    return {
        "to be scored": ", ".join(sorted(method.needs | objective.needs)) or "nothing besides the live log-probs",
        "reach": f"{objective.reach}: " + ("the gradient takes two passes" if objective.reach in ("group", "step")
                                          else "micro-batches only add"),
        "aggregation": "; ".join(f"{name} {rule}" for name, rule in weights.items()),
        "optimiser steps per batch": f"{method.update.steps}" + (
            ": on-policy, every ratio is 1 and its gradient that of log π" if method.update.steps == 1 else ""),
    }


def _docstring(factory: Callable[..., Any]) -> str:
    """The docstring that says where a method comes from: its file's, or its function's if the file's does not."""
    own = inspect.getdoc(factory) or ""
    module = sys.modules[factory.__module__]
    file = Path(module.__file__ or "")
    of_file = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "" if file.suffix == ".py" else ""
    telling = [one for one in (own, of_file) if paragraph(one, "Source") or paragraph(one, "Departs from the paper")]
    return (telling or [own or of_file])[0]


def _file(factory: Callable[..., Any]) -> str:
    file = Path(sys.modules[factory.__module__].__file__ or "")
    root = Path(groupwise.__file__).parent
    return file.relative_to(root.parent).as_posix() if file.is_relative_to(root) else file.name
