"""Runs whose engine is another process: over the stand-in, from settings to the record; and runs on other machines."""

import contextlib
import os
import shutil
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from run_support import tiny_folder, tiny_policy, tiny_run
from vllm_support import CONTEXTS, Faults, Stub, Thread, requests, scorer

from groupwise.cli import main
from groupwise.core.services import Sampling
from groupwise.engines.native import Native
from groupwise.engines.vllm import listen, process
from groupwise.engines.vllm.client import VLLM, Opening
from groupwise.engines.vllm.server import Server
from groupwise.engines.vllm.settings import EngineSettings
from groupwise.errors import ConfigError, EngineError
from groupwise.run import serving
from groupwise.run.assemble import assemble
from groupwise.run.config import from_toml, from_words, to_toml
from groupwise.run.disk import read_lines
from groupwise.run.loop import resume, train
from groupwise.run.settings import Run

TOKEN = "0123456789abcdef"


@pytest.fixture
def faults(monkeypatch):
    """Engines that are asked for are stand-ins, with these faults."""
    found = Faults()
    monkeypatch.setattr(serving.process, "python_of", lambda own: "python")
    monkeypatch.setattr(serving, "start_of", lambda run, python: lambda: Thread(found, 5.0))
    return found


def record(folder):
    return (folder / "metrics.jsonl").read_bytes(), (folder / "model" / "model.safetensors").read_bytes()


def test_a_run_samples_elsewhere_and_says_how_the_weights_got_there(tmp_path, faults):
    run, threads = tiny_run(tiny_folder(tmp_path / "base"), engine="vllm", eval_every=1, eval_prompts=4), threading.active_count()
    folder = train(run, tmp_path)
    assert threading.active_count() <= threads + 1  # torch's own may be new
    rows, clocks = read_lines(folder / "metrics.jsonl"), read_lines(folder / "timing.jsonl")
    assert (faults.starts, faults.loads) == (1, 2)
    assert all(row["mismatch_max"] < 1e-4 and row["rollouts"] == 16 for row in rows)
    assert all(row["mismatch_sequence"] >= row["mismatch_sequence_rate"] and "mismatch_to/16" in row for row in rows)
    assert all(row["sync"] > 0 and row["prove"] > 0 and row["engine_restarts"] == 0 for row in clocks)
    assert all(row["sync_gap_mean"] <= row["sync_gap_max"] < 1e-5 for row in clocks)
    assert 'engine = "vllm"' in (folder / "run.toml").read_text()


def test_an_engine_that_dies_leaves_no_trace_in_the_record(tmp_path, faults):
    run = tiny_run(tiny_folder(tmp_path / "base"), "calm", engine="vllm", checkpoint_every=1)
    calm = train(run, tmp_path)
    whole = record(calm)
    faults.steps, faults.dies = 0, {20, 47, 75}
    killed = train(replace(run, name="killed"), tmp_path)
    assert record(killed) == whole
    assert read_lines(killed / "timing.jsonl")[-1]["engine_restarts"] == 3
    shutil.rmtree(calm / "checkpoints" / "step-000002")
    shutil.rmtree(calm / "model")
    assert record(resume(calm)) == whole  # from the checkpoint before, with a new engine


def test_it_samples_ahead_of_the_learner(tmp_path, faults):
    run = tiny_run(tiny_folder(tmp_path / "base"), "calm", engine="vllm", max_staleness=1, steps=3)
    calm = train(run, tmp_path)
    assert [row["stale"] for row in read_lines(calm / "metrics.jsonl")] == [0.0, 1.0, 1.0]
    faults.steps, faults.dies = 0, {20, 47}
    assert record(train(replace(run, name="killed"), tmp_path)) == record(calm)


def test_adapters_are_merged_for_the_engine(tmp_path, faults):
    pytest.importorskip("peft")
    run = tiny_run(tiny_folder(tmp_path / "base"), engine="vllm", lora_rank=4, steps=1)
    folder = train(run, tmp_path)
    (row,) = read_lines(folder / "timing.jsonl")
    assert row["sync_gap_mean"] < 1e-5
    assert faults.loads == 1


def test_looking_at_a_run_starts_no_engine(tmp_path, faults):
    job = assemble(tiny_run(tiny_folder(tmp_path / "base"), engine="vllm"), tmp_path)
    assert type(job.engine) is Native
    assert faults.starts == 0


@pytest.mark.parametrize("compute", ["modules", "auto"])
def test_the_learner_is_asked_at_the_temperature_of_the_proof(tmp_path, compute):
    run = tiny_run(tiny_folder(tmp_path / "base"), compute=compute, dtype="float32")
    job = assemble(replace(run, sampling=replace(run.sampling, temperature=0.6)), tmp_path)
    texts = [((5, 6, 7), (8, 9)), ((4,), (5, 6, 7)), ((5, 6, 7), (4,))]
    for temperature in (0.6, 1.0):
        ours, theirs = serving.score_of(job.learner)(texts, temperature), scorer(job.policy)(texts, temperature)
        assert [len(one) for one in ours] == [2, 3, 1]
        for one, other in zip(ours, theirs, strict=True):
            assert one == pytest.approx(other, abs=1e-5)


