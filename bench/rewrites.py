r"""Labelled answers made from references by rules: rewritings that are the same answer, and near misses that are not.

Each rule takes a reference's text and gives another text, or None where it does not apply. A rule for the same answer changes the
writing only; one for another answer changes exactly one number, sign, bracket or entry. Two of each are drawn by (seed,
reference).
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import near_misses

Rule = Callable[[str, random.Random], str | None]
SETS = ("math_test", "olympiadbench", "deepmath_5k", "minerva", "amc_83", "gsm8k_test", "aime24")
_INTEGER = re.compile(r"-?\d{1,15}")
_FRACTION = re.compile(r"(-?)\\[dt]?frac\{(\d{1,9})\}\{(\d{1,9})\}")
_TUPLE = re.compile(r"(\\left)?([(\[])([^()\[\],{}|]+(?:,[^()\[\],{}|]+)+?)(\\right)?([)\]])")
_PLAIN = re.compile(r"(?:(?!\\(?:[lg]e|ne|equiv))[^,;=<>:])*")


def _fraction(gold: str) -> tuple[str, int, int] | None:
    found = _FRACTION.fullmatch(gold)
    return None if found is None else (found[1], int(found[2]), int(found[3]))


def display(gold: str, _: random.Random) -> str | None:
    return gold.replace(r"\frac", r"\dfrac") if r"\frac" in gold else None


def slash(gold: str, _: random.Random) -> str | None:
    parts = _fraction(gold)
    return f"{parts[0]}{parts[1]}/{parts[2]}" if parts else None


def unreduced(gold: str, rng: random.Random) -> str | None:
    parts, k = _fraction(gold), rng.randint(2, 5)
    return rf"{parts[0]}\frac{{{parts[1] * k}}}{{{parts[2] * k}}}" if parts else None


def decimal(gold: str, _: random.Random) -> str | None:
    parts = _fraction(gold)
    if parts is None or not parts[2] or 10 ** 6 % Fraction(parts[1], parts[2]).denominator:
        return None
    return f"{parts[0]}{float(Fraction(parts[1], parts[2])):.6f}".rstrip("0").rstrip(".")


def grouped(gold: str, rng: random.Random) -> str | None:
    if not _INTEGER.fullmatch(gold) or len(gold.lstrip("-")) < 4:
        return None
    return f"{int(gold):,}".replace(",", rng.choice([",", "{,}", r",\!"]))


def pointed(gold: str, _: random.Random) -> str | None:
    return gold + ".0" if _INTEGER.fullmatch(gold) else None


def spaced(gold: str, _: random.Random) -> str | None:
    wider = re.sub(r"(?<=[\w})])([+,=])(?=[\w\\({-])", r" \1 ", gold)
    return wider if wider != gold and r"\text" not in gold and not re.search(r"\d,\d{3}", gold) else None


def unsized(gold: str, _: random.Random) -> str | None:
    bare = re.sub(r"\\(?:left|right)(?![a-zA-Z])", "", gold)
    return bare if bare != gold else None


def named(gold: str, rng: random.Random) -> str | None:
    applies = _PLAIN.fullmatch(gold) and re.search(r"\d", gold) and "text" not in gold
    return rng.choice(["x = ", "n=", "S = "]) + gold if applies else None


def measured(gold: str, rng: random.Random) -> str | None:
    return gold + rng.choice([r"\text{ cm}", r" \text{ units}", r"\mathrm{~m}"]) if _INTEGER.fullmatch(gold) else None


def squared_root(gold: str, _: random.Random) -> str | None:
    found = re.fullmatch(r"(\d{1,4})\\sqrt\{(\d{1,6})\}", gold)
    return rf"\sqrt{{{int(found[1]) ** 2 * int(found[2])}}}" if found else None


def swapped_sum(gold: str, _: random.Random) -> str | None:
    found = re.fullmatch(r"([^-+=,<>(){}\[\]]+)\+([^-+=,<>(){}\[\]]+)", gold)
    return f"{found[2].strip()}+{found[1].strip()}" if found and _PLAIN.fullmatch(gold) and "text" not in gold else None


def shuffled_list(gold: str, rng: random.Random) -> str | None:
    parts = gold.split(",")
    if len(parts) < 2 or re.search(r"[()\[\]{}=]|\\!|\d,\d{3}", gold):
        return None
    rng.shuffle(parts)
    return ", ".join(part.strip() for part in parts)


def as_inequality(gold: str, _: random.Random) -> str | None:
    found = re.fullmatch(r"(\\left)?([(\[])(-?\d+|-\\infty),\s*(-?\d+|\\infty)(\\right)?([)\]])", gold)
    if found is None or ((found[2], found[6]) == ("(", ")") and gold.count(r"\infty") != 1):
        return None
    low = "" if found[3] == r"-\infty" else found[3] + (r" \le " if found[2] == "[" else " < ")
    high = "" if found[4] == r"\infty" else (r" \le " if found[6] == "]" else " < ") + found[4]
    return f"{low}x{high}"


def worded(gold: str, _: random.Random) -> str | None:
    found = re.fullmatch(r"\\text\{\s*([A-Za-z ]{2,})\}", gold)
    return found[1].strip().lower() if found else None


def next_integer(gold: str, rng: random.Random) -> str | None:
    return str(int(gold) + rng.choice([-1, 1, 2, 10])) if _INTEGER.fullmatch(gold) else None


def other_sign(gold: str, _: random.Random) -> str | None:
    if not (_INTEGER.fullmatch(gold) or _FRACTION.fullmatch(gold)) or gold.strip("-") == "0":
        return None
    return gold[1:] if gold.startswith("-") else "-" + gold


def tenfold(gold: str, _: random.Random) -> str | None:
    return gold + "0" if _INTEGER.fullmatch(gold) and gold.strip("-") != "0" else None


def inverse(gold: str, _: random.Random) -> str | None:
    parts = _fraction(gold)
    return rf"{parts[0]}\frac{{{parts[2]}}}{{{parts[1]}}}" if parts and parts[1] and parts[1] != parts[2] else None


def rounded(gold: str, _: random.Random) -> str | None:
    parts = _fraction(gold)
    if parts is None or not parts[2] or not 10 ** 6 % Fraction(parts[1], parts[2]).denominator or parts[1] > 1000 * parts[2]:
        return None
    return f"{parts[0]}{parts[1] / parts[2]:.2f}"


def other_number(gold: str, rng: random.Random) -> str | None:
    places = list(re.finditer(r"(?<![\d.])\d{1,6}(?![\d.])", gold))
    if not places or _INTEGER.fullmatch(gold) or r"\text" in gold or re.search(r"[a-zA-Z]_|mod|binom|[|]|!",
                                                                               gold) or gold.count("=") > 1:
        return None
    one = rng.choice(places)
    if one.group() in ("0", "1"):
        return None
    return gold[:one.start()] + str(int(one.group()) + 1) + gold[one.end():]


def swapped_pair(gold: str, _: random.Random) -> str | None:
    found = _TUPLE.fullmatch(gold)
    if found is None:
        return None
    parts = [part.strip() for part in found[3].removesuffix(r"\right").split(",")]
    if len(parts) != 2 or parts[0] == parts[1]:
        return None
    return f"{found[2]}{parts[1]}, {parts[0]}{found[5]}"


def other_bracket(gold: str, _: random.Random) -> str | None:
    found = re.fullmatch(r"(\\left)?([(\[])([^()\[\],]+),([^()\[\],]+)(\\right)?([)\]])", gold)
    if found is None or (found[2], found[6]) == ("(", ")") or ("[" in gold and found[3].strip() == r"-\infty"):
        return None
    other = ("[" if found[2] == "(" else "(") if found[3].strip() != r"-\infty" else found[2]
    return f"{other}{found[3]},{found[4]}{found[6]}" if other != found[2] else None


def one_less(gold: str, _: random.Random) -> str | None:
    parts = gold.split(",")
    return ",".join(parts[:-1]) if len(parts) > 1 and not re.search(r"[()\[\]{}=]|\d,\d{3}", gold) else None


def one_more(gold: str, _: random.Random) -> str | None:
    return gold + ", 17" if _INTEGER.fullmatch(gold) and gold != "17" else None


def without_root(gold: str, _: random.Random) -> str | None:
    found = re.fullmatch(r"(\d*)\\sqrt\{(\d+)\}", gold)
    return f"{found[1] or 1}" + rf"\cdot {found[2]}" if found and found[2] not in ("0", "1") else None


SAME: tuple[Rule, ...] = (display, slash, unreduced, decimal, grouped, pointed, spaced, unsized, named, measured, squared_root,
                          swapped_sum,
                          shuffled_list, as_inequality, worded)
OTHER: tuple[Rule, ...] = (next_integer, other_sign, tenfold, inverse, rounded, other_number, swapped_pair, other_bracket,
                           one_less, one_more, without_root, *near_misses.MISSES)
_FRAMES = (r"So the answer is $\boxed{%s}$.", r"Therefore, \[\boxed{%s}\]", "Thus we are done.\n\nFinal Answer: $%s$",
           "The answer is $%s$.",
           "<think>Let me see.</think> <answer>%s</answer>", r"We get $%s$ in the end.")


def made(folder: Path, each: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Labelled lines from `each` references of every set in a folder, in the format of `groupwise audit-verifier`."""
    for name in SETS:
        lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        for line in random.Random(f"{seed} {name}").sample(lines, min(each, len(lines))):
            gold = json.loads(line)["answer"]
            for one in ([gold] if isinstance(gold, str) else gold):
                yield from _of(name, one.strip().strip("$"), seed)


def _of(name: str, gold: str, seed: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(f"{seed} {name} {gold}")
    for rules, label in ((SAME, True), (OTHER, False)):
        drawn = [(rule.__name__, text) for rule in rules if (text := rule(gold, rng)) is not None and text != gold]
        for rule, text in rng.sample(drawn, min(2, len(drawn))):
            yield {"id": f"{name}/{rule}", "source": rule, "prediction": rng.choice(_FRAMES) % text, "gold": gold, "label": label}
