"""Whether two answers that were read are the same answer: True, False, or None where this cannot tell.

numbers       exactly, as fractions; a decimal may stand for a number that has no finite one, from six digits on
expressions   by their values at fixed points: where both are real at negative letters, and everywhere at positive ones
lists         a bare list and a set in any order, a tuple in its order, an interval with its brackets, matrices by entries
relations     x = 5 is 5; equations up to a factor; an inequality in one letter is an interval
"""

from collections.abc import Iterator, Sequence

from groupwise.verify.amounts import MOST_LETTERS, Truth, amounts, points
from groupwise.verify.cursor import Node
from groupwise.verify.labels import assigned, cycles, is_label, is_quantity, unlabelled, unnamed
from groupwise.verify.matrices import folded
from groupwise.verify.regions import FLIPPED, INFINITE, Region, conditions, is_interval, region, same_region
from groupwise.verify.syntax import ZERO, summed
from groupwise.verify.value import UndefinedError, exact, numeric, symbols

_NOTHING = frozenset({"no solution", "no solutions", "empty set", "the empty set", "no real solution", "no real solutions"})
REALS: Node = ("sym", r"\mathbbR")
_SETS = ("union", r"\cap", r"\setminus")


def same(gold: Sequence[Node], given: Sequence[Node]) -> Truth:
    """Whether the items of an answer are those of the reference."""
    gold, given = ([folded(one) for one in items] for items in (gold, given))
    verdict = _same(_whole(gold), _whole(given))
    if verdict is not True and any(_is_condition(one) for one in (*gold, *given)):
        a, b = (_region_of(items) for items in (gold, given))
        names = [{name for one in items if one[0] == "rel" for name in symbols(one)} for items in (gold, given)]
        if a is not None and b is not None:
            return same_region(a, b) and (not all(names) or names[0] == names[1])
    return verdict


def _is_condition(item: Node) -> bool:
    return item[0] in _SETS or item == REALS or (item[0] == "rel" and item[2][-1] != "=") or (item[0] == "+" and item[1] == REALS)


def _region_of(items: Sequence[Node]) -> Region | None:
    plain = [unlabelled(one) for one in items]
    return region(plain[0]) if len(plain) == 1 else conditions(plain)




def _whole(items: Sequence[Node]) -> Node:
    """One node for an answer: its item, a bare list, or the union that inequalities joined by "or" make."""
    plain = cycles([unlabelled(one) for one in items])
    if len(plain) == 1:
        return plain[0]
    if all(one[0] == "seq" and is_interval(one) and one[3] and one[1:3] != ("(", ")") for one in plain):
        return ("union", plain)
    ranges = [_range(one) for one in plain]
    if all(ranges) and any(one[0] == "rel" for one in plain):
        return ("union", [one for one in ranges if one])
    return summed(plain) or ("seq", "", "", plain)


def _same(left: Node, right: Node) -> Truth:
    if left == right:
        return True
    left, right = _known(left), _known(right)
    if left[0] == "text" or right[0] == "text":
        return _words(left) == _words(right) if left[0] == right[0] else False
    if left[0] == "rel" or right[0] == "rel":
        return _relations(left, right)
    if left[0] == "matrix" or right[0] == "matrix":
        return _matrices(left, right)
    if "mod" in (left[0], right[0]):
        return _classes(left, right)
    if left[0] == right[0] and left[0] in _SETS[1:]:
        return _unordered(left[1:], right[1:]) if left[0] == r"\cap" else _all(map(_same, left[1:], right[1:]))
    if left[0] == "union" or right[0] == "union":
        return _unordered(_parts(left), _parts(right))
    if left[0] == "seq" or right[0] == "seq":
        return _sequences(left, right)
    if INFINITE in (left, right) or ("neg", INFINITE) in (left, right):
        return left == right or (left[0] == "+" and left[-1] == right)
    if ("const", "empty") in (left, right):
        return left == right
    return amounts(left, right)


def _classes(left: Node, right: Node) -> Truth:
    """Numbers modulo something: 3 (mod 5) is 8 (mod 5), and it is 3."""
    if left[0] != right[0]:
        modular, other = (left, right) if left[0] == "mod" else (right, left)
        return _same(modular[1], other)
    try:
        a, b, by = exact(left[1]), exact(right[1]), exact(left[2])
    except UndefinedError:
        return None
    congruent = not (a - b) % by if a is not None and b is not None and by else _same(left[1], right[1])
    return _all(iter((_same(left[2], right[2]), congruent)))


