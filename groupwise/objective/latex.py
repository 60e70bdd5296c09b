"""How parts write their own equations in LaTeX.

A part may have a method `latex()`: the right-hand side of its equation with its own numbers filled in. The letters are r
(signal), A (advantage), rho (ratio), C (correction) of c (learner over engine), w (weight), u = log pi_ref - log pi, l = log pi,
o_(i,t) for tokens. A trust rule, a ratio and a term may have `slope_latex()` too: df/dl of a trust rule under the token ratio,
dlog(rho_s)/dl_t of a ratio, dL/dl of a term. Both are optional: a part of your own without them is shown by its name, its fields
and its docstring.
"""

import inspect
from typing import Any


def number(value: float) -> str:
    r"""A number as it would be written: 1.28, 0.0003, 10^{-6}.

    >>> number(1 + 0.28), number(1e-6), number(5e-7), number(4.0)
    ('1.28', '10^{-6}', '5 \\cdot 10^{-7}', '4')
    """
    plain = f"{value:.6g}"
    digits, e, power = plain.partition("e")
    if not e:
        return plain
    return f"10^{{{int(power)}}}" if digits == "1" else rf"{digits} \cdot 10^{{{int(power)}}}"


def equation(part: Any, arguments: str = "", **given: str) -> str:
    r"""What a part says of itself; `\mathrm{Name}` and the arguments if it says nothing that holds for its own code.

    A subclass that computes something else without a new `latex` would show its parent's equation: then it says nothing. `given`
    is passed on to a `latex` that asks for it (the unit that an aggregation weighs).
    """
    if says(part, "latex"):
        known = inspect.signature(part.latex).parameters
        return str(part.latex(**{name: value for name, value in given.items() if name in known}))
    name = getattr(part, "__name__", type(part).__name__).replace("_", r"\_")
    return rf"\mathrm{{{name}}}{arguments}"


def says(part: Any, name: str) -> bool:
    """Whether a part has the method `name`, written for the code that it runs and not for a parent's."""
    order = type(part).__mro__
    return any(name in vars(cls) for cls in order) and (
        _place(order, name) <= min(_place(order, acting) for acting in ("__call__", "weights", "losses")))


def bracketed(latex: str) -> str:
    """In brackets if it is a sum or a difference at its top level, so that it can be subtracted or multiplied."""
    depth, inside = 0, latex
    for i, letter in enumerate(inside):
        depth += (letter in "{([") - (letter in "})]")
        if depth == 0 and letter in "+-" and i > 0 and "begin{cases}" not in latex[:i]:
            return rf"\left( {latex} \right)"
    return latex


def _place(order: tuple[type, ...], name: str) -> int:
    return next((i for i, cls in enumerate(order) if name in vars(cls)), len(order))
