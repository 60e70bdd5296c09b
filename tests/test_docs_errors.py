"""docs/errors.md: every case is brought about, and what it says and keeps is what the page has."""

import pytest
from errors_page import COLUMNS, HEAD, PAGE, SECTIONS, line
from errors_support import run

AGAIN = "run `python tests/errors_page.py`"
LONG = ("Rewards, while it trains", "The disk", "Stopping")
"""Sections whose cases train for seconds: all but the first of each are slow."""
CASES = [pytest.param(title, case, id=f"{title}: {case.what}", marks=[pytest.mark.slow] * (title in LONG and i > 0))
         for title, cases in SECTIONS.items() for i, case in enumerate(cases)]


@pytest.mark.parametrize(("title", "case"), CASES)
def test_a_case(title, case):
    row = run(case)
    assert row.wrong == ""
    assert row.said
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    assert line(row) in section.splitlines(), AGAIN


def test_the_page_has_these_cases_and_no_others():
    text = PAGE.read_text(encoding="utf-8")
    assert text.startswith(HEAD), AGAIN
    shown = {part.split("\n")[0]: [row.split(" | ")[0].removeprefix("| ") for row in part.split(f"{COLUMNS}\n")[1].splitlines()]
             for part in text.removeprefix(HEAD).split("\n## ")[1:]}
    assert {title: [case.what for case in cases] for title, cases in SECTIONS.items()} == shown, AGAIN
