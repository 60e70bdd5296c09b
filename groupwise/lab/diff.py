"""How two methods differ: in their parts, in their equations, and in the gradient of the same toy batch."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from groupwise.lab.equations import Equation
from groupwise.lab.explain import Explanation
from groupwise.lab.parts import Part
from groupwise.lab.toy import vector


@dataclass(frozen=True)
class Change:
    """One part that is not the same: what stands at `role` in both (empty: nothing), and the fields that differ (name, a, b)."""

    role: str
    a: str
    b: str
    fields: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Row:
    """One token of the toy batch: both gradients, and whether each trust rule stopped it. `reward` may be shaped differently."""

    group: int
    completion: int
    token: int
    a: float
    b: float
    stopped_a: bool
    stopped_b: bool


@dataclass(frozen=True)
class Difference:
    """Two explanations side by side. `cosine` and `ratio` (norm of b over norm of a) are None where a gradient is zero or
    missing; `stopped_by` lists the tokens (group, completion, token) that only one of them stops.
    """

    a: Explanation
    b: Explanation
    changes: tuple[Change, ...]
    around: tuple[Change, ...]
    rows: tuple[Row, ...]
    norms: tuple[float, float]
    cosine: float | None
    ratio: float | None
    stopped_by: dict[str, tuple[tuple[int, int, int], ...]]

    @property
    def same(self) -> bool:
        """Whether both are the same equation in the same surroundings."""
        return not self.changes and not self.around


def diff(a: Explanation, b: Explanation) -> Difference:
    """Compare two methods."""
    rows: tuple[Row, ...] = ()
    norms, cosine, ratio = (0.0, 0.0), None, None
    if a.worked is not None and b.worked is not None:
        rows = tuple(Row(x.group, x.completion, x.token, x.gradient, y.gradient, x.stopped, y.stopped)
                     for x, y in zip(a.worked.rows, b.worked.rows, strict=True))
        first, second = vector(a.worked), vector(b.worked)
        norms = float(np.linalg.norm(first)), float(np.linalg.norm(second))
        ratio = norms[1] / norms[0] if norms[0] else None
        cosine = float(first @ second) / (norms[0] * norms[1]) if norms[0] and norms[1] else None
    only = {"a": tuple((r.group, r.completion, r.token) for r in rows if r.stopped_a and not r.stopped_b),
            "b": tuple((r.group, r.completion, r.token) for r in rows if r.stopped_b and not r.stopped_a)}
    return Difference(a, b, changes(a.parts, b.parts), _around(a, b), rows, norms, cosine, ratio, only)


def changes(a: tuple[Part, ...], b: tuple[Part, ...]) -> tuple[Change, ...]:
    """The parts that differ, in the order of the first, then those that only the second has."""
    first, second = ({part.role: part for part in parts} for parts in (a, b))
    found = []
    for role in dict.fromkeys([*first, *second]):
        one, other = first.get(role), second.get(role)
        if one is None or other is None or one.name != other.name:
            found.append(Change(role, _written(one), _written(other), ()))
        elif one.fields != other.fields:
            left, right = ({f.name: f.value for f in part.fields} for part in (one, other))
            shown = {f.name: f.default for part in (one, other) for f in part.fields}
            pairs = [(name, left.get(name, default), right.get(name, default)) for name, default in shown.items()]
            found.append(Change(role, one.name, other.name, tuple(pair for pair in pairs if pair[1] != pair[2])))
    return tuple(found)


def equations_side_by_side(one: Difference) -> tuple[tuple[str, Equation | None, Equation | None], ...]:
    """(name, of a, of b) of the equations that differ; None where one has none."""
    first, second = (_named(x.equations) for x in (one.a, one.b))
    return tuple((name, first.get(name), second.get(name)) for name in dict.fromkeys([*first, *second])
                 if first.get(name) != second.get(name))


def as_json(one: Difference) -> dict[str, Any]:
    """The comparison as JSON values."""
    sides = [{"name": name, "a": a.latex if a else None, "b": b.latex if b else None}
             for name, a, b in equations_side_by_side(one)]
    return {"a": one.a.name, "b": one.b.name, "same": one.same, "hashes": [one.a.hash, one.b.hash],
            "changes": [asdict(change) for change in one.changes], "around": [asdict(change) for change in one.around],
            "equations": sides,
            "tokens": [asdict(row) for row in one.rows], "norms": list(one.norms), "cosine": one.cosine,
            "ratio_of_norms": one.ratio, "stopped_only_by": one.stopped_by,
            "trouble": {"a": one.a.trouble, "b": one.b.trouble}}


def _named(found: tuple[Equation, ...]) -> dict[str, Equation]:
    """Equations by name; a second one of a name is numbered."""
    names: dict[str, Equation] = {}
    for one in found:
        n = sum(other.name == one.name for other in names.values())
        names[f"{one.name} {n + 1}" if n else one.name] = one
    return names


def _written(part: Part | None) -> str:
    if part is None:
        return ""
    inside = ", ".join(f"{f.name}={f.value}" for f in part.fields)
    return f"{part.name}({inside})" if inside else part.name


def _around(a: Explanation, b: Explanation) -> tuple[Change, ...]:
    names = dict.fromkeys([one[0] for x in (a, b) for one in x.around])
    first, second = ({name: ", ".join(w for n, w, _ in x.around if n == name) for name in names} for x in (a, b))
    return tuple(Change(name, first[name], second[name], ()) for name in names if first[name] != second[name])
