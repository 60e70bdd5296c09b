r"""Rules that make another answer of a reference: one sign, digit, letter, bracket, unit, function or entry of it is changed.

Each takes a reference's text and gives another text, or None where it does not apply; `bench/rewrites.py` draws from them.
"""

import random
import re
from collections.abc import Callable

Rule = Callable[[str, random.Random], str | None]
_UNITS = ("cm", "m", "km", "inches", "feet", "seconds", "minutes", "hours", "dollars", "cents", "grams", "kg",
          "degrees", "radians")
_UNIT = re.compile(r"(\\(?:text|mathrm|mbox)\{\s*~?\s*)(" + "|".join(_UNITS) + r")(\s*\})")
_WORDS = {"yes": "no", "no": "yes", "even": "odd", "odd": "even", "true": "false", "false": "true", "converges": "diverges",
          "increasing": "decreasing", "hyperbola": "ellipse", "ellipse": "circle", "circle": "parabola", "parabola": "hyperbola",
          "left": "right", "sunday": "monday", "monday": "tuesday", "friday": "monday"}
_OTHER = {r"\sin": r"\cos", r"\cos": r"\sin", r"\tan": r"\cot", r"\ln": r"\log_{10}", r"\log": r"\log_{7}", r"\cup": r"\cap",
          "<": ">", ">": "<", r"\le": "<", r"\ge": ">", r"\leq": "<", r"\geq": ">", r"\sqrt": r"\sqrt[3]", r"\binom": r"\frac"}
_INTEGER = re.compile(r"-?\d{1,15}")
_NO_TERM = re.compile(r"[,=<>:~|]|\\approx|\\text|\\in|\\pm|\\infty|mod|\\mathrm|begin|\\cup|\\emptyset|[A-Z]")
_LETTER = re.compile(r"(?<![a-zA-Z\\_{])[a-z](?![a-zA-Z])")


def other_digit(gold: str, rng: random.Random) -> str | None:
    r"""A digit behind the first of a decimal or a long number."""
    found = re.fullmatch(r"(-?)(\d[\d,]*\.?\d*)(.*)", gold, re.DOTALL)
    if found is None or len(found[2].strip(".")) < 3 or re.match(r"\s*[_^!]", found[3]) or re.search("[a-z]", found[3]):
        return None
    at = rng.choice([i for i, c in enumerate(found[2]) if c.isdigit() and i])
    digit = str((int(found[2][at]) + rng.randint(1, 9)) % 10)
    return f"{found[1]}{found[2][:at]}{digit}{found[2][at + 1:]}{found[3]}"


def other_power_of_ten(gold: str, rng: random.Random) -> str | None:
    found = re.search(r"(10\s*\^\s*\{?)(-?\d+)", gold)
    if found is None or gold.count("10") > 1:
        return None
    return gold[:found.start(2)] + str(int(found[2]) + rng.choice([-1, 1, 3])) + gold[found.end(2):]


def hundredfold(gold: str, rng: random.Random) -> str | None:
    applies = re.fullmatch(r"-?\d+(?:\.\d+)?", gold) and float(gold)
    return f"{float(gold) * rng.choice([10, 0.1, 0.001, 1000]):.12g}" if applies else None


def times_pi(gold: str, _: random.Random) -> str | None:
    return gold + r"\pi" if re.fullmatch(r"-?\d+|-?\\[dt]?frac\{\d+\}\{\d+\}", gold) and gold.strip("-") != "0" else None


def without_pi(gold: str, _: random.Random) -> str | None:
    if gold.count(r"\pi") != 1 or re.search(r"[,=<>]|\\frac\s*\\pi|\\pi\s*[_^]|\\(?:sin|cos|tan)", gold):
        return None
    return re.sub(r"\\pi(?![a-zA-Z])", "1" if re.search(r"\{\s*\\pi|^-?\\pi|[-+(/]\s*\\pi", gold) else "", gold)


def turned(gold: str, _: random.Random) -> str | None:
    """Degrees as radians."""
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?)\s*(?:\^\s*\{?\\circ\}?|\\degree|°)", gold)
    return rf"{found[1]}\text{{ radians}}" if found and float(found[1]) else None


def half_turned(gold: str, _: random.Random) -> str | None:
    """Degrees as twice so many in radians."""
    found = re.fullmatch(r"(\d+)\s*(?:\^\s*\{?\\circ\}?|\\degree|°)", gold)
    return rf"\frac{{{found[1]}\pi}}{{90}}" if found and int(found[1]) else None


