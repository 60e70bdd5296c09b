"""The arithmetic of matrices in an answer: sums, products, powers, transposes and determinants become one matrix or expression.

A tuple in round or pointed brackets is a vector where a number multiplies it or a vector is added to it.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import partial

from groupwise.verify.cursor import Node
from groupwise.verify.value import UndefinedError, exact, symbols

Rows = list[list[Node]]
_ONE: Node = ("num", Fraction(1), 0)
_LARGEST = 5
"""Rows of a matrix whose determinant or power is taken."""


def folded(node: Node) -> Node:
    """The node with its matrices and vectors worked out; what does not fit is left as it is."""
    kind = node[0]
    if kind == "rel":
        return ("rel", [folded(one) for one in node[1]], node[2])
    if kind == "seq":
        return ("seq", node[1], node[2], [folded(one) for one in node[3]])
    if kind == "call" and node[1] in ("det", "abs") and len(node) == 3:
        inside = folded(node[2])
        return _determinant(inside[1]) if _is_square(inside) else node
    if kind == "neg":
        inside = folded(node[1])
        return _each(inside, lambda one: ("neg", one)) if inside[0] in ("matrix", "seq") else node
    if kind in ("+", "*", "/", "^"):
        left, right = folded(node[1]), folded(node[2])
        worked = {"+": _sum, "*": _product, "/": _quotient, "^": _power}[kind](left, right)
        return worked or node
    return node


def _is_square(node: Node) -> bool:
    return node[0] == "matrix" and len(node[1]) <= _LARGEST and all(len(row) == len(node[1]) for row in node[1])


def _is_vector(node: Node) -> bool:
    return node[0] == "seq" and node[1] in ("(", r"\langle") and len(node[3]) > 1


def _each(node: Node, change: Callable[[Node], Node]) -> Node:
    if node[0] == "seq":
        return ("seq", node[1], node[2], [change(one) for one in node[3]]) if _is_vector(node) else ("neg", node)
    return ("matrix", [[change(one) for one in row] for row in node[1]])


def _sum(left: Node, right: Node) -> Node | None:
    if _is_vector(left) and _is_vector(right) and len(left[3]) == len(right[3]):
        return ("seq", left[1], left[2], [("+", a, b) for a, b in zip(left[3], right[3], strict=True)])
    if left[0] != "matrix" or right[0] != "matrix" or [len(row) for row in left[1]] != [len(row) for row in right[1]]:
        return None
    return ("matrix", [[("+", a, b) for a, b in zip(p, q, strict=True)] for p, q in zip(left[1], right[1], strict=True)])


def _product(left: Node, right: Node) -> Node | None:
    for scalar, other in ((left, right), (right, left)):
        if scalar[0] not in ("matrix", "seq", "rel", "union", "text") and (
                other[0] == "matrix" or (_is_vector(other) and not symbols(scalar))):
            return _each(other, partial(_times, scalar))
    if left[0] != "matrix" or right[0] != "matrix":
        return None
    return ("matrix", _multiplied(left[1], right[1])) if all(len(row) == len(right[1]) for row in left[1]) and (
        len({len(row) for row in right[1]}) == 1) and len(left[1]) <= 9 else None


def _times(left: Node, right: Node) -> Node:
    return ("*", left, right)


def _multiplied(left: Rows, right: Rows) -> Rows:
    def entry(row: list[Node], column: int) -> Node:
        total: Node = ("*", row[0], right[0][column])
        for k in range(1, len(row)):
            total = ("+", total, ("*", row[k], right[k][column]))
        return total
    return [[_short(entry(row, column)) for column in range(len(right[0]))] for row in left]


def _short(node: Node) -> Node:
    """A number instead of a long sum of numbers."""
    try:
        value = exact(node)
    except UndefinedError:
        return node
    return node if value is None else ("num", value, 0)


def _quotient(left: Node, right: Node) -> Node | None:
    if right[0] in ("matrix", "seq") or not (left[0] == "matrix" or _is_vector(left)):
        return None
    return _each(left, lambda one: ("/", one, right))


def _power(left: Node, right: Node) -> Node | None:
    if left[0] == "matrix" and right == ("sym", "T") and len({len(row) for row in left[1]}) == 1:
        return ("matrix", [list(column) for column in zip(*left[1], strict=True)])
    if not _is_square(left):
        return None
    if right == ("neg", _ONE):
        return _inverse(left[1])
    times = int(right[1]) if right[0] == "num" and right[1].denominator == 1 else 0
    if not 1 <= times <= 12 or (times > 3 and symbols(("seq", "", "", [one for row in left[1] for one in row]))):
        return None
    rows: Rows = left[1]
    for _ in range(times - 1):
        rows = _multiplied(rows, left[1])
    return ("matrix", rows)


def _minor(rows: Rows, i: int, j: int) -> Rows:
    return [[one for b, one in enumerate(row) if b != j] for a, row in enumerate(rows) if a != i]


def _determinant(rows: Rows) -> Node:
    if len(rows) == 1:
        return rows[0][0]
    total: Node = ("num", Fraction(0), 0)
    for j, one in enumerate(rows[0]):
        term: Node = ("*", one, _determinant(_minor(rows, 0, j)))
        total = ("+", total, ("neg", term) if j % 2 else term)
    return _short(total)


def _inverse(rows: Rows) -> Node | None:
    """By cofactors, up to three rows."""
    if len(rows) > 3:
        return None
    whole = _determinant(rows)
    if len(rows) == 1:
        return ("matrix", [[("/", _ONE, whole)]])

    def cofactor(i: int, j: int) -> Node:
        value = _determinant(_minor(rows, i, j))
        return ("/", ("neg", value) if (i + j) % 2 else value, whole)
    return ("matrix", [[cofactor(j, i) for j in range(len(rows))] for i in range(len(rows))])
