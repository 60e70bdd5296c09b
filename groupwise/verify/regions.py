r"""Sets of real numbers in an answer: intervals, finite sets, their unions, intersections and differences, and inequalities.

A region is a sorted list of pieces (low, closed below, high, closed above) that do not touch; a number is a piece of no length.
Inequalities in one letter are solved where they are linear in it or in an absolute value of something linear: |x - 1| > 5.
"""

import math
from collections.abc import Sequence

from groupwise.verify.cursor import Node
from groupwise.verify.value import UndefinedError, numeric, symbols

Piece = tuple[float, bool, float, bool]
Region = list[Piece]
FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", "=": "=", r"\ne": r"\ne"}
INFINITE: Node = ("const", "inf")
REALS: Region = [(-math.inf, False, math.inf, False)]
_ORDER = frozenset({"<", ">", r"\le", r"\ge"})


def same_region(a: Region, b: Region) -> bool:
    """Whether two regions are the same set of numbers."""
    return len(a) == len(b) and all(
        p[1] == q[1] and p[3] == q[3] and _close(p[0], q[0]) and _close(p[2], q[2]) for p, q in zip(a, b, strict=True))


def region(node: Node) -> Region | None:
    """The set of numbers that a node is, or None; a condition in a letter is the set of its solutions."""
    try:
        found = _region(node)
    except (UndefinedError, ZeroDivisionError, OverflowError):
        return None
    return None if found is None else _joined(found)


def is_interval(node: Node) -> bool:
    """A pair in brackets, which may be an interval."""
    return node[0] == "seq" and len(node[3]) == 2 and node[1] in ("(", "[") and node[2] in (")", "]")


def conditions(items: Sequence[Node]) -> Region | None:
    """Several conditions on one letter: those that can hold together do, else they are alternatives; of x != a all hold."""
    if not items or len({name for one in items if one[0] == "rel" for name in symbols(one)}) != 1:
        return None
    parts = [region(one) for one in items]
    known = [one for one in parts if one is not None]
    if len(known) < len(parts):
        return None
    together = REALS
    for one in known:
        together = _both(together, one)
    return together or _joined([piece for one in known for piece in one])


def _region(node: Node) -> Region | None:
    kind = node[0]
    if node == ("sym", r"\mathbbR"):
        return REALS
    if node == ("const", "empty"):
        return []
    if kind == "seq" and is_interval(node):
        low, high = (_end(one) for one in node[3])
        return [(low, node[1] == "[", high, node[2] == "]")] if low < high else None
    if kind == "seq" and node[1] in (r"\{", "{", ""):
        ends = [_end(one) for one in node[3]]
        return [(one, True, one, True) for one in ends]
    if kind == "union":
        parts = [_operand(one) for one in node[1]]
        return None if None in parts else [piece for part in parts if part for piece in part]
    if kind in (r"\cap", r"\setminus"):
        left, right = _operand(node[1]), _operand(node[2])
    elif kind == "+" and node[2][0] == "neg" and node[2][1][0] == "seq":  # R - {0}
        left, right, kind = _operand(node[1]), _operand(node[2][1]), r"\setminus"
    else:
        return _solved(node) if kind == "rel" else None
    if left is None or right is None:
        return None
    return _both(left, right if kind == r"\cap" else _rest(right))


def _operand(node: Node) -> Region | None:
    """A set, or a number for the set of it: braces of plain text are lost where they hold one thing."""
    if node[0] in ("num", "neg", "/", "const", "+", "*", "^", "call") and (node[0] != "+" or node[2][0] != "neg"):
        if symbols(node) or node == ("const", "empty"):
            return [] if node == ("const", "empty") else None
        end = _end(node)
        return [(end, True, end, True)]
    return region(node)


def _end(node: Node) -> float:
    if node == INFINITE:
        return math.inf
    if node == ("neg", INFINITE):
        return -math.inf
    value = numeric(node, {})
    if abs(value.imag) > 1e-12:
        raise UndefinedError("no end of an interval")
    return value.real