def other_unit(gold: str, rng: random.Random) -> str | None:
    found = _UNIT.search(gold)
    if found is None:
        return None
    other = rng.choice([one for one in _UNITS if one.rstrip("s") != found[2].rstrip("s")])
    return gold[:found.start(2)] + other + gold[found.end(2):]


def other_dimension(gold: str, _: random.Random) -> str | None:
    r"""Square units as cubic ones, and plain ones as square ones."""
    if _UNIT.search(gold) is None or "^{-" in gold or gold.endswith("."):
        return None
    powers = re.search(r"\^\s*\{?([23])\}?\s*$", gold)
    return gold[:powers.start()] + f"^{5 - int(powers[1])}" if powers else gold + "^2"


def reciprocal(gold: str, _: random.Random) -> str | None:
    return rf"\frac{{1}}{{{gold}}}" if _INTEGER.fullmatch(gold) and abs(int(gold)) > 1 else None


def halved(gold: str, rng: random.Random) -> str | None:
    applies = _INTEGER.fullmatch(gold) and int(gold)
    return rf"\frac{{{gold}}}{{{rng.choice([2, 3, 4, 100])}}}" if applies else None


def other_letter(gold: str, rng: random.Random) -> str | None:
    letters = [one for one in _LETTER.finditer(gold) if one.group() not in "eidx"]
    if not letters or re.search(r"text|mathrm|mbox|[=:]|\\in|mod", gold):
        return None
    one = rng.choice(letters)
    free = [c for c in "abckmnpqrstuvwyz" if c not in gold]
    return gold[:one.start()] + rng.choice(free) + gold[one.end():]


def other_case(gold: str, _: random.Random) -> str | None:
    letters = set(_LETTER.findall(gold)) - set("eid")
    if len(letters) != 1 or re.search(r"text|mathrm|mbox|[=<>]|\\in|mod|[A-Z]", gold) or len(gold) < 3:
        return None
    return _LETTER.sub(lambda found: found.group().upper() if found.group() not in "eid" else found.group(), gold)


def other_function(gold: str, rng: random.Random) -> str | None:
    places = [one for one in re.finditer(r"\\[a-zA-Z]+|[<>]", gold) if one.group() in _OTHER]
    if not places or re.search(r"text|\\sqrt\{?[01](?!\d)|log\s*_|log\}|\^\{?\\circ", gold) or "[" in gold:
        return None
    one = rng.choice(places)
    return gold[:one.start()] + _OTHER[one.group()] + gold[one.end():]


def other_operator(gold: str, rng: random.Random) -> str | None:
    places = [one.start() for one in re.finditer(r"(?<=[\w})])\s*[-+](?=\s*[\w\\({])", gold)]
    if not places or re.search(r"text|=|\\pm|\\mp|\\pi\s*[kn]|[kn]\s*\\pi|e-\d|mod|[-+]\s*0|C\b", gold):
        return None
    at = rng.choice(places)
    sign = re.compile(r"[-+]").search(gold, at)
    return gold[:sign.start()] + ("+" if sign.group() == "-" else "-") + gold[sign.end():] if sign else None


def negative(gold: str, _: random.Random) -> str | None:
    if not re.search(r"[a-zA-Z]", gold) or gold.startswith("-") or _NO_TERM.search(gold):
        return None
    return f"-({gold})" if "(" not in gold else f"-[{gold}]"


def one_added(gold: str, _: random.Random) -> str | None:
    return f"{gold}+1" if negative(gold, random.Random(0)) is not None and "_" not in gold else None


def conjugate(gold: str, _: random.Random) -> str | None:
    found = re.fullmatch(r"(-?[\d.]*)\s*([-+])\s*([\d.]*i)", gold)
    return f"{found[1]}{'-' if found[2] == '+' else '+'}{found[3]}" if found else None


def other_end(gold: str, _: random.Random) -> str | None:
    r"""An interval with the other closing bracket."""
    found = re.fullmatch(r"(.*,.*?)(\\right)?([)\]])", gold)
    if found is None or r"\infty" in found[1].rpartition(",")[2] or "cup" in gold or gold.count(",") > 1 or (
            re.match(r"(\\left)?\(", gold) and found[3] == ")") or not re.match(r"(\\left)?[(\[]", gold):
        return None
    return f"{found[1]}{found[2] or ''}{')' if found[3] == ']' else ']'}"


