r"""What an answer is called: x = 5, f(x) = 5, S = 5, x \in S, and lists of such."""

from collections.abc import Sequence
from fractions import Fraction

from groupwise.verify.cursor import Node
from groupwise.verify.value import symbols


def cycles(items: list[Node]) -> list[Node]:
    """The items of p = 5, q = 2, p = 7, q = 2 as two pairs."""
    names = [one[1][0] if one[0] == "rel" and one[2] == ["="] else None for one in items]
    each = names.index(names[0], 1) if None not in names and names[0] in names[1:] else 0
    if each < 2 or len(items) % each or names != names[:each] * (len(items) // each):
        return items
    return [("seq", "(", ")", items[at:at + each]) for at in range(0, len(items), each)]


def unlabelled(item: Node) -> Node:
    r"""An item without its label: x = 5, f(x) = 5, S = 5, x \in S; a chain of equal sides is its last one."""
    if item[0] != "rel":
        return item
    sides, operators = item[1], item[2]
    if operators[-1] == r"\in":
        return unlabelled(sides[-1])
    if set(operators) == {"="}:
        if is_label(sides[0]):
            return ("rel", [sides[0], sides[-1]], ["="])
        if len(sides) > 2 or (not symbols(sides[0]) and not symbols(sides[-1])):
            return sides[-1]
    return item


def is_label(side: Node) -> bool:
    """A letter, or a letter with an argument such as f(x)."""
    if side[0] in ("sym", "text") or side == ("const", "e"):
        return True
    if side[0] == "seq":
        return all(one[0] == "sym" for one in side[3])
    if side[0] == "*" and side[1][0] == "^" and side[1][2] == ("neg", ("num", Fraction(1), 0)):  # the inverse of f
        return side[1][1][0] == "sym" and side[1][1][1] in "fghFGH"
    return side[0] == "*" and side[1][0] == "sym" and (side[2][0] in ("sym", "seq", "num")) and side[1][1] in "fghFGHPVASTyC"


def is_quantity(side: Node, sums: bool) -> bool:
    r"""What a value may be given of: xy, NO/BO, |AB|, \\angle ABC; where `sums`, also a + b."""
    kind = side[0]
    if kind == "sym":
        return True
    if kind == "^":
        return is_quantity(side[1], sums) and side[2][0] == "num"
    if kind in ("*", "/") or (kind == "+" and sums):
        return is_quantity(side[1], sums) and is_quantity(side[2], sums)
    if kind in ("neg", "deg") and sums:
        return is_quantity(side[1], sums)
    return kind == "call" and bool(symbols(side))


def assigned(items: Sequence[Node]) -> dict[str, Node]:
    """The values by letter of x = 1, y = 2; empty where a letter comes twice."""
    found = {one[1][0][1]: one[1][-1] for one in items if one[0] == "rel" and one[2] == ["="] and one[1][0][0] == "sym"}
    return found if len(found) == len(items) else {}


def unnamed(items: Sequence[Node], named: dict[str, Node]) -> list[Node]:
    """The items without their labels; where all have one, sorted by it."""
    if named:
        return [named[k] for k in sorted(named)]
    return [one[1][-1] if one[0] == "rel" and one[2] == ["="] and is_label(one[1][0]) else one for one in items]
