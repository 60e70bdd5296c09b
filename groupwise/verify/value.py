"""The value of an expression: an exact fraction where there is one, else a complex number at given values of its letters.

Every operation is bounded (fractions by `_BITS`, powers and factorials by size), so that no expression costs more than its
length.
"""

import cmath
import math
from collections.abc import Callable, Mapping
from fractions import Fraction

from groupwise.verify.cursor import Node

_BITS = 4000
"""Bits of the numerator and denominator of an exact value; larger ones are left to floating point, or undecided."""
_LARGEST = 1e250


class UndefinedError(ArithmeticError):
    """No value: a division by zero, an overflow, or an operation that has none."""


def exact(node: Node) -> Fraction | None:
    """The value as a fraction; None where it is none or too large. Raises `UndefinedError` for a division by zero."""
    kind = node[0]
    if kind == "num":
        return node[1]
    if kind in ("neg", "deg", "unit"):
        value = exact(node[1])
        return None if value is None else -value if kind == "neg" else value
    if kind == "percent":
        value = exact(node[1])
        return None if value is None else value / 100
    if kind in ("+", "*", "/", "^"):
        left, right = exact(node[1]), exact(node[2])
        return None if left is None or right is None else _bounded(_combined(kind, left, right))
    if kind == "call":
        values = [exact(one) for one in node[2:]]
        numbers = [value for value in values if value is not None]
        return _bounded(_called(node[1], numbers)) if numbers and len(numbers) == len(values) else None
    return None


def _combined(kind: str, left: Fraction, right: Fraction) -> Fraction | None:
    if kind == "+":
        return left + right
    if kind == "*":
        return left * right
    if kind == "/":
        if not right:
            raise UndefinedError("division by zero")
        return left / right
    size = max(left.numerator.bit_length(), left.denominator.bit_length())
    if right.denominator != 1:
        return _root(left, right)
    if abs(right.numerator) * max(1, size - 1) > _BITS:
        return None
    if not left and right < 0:
        raise UndefinedError("division by zero")
    return left ** right.numerator


def _root(value: Fraction, power: Fraction) -> Fraction | None:
    """An even or odd root that is a fraction, to a small power."""
    degree = power.denominator
    if degree > 6 or abs(power.numerator) > 20 or value < 0:
        return None
    parts = [_integer_root(value.numerator, degree), _integer_root(value.denominator, degree)]
    if parts[0] is None or not parts[1] or (not parts[0] and power < 0):
        return None
    return Fraction(parts[0], parts[1]) ** power.numerator


def _integer_root(n: int, degree: int) -> int | None:
    if n.bit_length() > 900:
        return None
    guess = math.isqrt(n) if degree == 2 else round(n ** (1 / degree))
    return next((g for g in (guess - 1, guess, guess + 1) if g >= 0 and g ** degree == n), None)


def _called(name: str, values: list[Fraction]) -> Fraction | None:
    first = values[0]
    if name == "abs":
        return abs(first)
    if name == "sqrt":
        return _root(first, Fraction(1, 2))
    if name in ("floor", "ceil"):
        return Fraction(math.floor(first) if name == "floor" else math.ceil(first))
    if name in ("min", "max"):
        return min(values) if name == "min" else max(values)
    if any(value.denominator != 1 for value in values):
        return None
    whole = [value.numerator for value in values]
    if name == "factorial" and 0 <= whole[0] <= 400:
        return Fraction(math.factorial(whole[0]))
    if name == "binom" and len(whole) == 2 and 0 <= whole[1] <= 400 and 0 <= whole[0] <= 10_000:
        return Fraction(math.comb(whole[0], whole[1]))
    if name in ("gcd", "lcm"):
        return Fraction(math.gcd(*whole) if name == "gcd" else math.lcm(*whole))
    if name == "base" and 2 <= whole[1] <= 10 and all(int(d) < whole[1] for d in str(abs(whole[0]))):
        return Fraction(int(str(whole[0]), whole[1]))
    return None


def _bounded(value: Fraction | None) -> Fraction | None:
    fits = value is not None and max(value.numerator.bit_length(), value.denominator.bit_length()) <= _BITS
    return value if fits else None