def without_entry(gold: str, rng: random.Random) -> str | None:
    found = re.fullmatch(r"(\\left)?\((\s*[^()\[\]{},]+(?:,[^()\[\]{},]+)+)(\\right)?\)", gold)
    if found is None:
        return None
    parts = found[2].removesuffix(r"\right").split(",")
    parts.pop(rng.randrange(len(parts)))
    return f"({','.join(parts)})" if r"\infty" not in gold else None


def rotated(gold: str, _: random.Random) -> str | None:
    found = re.fullmatch(r"\(([^()\[\]{},]+(?:,[^()\[\]{},]+){2,})\)", gold)
    if found is None:
        return None
    parts = [part.strip() for part in found[1].split(",")]
    return f"({', '.join([*parts[1:], parts[0]])})" if len(set(parts)) > 1 else None


def without_part(gold: str, rng: random.Random) -> str | None:
    parts = re.split(r"\\cup(?![a-zA-Z])", gold)
    return rng.choice(parts) if len(parts) > 1 and "=" not in gold else None


def transposed(gold: str, _: random.Random) -> str | None:
    found = re.fullmatch(r"(\\begin\{[pb]matrix\})(.*)(\\end\{[pb]matrix\})", gold, re.DOTALL)
    if found is None:
        return None
    rows = [[one.strip() for one in row.split("&")] for row in found[2].strip().removesuffix(r"\\").split(r"\\")]
    columns = [list(column) for column in zip(*rows, strict=False)]
    if "phantom" in gold or len({len(row) for row in rows}) > 1 or rows == columns or len(rows) == 1 or len(rows[0]) == 1:
        return None
    return found[1] + r" \\ ".join(" & ".join(column) for column in columns) + found[3]


def as_determinant(gold: str, _: random.Random) -> str | None:
    square = re.match(r"\\begin\{[pb]matrix\}(?!.*phantom)", gold) and gold.count(r"\\") in (1, 2)
    return re.sub("[pb]matrix", "vmatrix", gold) if square else None


def other_base(gold: str, _: random.Random) -> str | None:
    found = re.fullmatch(r"([\dA-F]+)_\{?(\d+)\}?", gold)
    return f"{found[1]}_{{{int(found[2]) + 1}}}" if found and len(found[1]) > 1 else None


def other_word(gold: str, _: random.Random) -> str | None:
    found = re.fullmatch(r"(\\text\{)?\s*([A-Za-z]+)\s*(\})?", gold)
    word = _WORDS.get(found[2].casefold()) if found else None
    return f"{found[1] or ''}{word}{found[3] or ''}" if found and word else None


def other_choice(gold: str, _: random.Random) -> str | None:
    found = re.fullmatch(r"(\\text\{)?\(?([A-E])\)?(\})?", gold)
    return f"{found[1] or ''}({'ABCDE'[('ABCDE'.index(found[2]) + 1) % 5]}){found[3] or ''}" if found else None


def tenth_of_percent(gold: str, _: random.Random) -> str | None:
    found = re.fullmatch(r"(\d+)\s*\\?%", gold)
    return rf"{int(found[1]) / 10:g}\%" if found and int(found[1]) else None


def both_signs(gold: str, _: random.Random) -> str | None:
    return rf"\pm {gold}" if re.fullmatch(r"\d+|\\sqrt\{\d+\}|\\frac\{\d+\}\{\d+\}", gold) and gold != "0" else None


def mixed_up(gold: str, _: random.Random) -> str | None:
    r"""The coefficient and the number under the root change places."""
    found = re.fullmatch(r"(\d+)\\sqrt\{(\d+)\}", gold)
    return rf"{found[2]}\sqrt{{{found[1]}}}" if found and found[1] != found[2] else None


MISSES: tuple[Rule, ...] = (
    other_digit, other_power_of_ten, hundredfold, times_pi, without_pi, turned, half_turned, other_unit, other_dimension,
    reciprocal, halved, other_letter, other_case, other_function, other_operator, negative, one_added, conjugate, other_end,
    without_entry, rotated, without_part, transposed, as_determinant, other_base, other_word, other_choice, tenth_of_percent,
    both_signs, mixed_up)
