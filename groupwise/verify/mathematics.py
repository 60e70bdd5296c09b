r"""The verifier `math`: where the answer stands (`find`), its normal form, exact arithmetic, values, and math-verify last.

    tier       decides
    text       the same text once LaTeX's variants are one
    exact      both are fractions
    value      expressions, lists, intervals, matrices, relations (`equal`)
    symbolic   math-verify, where one side could not be read here (sums, integrals)

Two answers that could be read are never given to math-verify, and it has a time of its own (`opinion`). Run this verifier in a
worker with a deadline (`groupwise.verify.pool`), never in the training process.
"""

import re
from collections.abc import Mapping
from typing import Any

from groupwise.core.verdict import Verdict
from groupwise.verify.amounts import Truth
from groupwise.verify.cursor import Node
from groupwise.verify.equal import same
from groupwise.verify.find import MARKED, Found, answers_in
from groupwise.verify.markup import LONGEST, UnreadableError, spelled, tokens
from groupwise.verify.opinion import Opinions
from groupwise.verify.syntax import read
from groupwise.verify.text import answers, plain_latex
from groupwise.verify.units import is_unit
from groupwise.verify.value import UndefinedError

VERSION = "math/4"
"""Changes with any verdict of `math`."""
_LETTERS = re.compile(r"[A-Za-z]{3,}(?:[\s'_-]+[A-Za-z]+)*|[A-Z]{2,}|[A-Za-z]+(?:[\s'-]+[A-Za-z]+){2,}")
_PROSE = re.compile(r"(?<![\\a-zA-Z{])[a-zA-Z]{3,}[\s,]+(?:[a-zA-Z]{1,3}[\s,]+)?[a-zA-Z]{3,}(?![a-zA-Z(}])")
"""Words of a sentence: math-verify would take a number out of them."""
_LETTER_UNIT = re.compile(r"(-?\d[\d.,]*)\s+([mgshLJNWVAKTC](?:\^\{?[23]\}?)?)")
"""A number and a letter, which is a unit where the other side is a number, perhaps with a unit."""
_AMOUNT = re.compile(r"[-\d.,{}\s/]*(?:\\d?frac[\d{}]+)?(?:\\(?:text|mathrm)\{)?([a-zA-Z /]*)\}?(?:\^\{?[23]\}?)?")
_SIGNS = re.compile(r"\\(?:pm|mp)(?![a-zA-Z])")
_CHOICE = re.compile(r"\(?([A-J])\)?(?:[.):]|\s|$).{0,200}", re.DOTALL)


def math(text: str, answer: Any, meta: Mapping[str, Any]) -> Verdict:
    r"""The response's answer is the reference, or one of them; a reference may stand in `$`, `\boxed{}` or a sentence.

    `meta["finish"] == "length"`: the response was cut, and only a closed box or tag behind its thinking counts.
    `meta["prompt"]` is the problem: an answer is not read in its lines. An empty reference is an abstention.
    """
    cut = meta.get("finish") == "length"
    references = [one for one in (reference(str(a)) for a in answers(answer) if a is not None) if one]
    found = list(answers_in(text, str(meta.get("prompt") or ""), cut))
    if not references:
        return Verdict(None, "unparsable", "", found[0].text[:200] if found else None, mark=found[0].mark if found else "",
                       version=VERSION)
    if not found:
        return Verdict(False, "truncated" if cut else "no_answer", version=VERSION)
    best: Verdict | None = None
    opinions = Opinions()
    for one in found:
        for gold in references:
            verdict = _verdict(one, gold, opinions)
            if verdict.correct:
                return verdict
            best = verdict if best is None else best
    assert best is not None
    return best


def reference(text: str) -> str:
    r"""The answer that a reference states: inside `\boxed{}` or `$` if it has them, else its text."""
    found = next(answers_in(text), None)
    if found is None or not (found.mark in MARKED or (found.mark == "math" and len(text) > 80)):
        return text.strip()
    return found.text


def _verdict(found: Found, gold: str, opinions: Opinions) -> Verdict:
    truth, tier = compare(gold, found.text, opinions)
    kind = "ok" if truth else "mismatch" if truth is False else "timeout" if opinions.late else "unparsable"
    return Verdict(bool(truth), kind, tier, found.text[:200], mark=found.mark, version=VERSION)


