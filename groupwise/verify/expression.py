"""The verifier `countdown`: an expression that uses every given number exactly once and has the target's value.

    expression = product {("+" | "-") product}
    product    = factor {("*" | "/") factor}
    factor     = integer | "-" factor | "(" expression ")"

Values are exact fractions; nothing is executed.
"""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from groupwise.core.verdict import Verdict
from groupwise.verify.text import marked, missing

LONGEST = 500
"""Characters of an expression; longer ones are unparsable."""
DEEPEST = 40
"""Nested brackets and signs."""

_TOKEN = re.compile(r"\s*([0-9]{1,15}|[-+*/()])")
_SPELLING = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "[": "(", "]": ")", "$": " "})


class _Unreadable(ValueError):
    """Not an expression of the grammar, or a division by zero."""


def countdown(text: str, answer: Any, meta: Mapping[str, Any]) -> Verdict:
    r"""`answer` is {"numbers": [...], "target": n}. The expression is the marked answer (tag, box, `####`, "answer is"), else
    the last piece of the text between newlines and semicolons; "= value" behind it is left out.
    """
    found = marked(text)
    if meta.get("finish") == "length" and (found is None or found[0] == "line"):
        return missing(meta)
    pieces = [p for p in re.split(r"[\n;]", found[1] if found else text) if p.strip()]
    if not pieces:
        return missing(meta)
    tier, piece = found[0] if found else "last", pieces[-1].split("=")[0].strip()
    try:
        value, used = evaluate(piece)
    except _Unreadable:
        return Verdict(False, "unparsable", tier, piece[:200])
    correct = value == Fraction(answer["target"]) and sorted(used) == sorted(answer["numbers"])
    return Verdict(correct, "ok" if correct else "mismatch", tier, piece[:200])


def evaluate(expression: str) -> tuple[Fraction, list[int]]:
    """The exact value of an expression and the numbers in it; `ValueError` where it is not one.

    >>> evaluate("(7-3)*6")
    (Fraction(24, 1), [7, 3, 6])
    """
    if len(expression) > LONGEST:
        raise _Unreadable(f"longer than {LONGEST} characters")
    plain = expression.translate(_SPELLING).replace(r"\times", "*").replace(r"\cdot", "*").replace(r"\div", "/").rstrip()
    tokens, at = [], 0
    while at < len(plain):
        found = _TOKEN.match(plain, at)
        if found is None:
            raise _Unreadable(f"cannot read {plain[at:at + 10]!r}")
        tokens.append(found.group(1))
        at = found.end()
    reader = _Reader(tokens)
    value = reader.expression(0)
    if reader.tokens:
        raise _Unreadable(f"{reader.tokens[-1]!r} comes unexpected")
    return value, reader.used


class _Reader:
    """A recursive-descent reader; `tokens` holds what is left, the next one last."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens[::-1]
        self.used: list[int] = []

    def expression(self, depth: int) -> Fraction:
        value = self.product(depth)
        while self.tokens and self.tokens[-1] in "+-":
            value = value + self.product(depth) if self.tokens.pop() == "+" else value - self.product(depth)
        return value

    def product(self, depth: int) -> Fraction:
        value = self.factor(depth)
        while self.tokens and self.tokens[-1] in "*/":
            divide, right = self.tokens.pop() == "/", self.factor(depth)
            if divide and not right:
                raise _Unreadable("division by zero")
            value = value / right if divide else value * right
        return value

    def factor(self, depth: int) -> Fraction:
        if not self.tokens or depth > DEEPEST:
            raise _Unreadable("ends too early" if not self.tokens else f"nested deeper than {DEEPEST}")
        token = self.tokens.pop()
        if token.isdigit():
            self.used.append(int(token))
            return Fraction(int(token))
        if token == "-":
            return -self.factor(depth + 1)
        if token != "(":
            raise _Unreadable(f"{token!r} comes unexpected")
        value = self.expression(depth + 1)
        if not self.tokens or self.tokens.pop() != ")":
            raise _Unreadable("a bracket is not closed")
        return value
