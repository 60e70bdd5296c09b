"""One step of integer arithmetic: "47+5=" is answered "52"."""

from random import Random

from groupwise.core.keyed import fold
from groupwise.core.rollout import Prompt
from groupwise.errors import ConfigError
from groupwise.tasks.task import Task, check, distinct, prompt

ALPHABET = "0123456789+-*="
"""The characters of prompts and answers."""


def arithmetic(digits: int = 2, operations: str = "+-*", train: int = 4096, heldout: int = 500, seed: int = 1) -> Task:
    """Distinct problems a+b=, a-b=, a*b= with operands of up to `digits` digits; answers are ints, maybe negative."""
    wrong = sorted(set(operations) - set("+-*"))
    if not 1 <= digits <= 9 or not operations or wrong:
        raise ConfigError(f"task 'arithmetic' needs digits in 1..9 and operations out of '+-*', got {digits} and {operations!r}")
    rng = Random(fold(seed, "arithmetic"))

    def draw() -> tuple[str, Prompt]:
        a, b = (int(rng.random() * 10**digits) for _ in range(2))
        operation = operations[int(rng.random() * len(operations))]
        text = f"{a}{operation}{b}="
        return text, prompt("arithmetic", text, {"+": a + b, "-": a - b, "*": a * b}[operation])

    prompts = distinct("arithmetic", draw, train + heldout)
    return check(Task(name="arithmetic", train=prompts[heldout:], heldout=prompts[:heldout], verifier="last_integer",
                      max_tokens=8 * digits + 8))
