import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_support import tiny_folder, tiny_run

from groupwise import cli
from groupwise.errors import ConfigError, TrainingError
from groupwise.lab import comparison, comparison_page, ladder, side_by_side
from groupwise.lab.arm_run import Wanted, trained, work
from groupwise.lab.arms import arms
from groupwise.lab.side_by_side import Outcome
from groupwise.run.config import to_toml
from groupwise.run.disk import read_json, read_lines
from groupwise.run.look import generated, look
from groupwise.run.loop import resume, train

PLAN = comparison.Plan(seeds=2, samples=2, problems=8, repeats=0)  # repeats: test_lab_repeats


def inside(wanted, jobs, say):
    """Runs in this process, which saves starting others; those that are whole are not made again."""
    out = []
    for name, one in wanted:
        if whole := one.whole:
            say(f"{name} has been made before")
        else:
            work(one)
        out.append(Outcome(whole, 0.0))
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two arms, two seeds, run once and then again."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("compare")
        patch.chdir(place)
        patch.setattr(comparison, "side_by_side", inside)
        run = tiny_run(tiny_folder(place / "base"), name="", eval_every=1)
        found = arms(["dr_grpo", "dr_grpo:lr=1e-3"], [], run)
        said = []
        first = comparison.compare(found, PLAN, said.append)
        again = comparison.compare(found, PLAN, said.append)
        yield place, first, again, said


def test_what_was_run_is_not_run_again(made):
    _, first, again, said = made
    assert sum("has been made before" in line for line in said) == 4
    assert [one["runs"] for one in again["arms"]] == [
        [run | {"made_now_seconds": 0.0} for run in one["runs"]] for one in first["arms"]]


def test_unmatched_arms_are_named(made):
    _, first, _, _ = made
    assert not first["matched"]
    assert first["unmatched"][0] == "learner.lr: 0.003, 0.001"
    assert comparison_page.verdict(first)[0].startswith("NOT MATCHED")


def test_the_numbers_are_those_of_the_runs(made):
    place, first, _, _ = made
    for one in first["arms"]:
        for run in one["runs"]:
            seen = look(place / run["folder"])
            assert run["accuracy"] == seen.evaluations[-1]["value"]
            assert run["tokens"] == sum(map(generated, seen.metrics))
            assert run["grad_norm"] == pytest.approx(np.mean([row["grad_norm"] for row in seen.metrics]))
            answers = read_lines(next((place / run["folder"]).glob("answers-2x8")) / "verdicts.jsonl")
            assert run["avg"] == pytest.approx(np.mean([a["correct"] for a in answers if a["mode"] == "sampled"]))
    pair = first["pairs"][0]["by_seed"]["avg"]
    a, b = ([run["avg"] for run in first["arms"][i]["runs"]] for i in (1, 0))
    assert pair["value"] == pytest.approx(np.mean(a) - np.mean(b))
    assert sum(sum(side.values()) for side in first["arms"][0]["lengths"].values()) == 2 * 8 * 2


def test_curves_lie_between_the_seeds(made):
    place, first, _, _ = made
    rows = first["curves"]["steps"][0]["value"]
    runs = [look(place / run["folder"]).evaluations for run in first["arms"][0]["runs"]]
    assert [row["step"] for row in rows] == [0.0, 1.0, 2.0]
    assert [row["value"] for row in rows] == pytest.approx([np.mean([r[i]["value"] for r in runs]) for i in range(3)], abs=1e-5)


def test_the_ladder_goes_row_by_row(made):
    _, first, _, _ = made
    rows = ladder.table(first, ["rate"]).rows
    assert [row[1] for row in rows] == ["", "rate"]
    assert rows[0][3:7] == ("-", "-", "-", "-")
    assert rows[1][3] == rows[1][5] != "-"  # the row before is the first
    assert ladder.pairs(3) == [(1, 0), (2, 1), (2, 0)]


def test_the_page_is_whole_and_needs_no_network(made):
    _, first, again, _ = made
    page = comparison_page.html(again)
    assert page.index("What differs") < page.index("Curves")
    assert page.count("<figure") >= 3 * 6 + 3
    assert not re.search(r"(src|href)=.?http|<script", page)
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    assert "no sign-flip test of them can give p below 0.5" in comparison_page.console(first)
    assert "held-out accuracy" in comparison_page.console(again)
    json.dumps(again)


@pytest.mark.slow
def test_a_run_whose_comparison_was_killed_goes_on(tmp_path):
    run = tiny_run(tiny_folder(tmp_path / "base"), "killed", steps=40, checkpoint_every=40)
    wanted = Wanted(to_toml(run), 0, 0, 0, False, str(tmp_path / "runs"))
    process = side_by_side._Process("killed", wanted)
    until = time.monotonic() + 300
    while len(read_lines(wanted.folder / "metrics.jsonl")) < 3 and time.monotonic() < until:
        assert process.outcome() is None, process.log.read_text()
        time.sleep(0.02)
    process.stop()  # what the process sees of a comparison that was killed: its input is closed
    assert not wanted.whole
    done = int(look(wanted.folder).metrics[-1]["step"])
    assert 3 <= done < 40
    resume(wanted.folder)
    straight = train(replace(run, name="straight"), tmp_path / "runs")
    assert trained(wanted.folder)
    assert read_lines(wanted.folder / "metrics.jsonl") == read_lines(straight / "metrics.jsonl")


def test_a_budget_of_tokens_ends_a_run(tmp_path):
    run = tiny_run(tiny_folder(tmp_path / "base"), "budget", steps=50, token_budget=300)
    folder = train(run, tmp_path)
    tokens = np.cumsum([generated(row) for row in read_lines(folder / "metrics.jsonl")])
    assert tokens[-2] < 300 <= tokens[-1] == read_json(folder / "summary.json")["tokens"]
    assert look(folder).status == f"finished, {len(tokens)} steps"
    resume(folder)
    assert len(read_lines(folder / "metrics.jsonl")) == len(tokens)
    with pytest.raises(ConfigError, match="take schedule=constant"):
        tiny_run(tmp_path / "base", token_budget=300, schedule="cosine")


def test_a_comparison_in_which_nothing_ends_well_says_why(tmp_path, monkeypatch):
    wanted = Wanted(to_toml(tiny_run(tmp_path / "nowhere", "lost")), 0, 0, 0, False, str(tmp_path))

    class Failed:
        def __init__(self, name, wanted):
            self.log = Path("x.log")

        def outcome(self):
            return Outcome(False, 1.0, "failed with exit code 2: no such model")

        def stop(self):
            pass

    monkeypatch.setattr(side_by_side, "_Process", Failed)
    said = []
    with pytest.raises(TrainingError, match="no such model"):
        side_by_side.side_by_side([("a seed 0", wanted)], 1, said.append)
    assert said == ["1 of 1: a seed 0, failed with exit code 2: no such model"]


@pytest.mark.parametrize(("words", "said"), [
    (["compare", "grpo"], "give two arms or more"), (["compare", "grpo", "dr_grpo", "--seeds", "0"], "seeds must be at least 1"),
    (["compare", "grpo", "dr_grpo", "--steeps", "3"], "did you mean '--steps'"),
    (["ablate", "recipe:nope"], "there is no ladder"),
    (["compare", "grpo", "dr_grpo", "--budget", "9", "--schedule", "cosine"], "token_budget=9"), (["replay"], "give a run")])
def test_commands_that_cannot_be(words, said, capsys):
    assert cli.main(words) == 2
    assert said in capsys.readouterr().err
