"""The verifier `math`: exact numbers and normalised text first, then math-verify's symbolic comparison.

math-verify's own timers are signals, which fail off the main thread: they are off here, so the symbolic tier may hang on
hostile input. Run this verifier in a worker with a deadline (`groupwise.verify.pool`), never in the training process.
"""

import logging
from collections.abc import Mapping
from typing import Any

from groupwise.core.verdict import Verdict
from groupwise.verify.text import answers, equivalent, marked, missing, numeric, same_number

_TAIL = 2000
"""Characters at the end of a text without a marked answer that the symbolic tier reads."""


def math(text: str, answer: Any, meta: Mapping[str, Any]) -> Verdict:
    r"""The marked answer (`\boxed{}`, `<answer>`, `####`, "answer is"), else the end of the text, equals the answer.

    Two exact numbers that differ are a mismatch; anything else that differs as text goes to the symbolic tier.
    """
    found = marked(text)
    if meta.get("finish") == "length" and (found is None or found[0] == "line"):
        return missing(meta)
    if found is None:
        plain = numeric(text, answer, meta)
        return plain if plain.correct else _symbolic(text[-_TAIL:], answer, plain)
    tier, inside = found
    wrong = Verdict(False, "mismatch", tier, inside[:200])
    numbers = [same_number(inside, str(a)) for a in answers(answer)]
    if True in numbers or any(equivalent(inside, str(a)) for a in answers(answer)):
        return Verdict(True, "ok", tier, inside[:200])
    return wrong if None not in numbers else _symbolic(f"${inside}$", answer, wrong)


def prepare() -> None:
    """Load the symbolic tier and use it once, so that no item pays for it: a worker calls this before its first item."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    _symbolic(r"$x+\frac{1}{2}$", "x+0.5", Verdict(False))


def _symbolic(text: str, answer: Any, otherwise: Verdict) -> Verdict:
    """math-verify's opinion; `otherwise` if it finds nothing to compare or says no."""
    from math_verify import parse, verify  # takes a second to import (sympy); only workers of this verifier need it
    target = parse(text, parsing_timeout=None)
    if not target:
        return Verdict(False, "no_answer" if otherwise.kind == "no_answer" else "unparsable", "symbolic", otherwise.extracted)
    for one in answers(answer):
        gold = parse(str(one) if "$" in str(one) or r"\boxed" in str(one) else f"${one}$", parsing_timeout=None)
        if gold and verify(gold, target, timeout_seconds=None):
            return Verdict(True, "ok", "symbolic", str(target[-1])[:200])
    return Verdict(False, "mismatch", "symbolic", str(target[-1])[:200])