def compare(gold: str, given: str, opinions: Opinions | None = None) -> tuple[Truth, str]:
    r"""Whether an answer is the reference, and the tier that decided; None if the answer is not to be read at all.

    >>> compare("1/2", "0.5"), compare(r"(-\infty, 3]", "x <= 3"), compare("5", "6")
    ((True, 'exact'), (True, 'value'), (False, 'exact'))
    """
    if gold == given:
        return True, "text"
    opinions = Opinions() if opinions is None else opinions
    if len(given) > LONGEST or len(gold) > LONGEST:
        return plain_latex(gold) == plain_latex(given), "text"
    left, right = spelled(gold), spelled(given)
    left, right = _unmeasured(left, right), _unmeasured(right, left)
    if plain(left) == plain(right) and right:
        return True, "text"
    if (chosen := _choice(left, right)) is not None:
        return chosen, "text"
    if _LETTERS.fullmatch(left) and _LETTERS.fullmatch(right):
        return same([("text", left)], [("text", right)]), "text"
    readings, sure = _readings(left), _readings(right, left)
    if readings and not sure and _LETTERS.fullmatch(right):
        return same(readings[0], [("text", right)]), "text"
    if bool(readings) != bool(sure):
        readings, sure = readings or _last_side(left), sure or _last_side(right, left)
    truths = [(_tried(one, other), _tier(one, other)) for one in readings for other in sure]
    for truth, tier in truths:
        if truth:
            return True, tier
    if truths:
        return truths[-1]
    if _PROSE.search(left) or _PROSE.search(right):
        return False, "text"
    return opinions.of(left, right), "symbolic"


def plain(text: str) -> str:
    r"""An answer's text without spaces, braces around one character, `\text` and case of words; letters keep their case."""
    flat = plain_latex(text) if re.search(r"[a-zA-Z]{3}", re.sub(r"\\[a-zA-Z]+", "", text)) else re.sub(r"\s", "", text)
    return re.sub(r"\{(\w)\}", r"\1", flat.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac"))


def _choice(gold: str, given: str) -> bool | None:
    """Multiple choice: a letter, perhaps in brackets and with the option's text behind it; None if it is something else."""
    gold, given = (re.sub(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}", r"\1", one).strip(" .*") for one in (gold, given))
    gold, given = (re.sub(r"^(?:option|choice)\s+(?=\(?[A-J]\)?$)", "", one, flags=re.IGNORECASE) for one in (gold, given))
    a, b = _CHOICE.fullmatch(gold), _CHOICE.fullmatch(given)
    bare = re.compile(r"\(?([A-Ja-j])\)?")
    if a and bare.fullmatch(given):
        return a.group(1) == given.strip("()").upper() if (
            len(gold) > 1 or given.isupper() or "(" in given or gold in "ABCDE") else None
    if b and bare.fullmatch(gold) and (len(given) < 2 or not re.match(r"[A-J]\s*[-+*/^=<>_]", given)):
        return b.group(1) == gold.strip("()").upper() if gold.strip("()").isupper() else None
    return None


def _unmeasured(text: str, other: str) -> str:
    """5 m with its unit marked as such, where the other side has no letter that could be meant."""
    found, amount = _LETTER_UNIT.fullmatch(text), _AMOUNT.fullmatch(other)
    return rf"{found[1]}\text{{ {found[2]}}}" if found and amount and is_unit(amount[1]) else text


def _readings(text: str, gold: str | None = None) -> list[list[Node]]:
    r"""What an answer may mean: with 1,234 as one number or as two, \pm as both signs, and as `gold` writes decimals and i."""
    found: list[list[Node]] = []
    if re.fullmatch(r"-?\d+,\d\d", text):  # the comma of other countries
        found.append(read(tokens(text.replace(",", "."))))
    bare = [re.sub(r"\\[a-zA-Z]+", "", one) for one in (gold or "", text)]
    if gold and "I" not in bare[0] and "i" not in bare[1]:
        text = re.sub(r"(?<![a-zA-Z\\])I(?![a-zA-Z]{2})|(?<=[a-z])I\b", "i", text)
    for join in (True, False) if re.search(r"\d,\s?\d{3}(?!\d)", text) else (True,):
        try:
            pieces = tokens(text, join)
            items = read(pieces)
            if _SIGNS.search(text):
                items = items + read(pieces, -1)
            found.append(items)
        except (UnreadableError, UndefinedError, RecursionError):
            continue
    return found


def _last_side(text: str, gold: str | None = None) -> list[list[Node]]:
    """Of something = 1 what stands last, where that something is not to be read."""
    before, _, last = text.rpartition("=")
    whole = before.strip() and before.count("{") == before.count("}") and not re.search(r"[<>]|\\[lg]eq?\b", text)
    return _readings(last.strip(), gold) if whole else []


def _tried(gold: list[Node], given: list[Node]) -> Truth:
    try:
        return same(gold, given)
    except (UndefinedError, RecursionError, OverflowError):
        return None


def _tier(gold: list[Node], given: list[Node]) -> str:
    simple = [len(one) == 1 and one[0][0] in ("num", "neg", "/", "percent") for one in (gold, given)]
    return "exact" if all(simple) else "value"

