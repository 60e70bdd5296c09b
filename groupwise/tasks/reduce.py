"""The embedded task: evaluate a chain of additions and subtractions by rewriting it.

    prompt      "7+5+9-3="
    completion  "12+9-3=21-3=18"     each rewrite folds the first terms into one

Terms are single digits and no partial sum leaves 0..60. A model that answers at once is often wrong; one that rewrites step
by step is often right: the reward can teach it to think longer. The verifier reads the last integer.
"""

from collections.abc import Collection, Iterator
from random import Random

from groupwise.core.keyed import fold
from groupwise.core.rollout import Prompt
from groupwise.errors import ConfigError
from groupwise.tasks.task import PATIENCE, Task, check, distinct, prompt

ALPHABET = "0123456789+-="
"""The characters of prompts and completions."""

HIGHEST = 60
"""No partial sum exceeds it."""

_SLIPS = (-10, -2, -1, 1, 2, 10)


def reduce(kmin: int = 4, kmax: int = 8, train: int = 8192, heldout: int = 500, seed: int = 1) -> Task:
    """Distinct chains of `kmin` to `kmax` terms; the held-out ones do not depend on `train`. Answers are ints.

    The longest step-by-step completion of k terms has k*k - 1 characters, so `max_tokens` is kmax * kmax.
    """
    _check_terms(kmin, kmax)
    rng = Random(fold(seed, "reduce"))

    def draw() -> tuple[str, Prompt]:
        terms = _problem(rng, kmin, kmax)
        text = _text(terms) + "="
        return text, prompt("reduce", text, sum(terms))

    prompts = distinct("reduce", draw, train + heldout)
    return check(Task(name="reduce", train=prompts[heldout:], heldout=prompts[:heldout], verifier="last_integer",
                      max_tokens=kmax * kmax))


def demonstrations(seed: int, kmin: int = 2, kmax: int = 8, direct: float = 0.4, slips: float = 0.1,
                   exclude: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Endless (prompt, completion) texts for a supervised warm start, with prompts never in `exclude`.

    A completion answers at once with probability `direct`; otherwise each rewrite folds 2 (70 %), 3 (20 %) or 4 (10 %) terms
    and is off by 1, 2 or 10 with probability `slips`.
    """
    _check_terms(kmin, kmax)
    if not (0.0 <= direct <= 1.0 and 0.0 <= slips <= 1.0):
        raise ConfigError(f"demonstrations: direct and slips are probabilities, got {direct} and {slips}")
    return _demonstrations(Random(fold(seed, "reduce/demonstrations")), (kmin, kmax), (direct, slips), frozenset(exclude))


def _demonstrations(rng: Random, sizes: tuple[int, int], odds: tuple[float, float],
                    exclude: frozenset[str]) -> Iterator[tuple[str, str]]:
    idle = 0
    while idle <= PATIENCE:
        terms = _problem(rng, *sizes)
        text = _text(terms) + "="
        idle = idle + 1 if text in exclude else 0
        if not idle:
            yield text, _completion(rng, terms, *odds)
    raise ConfigError(f"demonstrations: {PATIENCE} problems of {sizes[0]} to {sizes[1]} terms in a row were excluded")


def _check_terms(kmin: int, kmax: int) -> None:
    if not 2 <= kmin <= kmax:
        raise ConfigError(f"task 'reduce' needs 2 <= kmin <= kmax terms, got kmin={kmin}, kmax={kmax}")


def _below(rng: Random, n: int) -> int:
    """A number in 0..n-1 from `random()`, the one method whose stream every Python version keeps."""
    return int(rng.random() * n)


def _problem(rng: Random, kmin: int, kmax: int) -> list[int]:
    """Signed terms; a sign is turned round where the partial sum would leave 0..HIGHEST."""
    terms = [1 + _below(rng, 9)]
    for _ in range(kmin + _below(rng, kmax - kmin + 1) - 1):
        digit, total, minus = 1 + _below(rng, 9), sum(terms), rng.random() < 0.5
        if minus and total < digit:
            minus = False
        elif not minus and total + digit > HIGHEST:
            minus = True
        terms.append(-digit if minus else digit)
    return terms


def _text(terms: list[int]) -> str:
    return str(terms[0]) + "".join(f"{term:+d}" for term in terms[1:])


def _completion(rng: Random, terms: list[int], direct: float, slips: float) -> str:
    at_once = rng.random() < direct
    rewrites = []
    while len(terms) > 1:
        draw = rng.random()
        fold_up = len(terms) if at_once else min(len(terms), 2 if draw < 0.7 else 3 if draw < 0.9 else 4)
        head = sum(terms[:fold_up])
        if not at_once and rng.random() < slips:
            head += _SLIPS[_below(rng, len(_SLIPS))]
        terms = [max(0, head), *terms[fold_up:]]
        rewrites.append(_text(terms))
    return "=".join(rewrites)