def _known(node: Node) -> Node:
    """The reals as an interval, and "no solution" as the empty set."""
    if node == REALS:
        return ("seq", "(", ")", [("neg", INFINITE), INFINITE])
    return ("const", "empty") if node[0] == "text" and _words(node) in _NOTHING else node


def _words(node: Node) -> str:
    return " ".join(str(node[1]).casefold().replace("-", " ").split()).strip(" .'\"") if node[0] == "text" else ""


def _parts(node: Node) -> list[Node]:
    if node[0] == "union":
        return [part for one in node[1] for part in _parts(one)]
    return [node]


def _sequences(left: Node, right: Node) -> Truth:
    if left[0] != right[0] and ":" in (left[1], right[1]):
        ratio, other = (left, right) if left[0] == "seq" else (right, left)
        return len(ratio[3]) == 2 and _same(("/", *ratio[3]), other)
    if left[0] != "seq" or right[0] != "seq":  # {5} and 5; a list of equal things
        one, other = (left, right) if left[0] == "seq" else (right, left)
        items = _distinct(one[3]) if one is right and not one[1] else one[3]
        return _same(items[0], other) if len(items) == 1 else (False if items else other == ("const", "empty"))
    items, others = left[3], right[3]
    named, mapped = assigned(items), assigned(others)
    if named and mapped and len(named) == len(items) and len(mapped) == len(others):
        return named.keys() == mapped.keys() and _all(_same(named[k], mapped[k]) for k in named)
    items, others = unnamed(items, named), unnamed(others, mapped)
    if bool(named) != bool(mapped) and len({name[0] for name in named or mapped}) == len(named or mapped) > 1:
        orders = (items, others), (list(named.values() or items), list(mapped.values() or others))  # by letters, and as written
        return len(items) == len(others) and _any(_all(_same(a, b) for a, b in zip(one, two, strict=True)) for one, two in orders)
    bare = left[1] in ("", r"\{", "{") and right[1] in ("", r"\{", "{")
    if bare and left[1] == "" and len(_distinct(items)) < len(items):  # the reference names something twice: so must the answer
        return _unordered(items, others)
    if bare:
        return _unordered(_distinct(items), _distinct(others))
    if len(items) != len(others) or (":" in (left[1], right[1]) and left[1] != right[1]):
        return False
    if is_interval(left) and is_interval(right) and any(mark in ("[", "]") for one in (left, right) for mark in one[1:3]):
        if left[1:3] != right[1:3]:
            return False
    elif r"\{" in (left[1], right[1]):
        return False
    return _all(_same(a, b) for a, b in zip(items, others, strict=True))


def _unordered(left: Sequence[Node], right: Sequence[Node]) -> Truth:
    """Each of one side has its own on the other; what stands twice on both sides is counted once."""
    if len(left) != len(right) or len(left) > 60:
        return False
    rest, sure = list(right), True
    for one in left:
        found = [_same(one, other) for other in rest]
        if True in found:
            rest.pop(found.index(True))
        elif None in found:
            sure = False
            rest.pop(found.index(None))
        else:
            return False
    return True if sure else None


def _distinct(items: Sequence[Node]) -> list[Node]:
    """Items without those that equal one before them."""
    kept: list[Node] = []
    for one in items[:60]:
        if one not in kept and not any(_same(one, other) for other in kept):
            kept.append(one)
    return kept + list(items[60:])


def _all(truths: Iterator[Truth]) -> Truth:
    sure = True
    for one in truths:
        if one is False:
            return False
        sure = sure and one is True
    return True if sure else None


def _any(truths: Iterator[Truth]) -> Truth:
    found = list(truths)
    return True if True in found else None if None in found else False


def _matrices(left: Node, right: Node) -> Truth:
    """Entry by entry; a single row or column is a tuple as well."""
    if left[0] == right[0]:
        a, b = left[1], right[1]
        if [len(row) for row in a] != [len(row) for row in b]:
            return False
        return _all(_same(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))
    matrix, other = (left[1], right) if left[0] == "matrix" else (right[1], left)
    if other[0] == "seq" and len(matrix) == len(other[3]) > 1 and all(one[0] == "seq" for one in other[3]):  # [[1, 2], [3, 4]]
        return _same(("matrix", matrix), ("matrix", [one[3] for one in other[3]]))
    if other[0] == "seq" and len(other[3]) == 1 and other[3][0][0] == "matrix":  # a set of one matrix
        return _same(("matrix", matrix), other[3][0])
    if other[0] == "seq" and (len(matrix) == 1 or all(len(row) == 1 for row in matrix)):
        entries = [x for row in matrix for x in row]
        return len(entries) == len(other[3]) and _all(_same(x, y) for x, y in zip(entries, other[3], strict=True))
    return _same(matrix[0][0], other) if len(matrix) == 1 == len(matrix[0]) else False


