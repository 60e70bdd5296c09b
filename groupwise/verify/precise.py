"""The value of an expression to fifty digits, by mpmath: for what floating point cannot tell.

That is: two values that differ in the twelfth digit, differences of nearly equal numbers, and what overflows. The operations are
those of `groupwise.verify.value.numeric`, each bounded as there.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from groupwise.verify.cursor import Node
from groupwise.verify.value import TURNING, UndefinedError

_BITS = 200
_LARGEST = 100_000
"""Natural logarithm of the largest value."""
_CLOSE = 1e-40
_DIRECT = ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "sech", "csch", "exp", "sqrt", "factorial",
           "floor", "ceil")
_GROWING = frozenset({*_DIRECT, "binom"}) - {"sqrt", "floor", "ceil"}
"""Functions whose cost grows with their argument."""


@cache
def _context() -> Any:
    from mpmath.ctx_mp import MPContext  # a tenth of a second, and only workers of `math` need it
    context = MPContext()
    context.prec = _BITS
    return context


def agree(left: Node, right: Node, letters: Mapping[str, complex]) -> tuple[bool, bool]:
    """Whether two expressions have one value at these letters, and whether both are real. Raises `UndefinedError`."""
    context = _context()
    try:
        a, b = (_value(one, letters, context) for one in (left, right))
        largest = max(abs(a), abs(b))
        if not context.isfinite(largest):
            raise UndefinedError("no finite value")
        same = abs(a - b) <= _CLOSE * largest or (not (a and b) and largest < _CLOSE)
        return bool(same), all(abs(one.imag) <= _CLOSE * max(abs(one), 1e-20) for one in (a, b))
    except (ArithmeticError, ValueError, TypeError, RuntimeError):
        raise UndefinedError("no finite value") from None


def _value(node: Node, letters: Mapping[str, complex], context: Any) -> Any:
    kind = node[0]
    if kind == "num":
        return context.mpf(node[1].numerator) / node[1].denominator
    if kind == "sym":
        if node[1] not in letters:
            raise UndefinedError(f"a letter without a value: {node[1]}")
        return context.mpf(letters[node[1]].real)
    if kind == "const":
        return {"pi": context.pi, "e": context.e, "i": context.j}[node[1]] * context.one
    if kind == "call":
        return _function(node, letters, context)
    values = [_value(one, letters, context) for one in node[1:] if isinstance(one, tuple)]
    if kind in ("deg", "unit"):
        return values[0]
    if kind in ("neg", "percent"):
        return -values[0] if kind == "neg" else values[0] / 100
    if kind not in ("+", "*", "/", "^"):
        raise UndefinedError(f"{kind} is no number")
    left, right = values
    if kind == "^":
        return _power(left, right, context)
    return left + right if kind == "+" else left * right if kind == "*" else left / right


def _power(left: Any, right: Any, context: Any) -> Any:
    if left and abs(right * context.log(abs(left))) > _LARGEST:
        raise UndefinedError("too large")
    if not left.imag and left.real < 0 and not right.imag and right.real and right.real != int(right.real):
        inverse = 1 / right.real  # the real root, where the root is odd
        if abs(inverse - round(inverse)) < _CLOSE and round(inverse) % 2:
            return -(abs(left.real) ** right.real)
    return left ** right


def _function(node: Node, letters: Mapping[str, complex], context: Any) -> Any:
    name, values = node[1], [_value(one, letters, context) for one in node[2:]]
    if name in _GROWING and any(abs(one.real) > _LARGEST for one in values):
        raise UndefinedError("too large")
    function = _functions(context).get(name)
    if function is None:
        raise UndefinedError(f"no values of {name}")
    if name in TURNING and node[2][0] == "deg":
        values = [values[0] * context.pi / 180]
    return function(*values)


@cache
def _functions(context: Any) -> dict[str, Callable[..., Any]]:
    plain = {name: getattr(context, name) for name in _DIRECT}
    inverse = {f"arc{name}": getattr(context, f"a{name}") for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")}
    others = {"ln": context.log, "log10": context.log10, "abs": abs, "min": min, "max": max, "binom": context.binomial,
              "cbrt": lambda z: _power(z, context.mpf(1) / 3, context)}
    return {**plain, **inverse, **others}
