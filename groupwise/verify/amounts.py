"""Whether two numbers or expressions are equal: as fractions, else by values at fixed points; with units and percent signs.

A decimal may stand for a number that has no finite one: from six significant digits on, from three where it is the reference's.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction

from groupwise.verify.cursor import Node
from groupwise.verify.precise import agree
from groupwise.verify.syntax import ZERO
from groupwise.verify.units import scale
from groupwise.verify.value import UndefinedError, constants, exact, numeric, symbols

Truth = bool | None
"""True, False, or None where it cannot be told."""
_POINTS = (0.7310585786, 1.3247179572, 2.2360679775, 0.4142135624, 3.3019272489, 1.8392867552, 2.6854520011, 0.5671432904,
           4.2360679775)
"""Values of the first, second, ... letter at the first point; the others are shifts of these."""
_SIMPLE = (-1.5, 2.0, 0.5, -0.5, 3.0, -2.0, 1.5)
MOST_LETTERS = 9
"""An expression of more letters is not compared by values."""
_WHOLE = frozenset({"k", "m", "n"})
"""Letters that stand for any integer, in the solutions of an equation with angles."""
PI: Node = ("const", "pi")
_DIGITS = 6
"""Significant digits of a decimal that stands for a number without a finite decimal."""
_FEW = 3
"""The same where the reference is the decimal: its author chose the digits."""


def amounts(gold: Node, given: Node) -> Truth:
    """Two expressions, with their units and percent signs."""
    gold, given = ((one[1][0], ("neg", one[1][1]), *one[1][2:]) if one[0] == "neg" and one[1][0] in ("unit", "deg") else one
                   for one in (gold, given))
    if gold[0] in ("unit", "deg") and given[0] in ("unit", "deg"):
        return _measured(*((one[0] == "deg" and ("unit", one[1], "degree")) or one for one in (gold, given)))
    if "deg" in (gold[0], given[0]) and _turned(gold, given):
        return True
    gold, given = (one[1] if one[0] in ("unit", "deg") else one for one in (gold, given))
    if gold[0] == "percent" and given[0] == "percent":
        gold, given = gold[1], given[1]
    elif "percent" in (gold[0], given[0]):
        inner = gold[1] if gold[0] == "percent" else given[1]
        other = given if gold[0] == "percent" else gold
        if _expressions(inner, other) is True:  # 25% for 25, as for 0.25
            return True
    bases = [one for one in (gold, given) if one[:2] == ("call", "base")]
    if len(bases) == 1:
        return _expressions(*(one[2] if one in bases else one for one in (gold, given)))
    return _expressions(gold, given)


def _turned(gold: Node, given: Node) -> bool:
    """Whether one is an angle in degrees and the other the same one in radians, as a multiple of pi."""
    angle, other = (gold, given) if gold[0] == "deg" else (given, gold)
    return "pi" in constants(other) and _expressions(("/", ("*", angle[1], PI), ("num", Fraction(180), 0)), other) is True


def _measured(gold: Node, given: Node) -> Truth:
    """Values with units: they are converted within a dimension; things of any kind are one, and unknown units are any."""
    (left, p), (right, q) = (scale(one[2]) for one in (gold, given))
    if {tuple(left), tuple(right)} == {("angle",), ("radian",)}:
        turn = ("/", ("num", Fraction(180), 0), PI)
        gold, given = (("*", one[1], turn) if "radian" in side else one[1] for one, side in ((gold, left), (given, right)))
        return _expressions(gold, given)
    counted = "things" in left and "things" in right
    if counted or "units" in left or "units" in right:  # square units are no cubic units
        powers = [max(side.values(), default=1) for side in (left, right)]
        return False if 1 not in powers and powers[0] != powers[1] else _expressions(gold[1], given[1])
    if left != right:
        return False
    return _expressions(*((one[1] if p == q else ("*", one[1], ("num", size, 0))) for one, size in ((gold, p), (given, q))))


def _expressions(gold: Node, given: Node) -> Truth:
    try:
        a, b = exact(gold), exact(given)
    except UndefinedError:
        return False
    if a is not None and b is not None:
        return a == b or _rounded(gold, given, a, b)
    letters = symbols(gold), symbols(given)
    if letters[0] != letters[1] and all(len(one) == 1 and one <= _WHOLE for one in letters) and (
            "pi" in constants(gold) & constants(given)):  # pi/4 + k pi is pi/4 + n pi
        given = _renamed(given, letters[1].pop(), *letters[0])
    names = symbols(gold) | symbols(given)
    if len(names) > MOST_LETTERS:
        return None
    verdict = _sampled(gold, given, sorted(names))
    if verdict is None and gold[0] == given[0] == "call" and gold[1] == given[1] and len(gold) == len(given):
        return all(_expressions(a, b) is True for a, b in zip(gold[2:], given[2:], strict=True))
    if verdict is False and not names:
        return _approximate(gold, given)
    return verdict


def _renamed(node: Node, old: str, new: str) -> Node:
    if node == ("sym", old):
        return ("sym", new)
    return tuple(_renamed(one, old, new) if isinstance(one, tuple) else one for one in node)


def _rounded(gold: Node, given: Node, a: Fraction, b: Fraction) -> bool:
    """A decimal and a fraction that has no finite decimal; two decimals, one of which is the other rounded."""
    return _stands_for(given, b, a, _DIGITS) or _stands_for(gold, a, b, _FEW if given[0] != "num" else _DIGITS)


def _stands_for(node: Node, value: Fraction, other: Fraction, digits: int) -> bool:
    """Whether a decimal is the other value rounded, and has so many significant digits; a finite decimal is meant exactly."""
    node = node[1] if node[0] == "neg" else node
    if node[0] != "num" or not node[2] or _is_finite(other, node[2]):
        return False
    significant = len(str(abs(value.numerator * 10 ** node[2] // value.denominator)))
    return significant >= digits and abs(value - other) <= Fraction(1, 2 * 10 ** node[2])


def _is_finite(value: Fraction, places: int) -> bool:
    """Whether a value has a decimal of few more places than these, so that nobody would round it."""
    return (10 ** max(places, 4)) % value.denominator == 0


def _approximate(gold: Node, given: Node) -> Truth:
    """A decimal for a constant such as pi/4."""
    try:
        values = [numeric(one, {}) for one in (gold, given)]
        numbers = [exact(gold), exact(given)]
    except UndefinedError:
        return None
    if any(abs(v.imag) > 1e-12 for v in values):
        return False
    for node, value, other, digits in ((given, numbers[1], values[0], _DIGITS), (gold, numbers[0], values[1], _FEW)):
        if value is not None and abs(other.real) < 1e15 and _stands_for(node, value, Fraction(other.real), digits):
            return True
    return False


def _sampled(gold: Node, given: Node, names: Sequence[str]) -> Truth:
    """Compare at points: where both are real if there are such points, else anywhere; None where fewer than two say anything.

    What is the same in floating point, nearly so, or nowhere to be had in it is compared to fifty digits.
    """
    real, others, near = list[bool](), list[bool](), True
    for letters, all_real in _places(names):
        try:
            p, q = numeric(gold, letters), numeric(given, letters)
        except UndefinedError:
            continue
        same = _close(p, q) or (ZERO in (gold, given) and max(abs(p), abs(q)) < 1e-11)
        near = near and abs(p - q) <= 1e-4 * max(abs(p), abs(q))
        if max(abs(p.imag), abs(q.imag)) <= 1e-12:
            real.append(same)
        elif not all_real:
            others.append(same)
    told = real if len(real) > 2 and "i" not in constants(gold) | constants(given) else real + others
    verdict = None if len(told) < (2 if names else 1) else all(told)
    sure = not near if verdict is False else verdict and (_has_decimals(gold) or _has_decimals(given))
    return verdict if sure else _precisely(gold, given, names, verdict)


def _places(names: Sequence[str]) -> Iterator[tuple[dict[str, complex], bool]]:
    """Points, and whether they count only where both sides are real: negative letters, and small simple numbers of both signs."""
    if not names:
        yield {}, False
        return
    yield from ((letters, False) for letters in points(names, 6))
    yield from ((letters, True) for letters in points(names, 4, -1))
    yield from (({name: complex(_SIMPLE[((2 * k + 1) * i + k) % len(_SIMPLE)]) for i, name in enumerate(names)}, True)
                for k in range(7))


def _precisely(gold: Node, given: Node, names: Sequence[str], verdict: Truth) -> Truth:
    """Two points of high precision, real ones if there are; what was known before if they say nothing."""
    real, others = list[bool](), list[bool]()
    for letters in points(names, 6 if names else 1):
        try:
            same, is_real = agree(gold, given, letters)
        except UndefinedError:
            continue
        (real if is_real else others).append(same)
        if len(real) > 1:
            break
    told = real or others
    return all(told) if told else verdict


def _has_decimals(node: object) -> bool:
    """Whether a decimal stands in an expression, which may be a rounded one."""
    if isinstance(node, tuple) and node and node[0] == "num":
        return bool(node[2])
    return isinstance(node, tuple) and any(_has_decimals(one) for one in node)


def points(names: Sequence[str], count: int, sign: int = 1) -> Iterator[dict[str, complex]]:
    """Values of the letters at so many points, all of one sign; which letter is larger differs between points."""
    for k in range(count):
        step = (1, 2, 4, 5, 7, 8)[k % 6]  # units modulo nine: no two letters have one value
        yield {name: complex(sign * (_POINTS[(step * i + k) % len(_POINTS)] + 0.1 * k + (3.0 if k % 2 else 0.0)))
               for i, name in enumerate(names)}


def _close(p: complex, q: complex) -> bool:
    return abs(p - q) <= 1e-9 * max(abs(p), abs(q))