def _joined(pieces: Region) -> Region:
    """Sorted, and what touches made one."""
    found: Region = []
    for piece in sorted(pieces, key=lambda one: (one[0], not one[1])):
        low, closed, high, end = piece
        if low > high or (low == high and not (closed and end)):
            continue
        if found and (low < found[-1][2] or (_close(low, found[-1][2]) and (closed or found[-1][3]))):
            last = found.pop()
            top = max((last[2], last[3]), (high, end))
            found.append((last[0], last[1] or (closed and _close(low, last[0])), *top))
        else:
            found.append(piece)
    return found


def _both(left: Region, right: Region) -> Region:
    found: Region = []
    for a in left:
        for b in right:
            low = max((a[0], not a[1]), (b[0], not b[1]))
            high = min((a[2], a[3]), (b[2], b[3]))
            found.append((low[0], not low[1], *high))
    return _joined(found)


def _rest(taken: Region) -> Region:
    """All other numbers."""
    found: Region = []
    low, closed = -math.inf, False
    for piece in _joined(taken):
        found.append((low, closed, piece[0], not piece[1] and piece[0] > -math.inf))
        low, closed = piece[2], not piece[3] and piece[2] < math.inf
    return _joined([*found, (low, closed, math.inf, False)]) if low < math.inf else _joined(found)


def _solved(node: Node) -> Region | None:
    """The numbers for which a relation in one letter holds."""
    sides, operators = node[1], node[2]
    names = symbols(node)
    if len(names) != 1 or len(sides) > 3 or not (set(operators) <= _ORDER or operators == [r"\ne"]):
        return None
    if len(sides) == 2 and all(symbols(one) for one in sides):
        sides = [("+", sides[0], ("neg", sides[1])), ("num", 0, 0)]
    at = [i for i, one in enumerate(sides) if symbols(one)]
    if len(at) != 1 or (len(sides) == 3 and (at[0] != 1 or len({operator in ("<", r"\le") for operator in operators}) > 1)):
        return None
    values = REALS
    for i, operator in enumerate(operators):
        operator, bound = (operator, sides[i + 1]) if at[0] == i else (FLIPPED[operator], sides[i])
        values = _both(values, _beside(operator, _end(bound)))
    return _before(sides[at[0]], names.pop(), values)


def _beside(operator: str, bound: float) -> Region:
    """The numbers that stand so to a bound."""
    if operator == r"\ne":
        return _rest([(bound, True, bound, True)])
    equal = operator in (r"\le", r"\ge")
    return [(-math.inf, False, bound, equal)] if operator in ("<", r"\le") else [(bound, equal, math.inf, False)]


def _before(node: Node, name: str, values: Region) -> Region | None:
    """What the letter may be where an expression has these values: it is linear, or an absolute value of such a one."""
    if node[0] == "call" and node[1] == "abs":
        held = _both(values, [(0.0, True, math.inf, False)])
        return _before(node[2], name, _joined([*held, *((-b, d, -a, c) for a, c, b, d in held)]))
    offset, one, two = (numeric(node, {name: complex(x)}) for x in (0.0, 1.0, 2.5))
    slope = (one - offset).real
    if not slope or abs(offset + 2.5 * slope - two) > 1e-12 * max(1.0, abs(two)) or abs(offset.imag) > 0 or abs(one.imag) > 0:
        return None
    if slope == 1.0 and not offset:
        return values
    ends = [((a - offset.real) / slope, c, (b - offset.real) / slope, d) for a, c, b, d in values]
    return _joined(ends if slope > 0 else [(b, d, a, c) for a, c, b, d in ends])


def _close(a: float, b: float) -> bool:
    return a == b or (math.isfinite(a) and math.isfinite(b) and abs(a - b) <= 1e-12 * max(abs(a), abs(b)))
