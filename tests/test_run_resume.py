import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import chaos
import pytest
from run_methods import Remembering
from run_support import tiny_folder, tiny_run

from groupwise.errors import CheckpointError
from groupwise.run import loop
from groupwise.run.checkpoint import Checkpoints
from groupwise.run.loop import resume, train
from groupwise.run.stop import SIGNALS, Stop, Stopped

HERE = Path(__file__).parent
STEPS = chaos.STEPS
LAST = chaos.LAST


def driver(tmp_path, *words):
    done = subprocess.run([sys.executable, str(HERE / "chaos.py"), "--json", str(tmp_path / "found.json"), *words],
                          capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((tmp_path / "found.json").read_text())


def test_killed_runs_end_like_undisturbed_ones(tmp_path):
    found = driver(tmp_path, "--kills", "4", "--commands", "0", "--per-run", "3", "--seed", "5", "--scenarios", "dapo")
    assert found["equal"] == len(found["kills"]) == 4
    assert sum(kill["how"] == "call" for kill in found["kills"]) >= 2


@pytest.mark.slow
def test_chaos_of_a_hundred_kills(tmp_path):
    found = driver(tmp_path, "--kills", "100", "--commands", "4", "--seed", "0")
    assert found["equal"] == len(found["kills"]) == 100


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run that nobody disturbed; tests work on copies."""
    place = tmp_path_factory.mktemp("whole")
    run = tiny_run(tiny_folder(place / "model"), steps=STEPS, eval_every=3, checkpoint_every=2)
    return train(run, place / "runs")


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / whole.name))


def spoil(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_run_without_any_checkpoint_starts_anew(whole, copy):
    shutil.rmtree(copy / "checkpoints")
    (copy / "summary.json").unlink()
    resume(copy)
    assert chaos.differences(copy, whole) == []


def test_resuming_a_finished_run_changes_nothing(whole, copy):
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file() and p.suffix != ".json"}
    resume(copy)
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file() and p.suffix != ".json"} == before
    assert chaos.differences(copy, whole) == []


def test_what_an_interrupted_run_left_behind_is_swept_up(whole, copy):
    litter = [copy / ".summary.json.1.tmp", copy / "checkpoints/.building-step-000008/state.json", copy / ".building-model/x"]
    for path in litter:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    shutil.copytree(copy / LAST, copy / "checkpoints/step-000002")  # superseded, and not removed in time
    shutil.rmtree(copy / "model")
    resume(copy)
    assert chaos.differences(copy, whole) == []


def test_a_model_of_a_later_step_does_not_outlive_a_step_back(whole, copy):
    spoil(copy / LAST / "optimizer.safetensors")
    spoil(copy / "model/model.safetensors")  # stands for the weights of another machine
    resume(copy)
    assert chaos.differences(copy, whole) == []


def test_a_folder_without_settings_is_no_run(tmp_path):
    with pytest.raises(CheckpointError, match="cut off before it began"):
        resume(tmp_path)


def test_a_change_of_versions_is_said(copy, capsys, monkeypatch):
    real = loop.meta
    monkeypatch.setattr(loop, "meta", lambda job: {**real(job), "torch": "99"})
    resume(copy)
    said = capsys.readouterr().out
    assert "and is 99 now: the run goes on, but no longer bit for bit" in said
    assert "objective was" not in said


HOLDER = """
import sys
from pathlib import Path
from groupwise.run.lock import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_never_work_on_one_run(whole, copy):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(copy)], cwd=HERE.parent, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        before = {p: p.stat().st_mtime_ns for p in copy.rglob("*") if p.is_file()}
        with pytest.raises(CheckpointError, match=f"in use by process {holder.pid}"):
            resume(copy)
        assert {p: p.stat().st_mtime_ns for p in copy.rglob("*") if p.is_file()} == before
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    resume(copy)
    assert chaos.differences(copy, whole) == []


def test_a_second_signal_ends_it_at_once():
    said, before = [], [signal.getsignal(number) for number in SIGNALS]
    with Stop(said.append) as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt) as caught:
            signal.raise_signal(signal.SIGINT)
    assert said == ["SIGTERM: the step is finished and saved first; once more ends the run at once"]
    assert not isinstance(caught.value, Stopped)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_what_a_method_remembers_comes_back(tmp_path, monkeypatch):
    model = tiny_folder(tmp_path / "model")
    run = tiny_run(model, method="run_methods:remembering", steps=5, checkpoint_every=2)
    plain = train(run, tmp_path / "plain")
    monkeypatch.setattr(Remembering, "fail_at", 4)
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "broken")
    folder = resume(tmp_path / "broken" / run.name)
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (folder / name).read_bytes() == (plain / name).read_bytes()
    _, state, _ = Checkpoints(folder, run.keep).latest()
    assert state["method"]["steps"] == state["sampler"]["stores"]["notes"]["steps"] == 5
