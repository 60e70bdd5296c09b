"""Variants of GSM8K's solved problems: other numbers in the question, carried through the equations of the solution.

A solution of GSM8K writes its equations down as `<<48/2=24>>24`. A number of the question that an equation uses is replaced,
every equation is worked out again, and the new values stand wherever the old ones did. Lines whose equations do not hold, or that
would come out ambiguous, negative or broken, give no variant. Percentages, fractions and small numbers stay as they are.
"""

import random
import re
from fractions import Fraction
from typing import Any

NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\d%]|,\d|\.\d|/)")
IN_NOTE = re.compile(r"\d*\.?\d+")
NOTE = re.compile(r"<<([^=<>]*)=([^<>]*)>>")
TRIES = 20


def worked_out(expression: str) -> Fraction | None:
    """The value of a sum of products with brackets; None if it is none."""
    if not re.fullmatch(r"[\d.+\-*/() ]+", expression) or "**" in expression or "//" in expression:
        return None
    try:
        return Fraction(eval(IN_NOTE.sub(r"F('\g<0>')", expression), {"__builtins__": {}, "F": Fraction}))
    except (SyntaxError, ValueError, ZeroDivisionError, TypeError):
        return None


def shown(value: Fraction) -> str | None:
    """A number as the solutions write it; None if that takes more than two decimals."""
    text = f"{float(value):.2f}".rstrip("0").rstrip(".")
    return text if Fraction(text) == value else None


def swapped(pattern: re.Pattern[str], text: str, table: dict[str, str]) -> str:
    """The text with other numbers where the table has them."""
    return pattern.sub(lambda match: table.get(match.group(), match.group()), text)


def carried(notes: list[tuple[str, str]], new: dict[str, str]) -> dict[str, str] | None:
    """The new text of every value, from those of the question's numbers; None if the equations do not allow it."""
    known = dict(new)
    for expression, result in notes:
        result = result.strip()
        old, value = worked_out(expression), worked_out(swapped(IN_NOTE, expression, known))
        if old is None or value is None or shown(old) != result or value <= 0:
            return None
        text = shown(value)
        if text is None or (old.denominator == 1) != (value.denominator == 1) or known.get(result, text) != text:
            return None
        known[result] = text
    return known


def other(number: int, chance: random.Random) -> int:
    """A number of a like size: a multiple of ten or five stays one."""
    grain = 10 if number % 10 == 0 else 5 if number % 5 == 0 else 1
    return grain * chance.randint(max(1, number // (2 * grain)), max(2, 2 * number // grain))


def variant(row: dict[str, Any], chance: random.Random) -> dict[str, Any] | None:
    """The line with other numbers; None if that cannot be done."""
    notes = NOTE.findall(row["solution"])
    used = {number for expression, _ in notes for number in IN_NOTE.findall(expression)}
    found = {m.group() for m in NUMBER.finditer(row["problem"])}
    free = sorted(n for n in found & used if n.isdigit() and int(n) > 2 and not n.startswith("0"))
    for _ in range(TRIES if free else 0):
        new = {n: str(other(int(n), chance)) for n in free}
        known = carried(notes, new)
        answer = row["solution"].rpartition("####")[2].strip()
        if known is not None and answer in known:
            return {"problem": swapped(NUMBER, row["problem"], new), "solution": swapped(IN_NOTE, row["solution"], known)}
    return None
