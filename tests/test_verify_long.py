"""The verifier math on long solutions that people wrote: it reads their answer, and nothing else of them.

tests/data/math_solutions.jsonl: 34 long reference solutions of MATH (Hendrycks et al. 2021, https://github.com/hendrycks/math,
MIT licence), up to five of each subject, from the 500 test problems of PRM800K (MIT licence).
"""

import json
import random
import re
from pathlib import Path

import pytest

from groupwise.verify.mathematics import math
from groupwise.verify.text import balanced

LINES = (Path(__file__).parent / "data" / "math_solutions.jsonl").read_text(encoding="utf-8").splitlines()
ROWS = [json.loads(line) for line in LINES]
EXAMPLE = "\nPut your final answer in a box, for example \\boxed{1234567}. Answer: 1234567 would do as well."
each = pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])


@each
def test_the_answer_of_a_long_solution_is_read(row):
    for text in (row["solution"], row["problem"] + EXAMPLE + "\n\n" + row["solution"],
                 f"<think>\n{ROWS[0]['solution']}\nThe answer is \\boxed{{1234567}}.\n</think>\n{row['solution']}"):
        verdict = math(text, row["answer"], {"prompt": row["problem"] + EXAMPLE})
        assert (verdict.correct, verdict.mark) == (True, "boxed")
        assert verdict.extracted == balanced(row["solution"])[-1][2]


@each
def test_what_comes_behind_the_answer_is_not_read(row):
    other = next(one for one in ROWS if one["answer"] != row["answer"])
    for stop in ("\n\nQuestion: ", "<|im_end|>\n", "\n\nHuman: "):
        text = row["solution"] + stop + other["problem"] + "\n" + other["solution"]
        assert math(text, row["answer"], {}).correct
        assert not math(text, other["answer"], {}).correct


@each
def test_a_solution_cut_anywhere_is_truncated_unless_its_box_is_closed(row):
    rng = random.Random(row["id"])
    for cut in rng.sample(range(1, len(row["solution"])), 30):
        text = row["solution"][:cut]
        for begin in ("", row["problem"] + "\n\n"):
            verdict = math(begin + text, row["answer"], {"finish": "length", "prompt": row["problem"]})
            closed = [inside for _, _, inside in balanced(text)]
            assert verdict.correct is False or closed, text
            assert verdict.kind == "truncated" or (closed and verdict.mark == "boxed")
        thinking = math("<think>\n" + text, row["answer"], {"finish": "length", "prompt": row["problem"]})
        assert (thinking.correct, thinking.kind) == (False, "truncated")


@each
def test_an_answer_that_was_never_given_is_not_found(row):
    """The example of the prompt, the problem's own numbers and expressions, and what stands in closed thinking."""
    assert not math(row["problem"], row["answer"], {}).correct  # repeated, and nobody said what the prompt was
    prompt = row["problem"] + EXAMPLE
    for text in (prompt, prompt + "\n\n", f"Let me read the problem again.\n{prompt}"):
        assert not math(text, "1234567", {"prompt": prompt}).correct
        for number in re.findall(r"\d+", row["problem"])[-3:]:
            assert not math(text, number, {"prompt": prompt}).correct
    assert not math(f"<think>{row['solution']}</think>\n", row["answer"], {"prompt": prompt}).correct


@each
def test_without_its_last_step_a_long_solution_has_no_marked_answer(row):
    start = balanced(row["solution"])[0][0]
    before = row["solution"][:start].rpartition("\n")[0] or row["solution"][:start].rpartition(". ")[0] + "."
    verdict = math(before, "1234567", {"prompt": row["problem"] + EXAMPLE})
    assert verdict.correct is False
    assert verdict.mark in ("", "math", "last", "line")
