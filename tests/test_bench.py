import importlib.util
import json
import math
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "bench"))

from versus import environment, figures, report, setting, sides, watch  # noqa: E402
from versus.methods import whole  # noqa: E402


@pytest.fixture(scope="module")
def gate():
    spec = importlib.util.spec_from_file_location("bench_gate", ROOT / "bench" / "gate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trl_rule():
    """The rule of TRL's side, out of a file that only an environment with TRL can import."""
    source = (ROOT / "bench" / "trl_side.py").read_text()
    names: dict = {}
    exec("import re\n" + source[source.index("INTEGER ="):source.index("EVAL_BATCH")]
         + source[source.index("def correct"):source.index("class Policy")], names)
    return names["correct"]


def steps(n, step=2.0, generation=0.5, train=1.0, tokens=100.0):
    return [{"step": step, "generation": generation, "train": train, "tokens": tokens} for _ in range(n)]


def curve(*values, seconds=10.0, n=500):
    return [{"step": 10 * i, "seconds": seconds * i, "value": value, "n": n} for i, value in enumerate(values)]


def test_ratios_are_trl_over_ours_and_generation_is_per_token():
    trl, ours = figures.phases([steps(4)]), figures.phases([steps(4, step=0.5, generation=0.05, train=0.25, tokens=50.0)])
    assert figures.ratios(trl, ours) == pytest.approx({"step": 4.0, "generation": 5.0, "train": 4.0})
    assert figures.per_token(trl, ours) == pytest.approx({"step": 2.0, "generation": 5.0, "train": 2.0})
    assert ours["tokens_per_second"] == pytest.approx(1000.0)


def test_the_first_step_of_a_run_is_left_out_and_later_ones_than_the_other_side_made():
    run = [*steps(1, step=99.0), *steps(3, step=1.0), *steps(5, step=50.0)]
    assert figures.phases([run, run], 4)["step"] == 1.0
    assert figures.phases([run, run], 4)["counted"] == 6
    assert figures.phases([steps(1)]) == {}
    assert figures.ratios({}, figures.phases([run])) == {}


def test_a_crossing_lies_on_the_line_between_evaluations():
    assert figures.crossing(curve(0.5, 0.6, 0.8), 0.7) == pytest.approx(15.0)
    assert figures.crossing(curve(0.5, 0.6, 0.8), 0.8) == pytest.approx(20.0)
    assert figures.crossing(curve(0.5, 0.6), 0.7) is None
    assert figures.crossing(curve(0.5, 0.6), 0.4) is None, "a curve that starts above was never measured getting there"


def test_the_race_goes_to_the_highest_accuracy_that_all_curves_reach():
    trl, fast, slow = curve(0.49, 0.6, 0.72, 0.93), curve(0.49, 0.66, 0.86, seconds=1.0), curve(0.49, 0.66, 0.86, seconds=3.0)
    found = figures.race(trl, [fast, fast, slow])
    assert found["accuracy"] == 0.85
    assert found["our_seconds"] == pytest.approx(1.95)
    assert found["ratio"] == pytest.approx(found["trl_seconds"] / 1.95)
    assert figures.race(trl, [curve(0.49, 0.495)]) == {}


def test_accuracies_are_compared_at_shared_steps():
    rows = figures.same(curve(0.5, 0.6, 0.7), curve(0.5, 0.6))
    assert [row["step"] for row in rows] == [10]
    assert rows[0]["p"] == 1.0
    assert rows[0]["trl"]["low"] < 0.6 < rows[0]["trl"]["high"]
    assert figures.p_value({"value": 1.0, "n": 9}, {"value": 1.0, "n": 9}) == 1.0
    assert figures.p_value({"value": 0.5, "n": 500}, {"value": 0.7, "n": 500}) < 1e-9


def test_parity_pools_the_prompts_of_all_seeds():
    seeds = [figures.same(curve(0.5, 0.6, 0.7), curve(0.5, 0.64, 0.7)), figures.same(curve(0.5, 0.6), curve(0.5, 0.58))]
    (row,) = figures.parity(seeds)
    assert (row["step"], row["seeds"], row["trl"]["n"]) == (10, 2, 1000)
    assert row["ours"]["value"] == pytest.approx(0.61)
    assert row["differences"] == pytest.approx([0.04, -0.02])
    assert figures.parity([]) == []


def test_a_report_is_short_and_names_no_folder_of_the_machine():
    given = {"a": {"steps": steps(2)}, "command": ["/usr/x/python", "-m", "y"], "gone": math.nan, "none": [None, 1]}
    text = report.document(given, {"/usr/x/python": "python"})
    found = json.loads(text)
    assert found["a"]["steps"] == {"step": [2, 2], "generation": [0.5, 0.5], "train": [1, 1], "tokens": [100, 100]}
    assert found["command"] == ["python", "-m", "y"]
    assert found["gone"] is None
    assert '"step": [2.0, 2.0]' in text


def run_folder(folder):
    folder.mkdir()
    timing = [{"step": i, "seconds": i, "generate": 0.1, "train": 0.2, "verify": 0.01, "evaluate": 7.0} for i in (1, 2, 3)]
    metrics = [{"step": i, "tokens/policy/generate": 10.0, "tokens/teacher/generate": 1.0, "tokens/policy/score": 5.0,
                "idle_share": 0.25} for i in (1, 2, 3)]
    rows = [{"step": i, "value": 0.5, "n": 4, "length": 2.0, "low": 0.1} for i in (0, 2)]
    for name, lines in (("timing", timing), ("metrics", metrics), ("evaluations", rows)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "run.toml").write_text('steps = 3\n[meta]\ncompute = "modules"\n')
    return folder


def test_a_run_folder_is_read_with_a_clock_that_stands_still_in_evaluations(tmp_path):
    found = sides.read_run(run_folder(tmp_path / "run"))
    assert [one["step"] for one in found["steps"]] == [1, 2, 3]
    assert found["steps"][0]["tokens"] == 11.0
    assert [(one["step"], one["seconds"]) for one in found["curve"]] == [(0, 0.0), (2, 3.0)]
    assert (found["compute"], found["idle"]) == ("modules", [0.25] * 3)


@pytest.mark.parametrize("text", ["7+5=12", "12-3", "(4)-3", "=-3", "no number", "", "007", "-0", "3=", "x-3", "12−3", "+4"])
@pytest.mark.parametrize("answer", [12, 3, -3, 7, 0, 4])
@pytest.mark.parametrize("ended", [True, False])
def test_the_reward_of_both_sides_is_one_rule(trl_rule, text, answer, ended):
    ours = setting.last_integer(text, answer, {"finish": "stop" if ended else "length"}).correct
    assert trl_rule(text, answer, ended) == ours


def test_both_sides_get_the_prompts_in_the_order_of_the_run():
    words = ["--max-tokens", "8", "--prompts-per-step", "3", "--task-args", "train=6", "heldout=4", "--seed", "5"]
    found = setting.setting(words, 3)
    assert len(found.train) == 9
    visited = [json.dumps(row) for row in found.train]
    assert len(set(visited[:6])) == 6, "an epoch visits every prompt once"
    assert len(found.heldout) == 4
    assert found.job(steps=3)["max_tokens"] == 8


@pytest.mark.parametrize("words", ["--method grpo", "--schedule linear", "--temperature 0.5", "--task arithmetic"])
def test_a_setting_that_the_other_side_cannot_have_is_refused(words):
    with pytest.raises(ValueError, match="the comparison is made"):
        setting.setting(["--max-tokens", "8", *words.split()], 1)


def test_nothing_vanishes_in_the_whole_method_and_its_equation_is_the_same():
    terms = whole(max_tokens=64).objective.terms
    assert not any(term.vanishes for term in terms)


def test_a_failed_process_shows_what_it_printed(tmp_path):
    command = [sys.executable, "-c", "import sys; print('the reason'); sys.exit(3)"]
    with (watch.Watched(command, log=tmp_path / "log", deadline=60, cwd=tmp_path, env=watch.environment()) as run,
          pytest.raises(watch.FailedError, match=r"code 3(.|\n)*the reason")):
        run.wait()


def test_a_process_that_hangs_is_ended_with_its_children(tmp_path):
    script = ("import subprocess, sys, time\n"
              "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\nprint(child.pid, flush=True)\n"
              "time.sleep(60)")
    with (watch.Watched([sys.executable, "-c", script], log=tmp_path / "log", deadline=1.0, cwd=tmp_path,
                        env=watch.environment()) as run,
          pytest.raises(watch.FailedError, match="was not done after 1 s")):
        run.wait()
    if watch.LISTED:
        child, patience = Path("/proc", (tmp_path / "log").read_text().split()[0], "stat"), time.monotonic() + 20
        while child.exists() and child.read_text().split()[2] != "Z":
            assert time.monotonic() < patience, "the child was left running"
            time.sleep(0.01)
        assert run.peak["tree"] > run.peak["main"] > 1


def test_threads_set_in_the_shell_do_not_reach_the_sides(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert "OMP_NUM_THREADS" not in watch.environment()
    assert watch.environment(OMP_NUM_THREADS="1")["OMP_NUM_THREADS"] == "1"


def test_every_requirement_of_trl_is_pinned():
    wanted = environment.pins()
    assert wanted["trl"].startswith("1.16.")
    assert wanted["torch"] == "2.13.0"
    assert all(wanted.values())


def test_the_gate_tells_a_fall_from_noise_and_from_what_it_does_not_know(gate):
    rows = gate.rows_of({"plain / kernels": {"step": 8.0, "train": 7.0, "memory": 3.0}},
                        {"plain / kernels": {"step": 10.0, "train": 10.0}})
    assert [row.holds for row in rows] == [True, False, True]
    assert gate.table(rows).count("fell") == 1
    assert "plain / kernels: memory" in gate.table(rows)


def test_the_gate_keeps_the_better_of_two_measurements(gate):
    assert gate.best({"a": {"step": 1.0, "train": 3.0}}, {"a": {"step": 2.0}}) == {"a": {"step": 2.0, "train": 3.0}}
