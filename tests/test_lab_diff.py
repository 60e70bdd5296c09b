"""What `groupwise diff` says of two methods."""

import json

import numpy as np
import pytest
from rich.console import Console

from groupwise import cli
from groupwise.lab import page, screen
from groupwise.lab.boxes import columns
from groupwise.lab.diff import as_json, diff, equations_side_by_side
from groupwise.lab.explain import explain
from groupwise.methods import METHODS


def compared(a, b, args_a=(), args_b=()):
    return diff(explain(a, args_a), explain(b, args_b))


def shown(one, width=120):
    to = Console(width=width, record=True, file=open("/dev/null", "w"), highlight=False)  # noqa: SIM115
    screen.show_difference(one, to)
    return to.export_text()


def test_a_method_does_not_differ_from_itself():
    one = compared("grpo", "grpo")
    assert one.same
    assert one.cosine == pytest.approx(1.0)
    assert one.ratio == pytest.approx(1.0)
    assert one.stopped_by == {"a": (), "b": ()}
    assert "same objective" in shown(one)
    assert "same objective" in page.difference(one)


def test_one_number_that_differs():
    one = compared("grpo", "grpo", ["kl=0"], ["kl=0", "clip_high=0.28"])
    assert [(c.role, c.a, c.fields) for c in one.changes] == [("term policy, trust", "Clip", (("high", "0.2", "0.28"),))]
    assert one.around == ()
    # 1.25 lies between the two bands, with a positive advantage, in two completions
    assert one.stopped_by == {"a": ((1, 1, 2), (1, 3, 2)), "b": ()}
    assert [name for name, _, _ in equations_side_by_side(one)] == ["loss", "slope"]
    changed = [(r.group, r.completion, r.token) for r in one.rows if r.a != r.b]
    assert changed == list(one.stopped_by["a"])


def test_cosine_and_norms_are_those_of_the_rows():
    one = compared("grpo", "gspo")
    a, b = np.array([r.a for r in one.rows]), np.array([r.b for r in one.rows])
    assert one.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert one.norms == pytest.approx((np.linalg.norm(a), np.linalg.norm(b)))
    assert one.ratio == pytest.approx(np.linalg.norm(b) / np.linalg.norm(a))


def test_gspo_and_its_token_form_have_the_same_gradient():
    one = compared("gspo", "gspo_token")
    assert not one.same
    assert one.cosine == pytest.approx(1.0, abs=1e-12)
    assert one.ratio == pytest.approx(1.0, abs=1e-12)


def test_dr_grpo_is_rloo_s_direction_without_the_length():
    one = compared("dr_grpo", "dr_grpo", ["max_tokens=64"], ["max_tokens=128"])
    assert one.ratio == pytest.approx(0.5)
    assert one.cosine == pytest.approx(1.0)


def test_a_part_that_only_one_has_and_what_is_around():
    one = compared("grpo", "dapo")
    roles = {c.role: c for c in one.changes}
    assert roles["term kl"].b == ""
    assert roles["term kl"].a.startswith("Kl(coef=0.04")
    assert roles["term policy, aggregate"].a.startswith("SequenceMean")
    around = {c.role: (c.a, c.b) for c in one.around}
    assert around["admit"] == ("", "mixed")
    assert around["refill"][1].startswith("Refill(rounds=10")


@pytest.mark.parametrize("b", [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in ("grpo", "dr_grpo", "dapo", "gspo", "ppo", "vespo")))
    for name in METHODS])
def test_every_pair_with_grpo_can_be_shown(b):
    one = compared("grpo", b)
    text, html = shown(one), page.difference(one)
    assert max(map(columns, text.splitlines())) <= 120
    for change in one.changes:
        assert change.role in text
        assert change.role in html
    assert one.same == (b == "grpo")
    assert json.loads(json.dumps(as_json(one)))["same"] == one.same


def test_a_side_without_a_table():
    a = explain("grpo")
    one = diff(a, explain("gspo").__class__(**{**vars(explain("gspo")), "worked": None, "trouble": "no critic here"}))
    assert one.rows == ()
    assert one.cosine is None
    assert "gspo: no table: no critic here" in shown(one)
    assert "no critic here" in page.difference(one)


def test_the_command(tmp_path, capsys):
    assert cli.main(["diff", "grpo", "dapo"]) == 0
    text = capsys.readouterr().out
    assert "Parts that differ" in text
    assert "stopped by grpo alone" in text
    html, data = tmp_path / "d.html", tmp_path / "d.json"
    assert cli.main(["diff", "grpo", "grpo", "--args-b", "clip_high=0.28", "--html", str(html), "--json", str(data)]) == 0
    assert capsys.readouterr().out == ""
    assert "1.28" in html.read_text()
    assert json.loads(data.read_text())["stopped_only_by"] == {"a": [[1, 1, 2], [1, 3, 2]], "b": []}
    assert cli.main(["diff", "grpo", "dr_gppo"]) == 2
    assert "did you mean 'dr_grpo'" in capsys.readouterr().err