def _relations(left: Node, right: Node) -> Truth:
    """Two relations, or one and a value."""
    if left[0] != right[0]:
        relation, other = (left, right) if left[0] == "rel" else (right, left)
        if relation[2] == ["="]:
            side = relation[1][0]
            label = side[0] != "^" and is_quantity(side, sums=relation is right) and relation[1][-1] != ZERO
            return _same(relation[1][-1], other) if label or is_label(relation[1][0]) else False
        interval = _range(relation)
        return _same(interval, other) if interval else False
    first, second = left[1][0], right[1][0]
    if is_label(first) and is_label(second) and left[2] == right[2] == ["="]:
        one, other = (side[1] if side[0] == "*" else side for side in (first, second))  # the f of f(x)
        if first[0] != second[0] or one[0] != other[0] or one == other:
            verdict = _same(left[1][-1], right[1][-1])
            if verdict is not False:
                return verdict
    if "mod" in (left[1][-1][0], right[1][-1][0]):
        return False
    interval, given = _range(left), _range(right)
    if interval and given:
        return symbols(left) == symbols(right) and _same(interval, given)
    if len(left[2]) != 1 or len(right[2]) != 1:
        flipped = ("rel", right[1][::-1], [FLIPPED.get(o, o) for o in right[2][::-1]])
        return any(left[2] == r[2] and _all(_same(a, b) for a, b in zip(left[1], r[1], strict=True)) for r in (right, flipped))
    return _proportional(left, right)


def _proportional(left: Node, right: Node) -> Truth:
    """Two relations of two sides: their differences are equal up to a factor, a positive one for an inequality."""
    operator, other = left[2][0], right[2][0]
    if operator not in FLIPPED or other not in FLIPPED:
        return False
    a, b = (("+", one[1][0], ("neg", one[1][1])) for one in (left, right))
    names = sorted(symbols(a) | symbols(b))
    if symbols(a) != symbols(b) or len(names) > MOST_LETTERS:
        return False
    ratios: list[complex] = []
    for letters in (*points(names, 5), *points(names, 3, -1)):
        try:
            p, q = numeric(a, letters), numeric(b, letters)
        except UndefinedError:
            continue
        if ratios and max(abs(p.imag), abs(q.imag)) > 1e-12:
            continue
        if abs(q) < 1e-12 or abs(p) < 1e-12:
            return None if abs(p - q) < 1e-12 else False
        ratios.append(p / q)
    if len(ratios) < 3:
        return None
    steady = all(abs(r - ratios[0]) <= 1e-9 * abs(ratios[0]) for r in ratios)
    if not steady or abs(ratios[0].imag) > 1e-12:
        return False
    return (other if ratios[0].real > 0 else FLIPPED[other]) == operator


def _range(node: Node) -> Node | None:
    """The interval of an inequality in one letter."""
    if node[0] == "seq" and is_interval(node):
        return node
    if node[0] != "rel" or not set(node[2]) <= {"<", ">", r"\le", r"\ge"}:
        return None
    sides, operators = node[1], node[2]
    if operators[0] in (">", r"\ge"):
        sides, operators = sides[::-1], [FLIPPED[o] for o in operators[::-1]]
    if not set(operators) <= {"<", r"\le"}:
        return None
    middle = [i for i, side in enumerate(sides) if is_label(side)]
    if len(middle) != 1 or any(symbols(side) for i, side in enumerate(sides) if i != middle[0]) or len(sides) > 3:
        return None
    at = middle[0]
    low, high = (sides[at - 1] if at else ("neg", INFINITE)), (sides[at + 1] if at + 1 < len(sides) else INFINITE)
    opening = "[" if at and operators[at - 1] == r"\le" else "("
    closing = "]" if at < len(operators) and operators[at] == r"\le" else ")"
    return ("seq", opening, closing, [low, high])