_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "arcsin": cmath.asin, "arccos": cmath.acos, "arctan": cmath.atan,
    "arcsinh": cmath.asinh, "arccosh": cmath.acosh, "arctanh": cmath.atanh, "sinh": cmath.sinh, "cosh": cmath.cosh,
    "tanh": cmath.tanh, "ln": cmath.log, "exp": cmath.exp, "sqrt": cmath.sqrt,
    "cot": lambda z: 1 / cmath.tan(z), "sec": lambda z: 1 / cmath.cos(z), "csc": lambda z: 1 / cmath.sin(z),
    "coth": lambda z: 1 / cmath.tanh(z), "sech": lambda z: 1 / cmath.cosh(z), "csch": lambda z: 1 / cmath.sinh(z),
    "log10": lambda z: cmath.log(z) / math.log(10), "abs": lambda z: complex(abs(z)),
    "cbrt": lambda z: complex(math.copysign(abs(z.real) ** (1 / 3), z.real)) if not z.imag else z ** (1 / 3)}
_CONSTANTS = {"pi": complex(math.pi), "e": complex(math.e), "i": 1j}
TURNING = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})
"""Functions of an angle, which may be in degrees."""


def numeric(node: Node, letters: Mapping[str, complex]) -> complex:
    """The value with these values of its letters, in floating point. Raises `UndefinedError`."""
    try:
        value = _numeric(node, letters)
    except (OverflowError, ZeroDivisionError, ValueError, TypeError, RecursionError):
        raise UndefinedError("no finite value") from None
    if not (cmath.isfinite(value) and abs(value) < _LARGEST):
        raise UndefinedError("no finite value")
    return value


def _numeric(node: Node, letters: Mapping[str, complex]) -> complex:
    kind = node[0]
    if kind == "num":
        return complex(float(node[1]))
    if kind == "sym":
        if node[1] not in letters:
            raise UndefinedError(f"a letter without a value: {node[1]}")
        return letters[node[1]]
    if kind == "const":
        if node[1] not in _CONSTANTS:
            raise UndefinedError(f"{node[1]} is no number")
        return _CONSTANTS[node[1]]
    if kind in ("deg", "unit"):
        return _numeric(node[1], letters)
    if kind == "neg":
        return 0 - _numeric(node[1], letters)  # not -x: the sign of its imaginary zero would choose a branch
    if kind == "percent":
        return _numeric(node[1], letters) / 100
    if kind == "call":
        return _function(node, letters)
    if kind not in ("+", "*", "/", "^"):
        raise UndefinedError(f"{kind} is no number")
    left, right = _numeric(node[1], letters), _numeric(node[2], letters)
    if kind == "+":
        return left + right
    if kind == "*":
        return left * right
    return left / right if kind == "/" else _power(left, right)


def _power(left: complex, right: complex) -> complex:
    if right.imag == 0 and right.real == int(right.real) and abs(right.real) < 10_000:
        value = left ** int(right.real)
        if left and not value:
            raise UndefinedError("too small")
        return value
    if left.imag == 0 and left.real < 0 and right.imag == 0:  # the real root, where the root is odd
        inverse = 1 / right.real
        if abs(inverse - round(inverse)) < 1e-9 and round(inverse) % 2:
            return complex(-(abs(left.real) ** right.real))
    return left ** right


def _function(node: Node, letters: Mapping[str, complex]) -> complex:
    value = exact(node) if not symbols(node) else None
    if value is not None:
        return complex(float(value))
    name = node[1]
    values = [_numeric(one, letters) for one in node[2:]]
    if name == "factorial":
        return complex(math.gamma(values[0].real + 1))
    if name in ("min", "max") and not any(v.imag for v in values):
        return complex((min if name == "min" else max)(v.real for v in values))
    if name in ("floor", "ceil") and not values[0].imag:
        return complex((math.floor if name == "floor" else math.ceil)(values[0].real))
    if name == "binom" and not any(v.imag for v in values):
        top, bottom = values[0].real, values[1].real
        return complex(math.gamma(top + 1) / math.gamma(bottom + 1) / math.gamma(top - bottom + 1))
    if name not in _FUNCTIONS or len(values) != 1:
        raise UndefinedError(f"no values of {name}")
    if name in TURNING and node[2][0] == "deg":
        return _FUNCTIONS[name](values[0] * math.pi / 180)
    return _FUNCTIONS[name](values[0])


def symbols(node: Node) -> set[str]:
    """The letters of an expression."""
    return _leaves(node, "sym")


def constants(node: Node) -> set[str]:
    """The constants of an expression: pi, e, i."""
    return _leaves(node, "const")


def _leaves(node: Node, kind: str) -> set[str]:
    found: set[str] = set()
    todo: list[object] = [node]
    while todo:
        one = todo.pop()
        if isinstance(one, tuple):
            if one and one[0] == kind:
                found.add(one[1])
            else:
                todo.extend(one[1:])
        elif isinstance(one, list):
            todo.extend(one)
    return found