def test_settings_of_an_engine_that_is_not_there_or_cannot_be(tmp_path):
    for words, said in ((["--engine-dtype", "bfloat16"], "engine_dtype is for an engine that is a process of its own"),
                        (["--engine", "vllm", "--routing", "recorded"], "routing=recorded needs the engine's choice of experts"),
                        (["--engine", "vllm", "--engine-deadline", "0.1"], "engine_deadline must be at least 1 second"),
                        (["--engine", "vllm", "--engine-memory", "-1"], "engine_memory must be at least 0"),
                        (["--engine", "vllm", "--engine-address", "gpu7"], "engine_address must be HOST:PORT")):
        with pytest.raises(ConfigError, match=said):
            from_words(words, Run())
    run = from_words(["--engine", "vllm", "--engine-dtype", "bfloat16"], Run())
    assert from_toml(to_toml(run)) == run
    empty = tmp_path / "python"
    empty.write_text("#!/bin/sh\n")
    empty.chmod(0o755)
    run = tiny_run(tmp_path / "missing", engine="vllm", serving=EngineSettings(engine_python=str(empty)))
    with pytest.raises(ConfigError, match=r"engine=vllm: .* has no vLLM; run `make setup-vllm`"):
        train(run, tmp_path)
    assert not (tmp_path / "tiny").exists()


class Served:
    """What `groupwise serve` starts for a connection: a stand-in in a thread."""

    def __init__(self, python, threads, end):
        mine = socket.socket(fileno=os.dup(end.fileno()))
        self.process, self.mine = self, mine
        self.pid, self.over = 7, False
        folder = Path(python) / str(mine.fileno())
        folder.mkdir(parents=True, exist_ok=True)

        def work():
            with mine:
                Server(mine, lambda place, settings: Stub(place, settings, Faults()), folder).serve()
            self.over = True
        threading.Thread(target=work, daemon=True).start()

    def poll(self):
        return 0 if self.over else None

    def close(self):
        if not self.over:
            with contextlib.suppress(OSError):  # its thread may have ended by itself, as the connection did
                self.mine.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The address of a `groupwise serve` on a stand-in, and what it says."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv(process.TOKEN, TOKEN)
    monkeypatch.setattr(listen, "python_of", lambda own: str(tmp_path / "served"))
    monkeypatch.setattr(listen, "Child", Served)
    said, ready = [], threading.Event()

    def say(line):
        said.append(line)
        ready.set()

    threading.Thread(target=listen.serve, args=(address, EngineSettings(), 1, say), daemon=True).start()
    assert ready.wait(10.0)
    return address, said


def remote(address, policy):
    settings = {"dtype": "float32", "length": 24, "rows": 8, "memory": 1.0, "stops": False, "text": "12+3"}
    opening = Opening(settings, CONTEXTS, Sampling(8), scorer(policy), narrow=False)
    return VLLM(policy, EngineSettings(engine_address=address, engine_restarts=1), opening, lambda: process.Remote(address, 5.0))


def test_a_run_may_sample_on_another_machine(served, monkeypatch):
    address, said = served
    policy = tiny_policy()
    engine = remote(address, policy)
    found = engine.generate(requests())
    engine.kept.drop()  # the connection breaks: the next one is the same run's
    assert engine.generate(requests()) == found
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(1.1)
    engine.load(dict(policy.model.state_dict()), version=1)
    assert engine.clocks["sync_gap_mean"] < 1e-5
    monkeypatch.setattr(process.Remote, "session", "another")
    with pytest.raises(EngineError, match="does not let this run in: another run samples here already: one engine serves one"):
        remote(address, policy)
    monkeypatch.setenv(process.TOKEN, "0" * 16)
    with pytest.raises(EngineError, match="does not let this run in: wrong token"):
        remote(address, policy)
    monkeypatch.delenv(process.TOKEN)
    with pytest.raises(ConfigError, match=f"needs the token.*set {process.TOKEN}"):
        remote(address, policy)
    engine.close()
    assert len([line for line in said if "a run came in" in line]) == 2


def test_strangers_and_ports_in_use(served, monkeypatch, capsys):
    address, said = served
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"no greeting" in stranger.recv(9999)
    assert main(["serve", "--listen", address]) == 2
    assert f"cannot listen on {address} (Address already in use): another engine may be running there" in capsys.readouterr().err
    monkeypatch.setenv(process.TOKEN, "short")
    assert main(["serve", "--listen", address]) == 2
    assert "set it, to 16 letters at least" in capsys.readouterr().err
    assert any("refused: no greeting" in line for line in said)
