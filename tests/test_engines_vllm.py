"""The vLLM engine without vLLM: client, protocol, deadlines, new starts and the proof, over a stand-in that speaks it."""

import importlib.util
import socket
import sys

import numpy as np
import pytest
import torch
from run_support import tiny_policy
from vllm_support import Faults, client, requests

from groupwise.core.services import Sampling
from groupwise.engines.vllm import process, wire
from groupwise.engines.vllm.proof import Disagreement, Prover, same_settings
from groupwise.engines.vllm.settings import EngineSettings
from groupwise.errors import ConfigError, EngineError
from groupwise.run import serving
from groupwise.run.learner_settings import LearnerSettings
from groupwise.run.settings import Run


@pytest.fixture
def policy():
    return tiny_policy()


@torch.no_grad()
def moved(policy, by=0.1):
    """The policy's weights after a step of training."""
    for i, weight in enumerate(policy.model.parameters()):
        weight.add_(by * torch.randn(weight.shape, generator=torch.Generator().manual_seed(i)))
    return dict(policy.model.state_dict())


def test_messages_cross_a_socket_and_nonsense_is_refused():
    a, b = socket.socketpair()
    with a, b:
        wire.send(a, {"id": 3, "logp": [-0.1]}, b"\x00\xff")
        assert wire.receive(b) == ({"id": 3, "logp": [-0.1]}, bytearray(b"\x00\xff"))
        a.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(wire.Garbled):
            wire.receive(b)
    a, b = socket.socketpair()
    with b:
        a.close()
        with pytest.raises(EOFError):
            wire.receive(b)


def test_completions_come_in_order_with_what_the_engine_says_of_them(policy):
    engine, asked = client(policy, Faults()), requests()
    found = engine.generate(asked)
    again = engine.generate(asked[::-1])[::-1]
    engine.close()
    assert found == again
    assert [len(some) for some in found] == [2] * 4
    assert len({one.tokens for some in found for one in some}) > 4
    for some in found:
        for one in some:
            assert one.versions[0].version == 0
            assert (one.finish == "stop") == (one.tokens[-1] in policy.eos_ids)
    assert engine.stats["tokens"] == sum(len(one.tokens) for some in found for one in some)


@pytest.mark.parametrize("which", ["dies", "hangs"])
def test_an_engine_that_is_lost_is_started_again_and_no_row_is_lost_or_made_twice(policy, which, caplog):
    calm = client(policy, Faults())
    plain = [calm.generate(requests(6)) for _ in range(2)]
    calm.close()
    opened = 6  # steps of an opening: three sequences are sampled, and scored
    faults = Faults(**{which: {2, opened + 4} if which == "hangs" else {2, 5, opened + 7, opened + 16}}, twice=True)
    engine = client(policy, faults)
    found = [engine.generate(requests(6)) for _ in range(2)]
    assert found == plain
    assert engine.kept.restarts == len(faults.dies | faults.hangs)
    assert faults.starts == 1 + engine.kept.restarts
    assert "open completions are asked for again" in caplog.text
    assert engine.kept.tickets == {}
    engine.close()


def test_an_engine_that_is_lost_too_often_ends_the_run_with_its_name(policy):
    faults = Faults(dies=set(range(8, 999)))
    engine = client(policy, faults, engine_restarts=2)
    with pytest.raises(EngineError, match=r"the stand-in is gone .*started 3 times for one and the same work \(eng.*=2\)"):
        engine.generate(requests())
    engine.close()
    with pytest.raises(EngineError, match=r"the stand-in gave no sign of life for 1 s.*engine_restarts=0"):
        client(policy, Faults(hangs={2}), engine_restarts=0)


def test_an_engine_inside_the_process_is_not_started_again(policy, caplog):
    faults = Faults(dies={8})
    engine = client(policy, faults, engine_inside=True, engine_restarts=2)
    with pytest.raises(EngineError, match=r"the stand-in is gone .*\(engine_restarts=0\); the run can be resumed"):
        engine.generate(requests())
    engine.close()
    assert (faults.starts, caplog.text) == (1, "")


def test_weights_are_taken_over_in_place_and_proved(policy):
    faults = Faults()
    engine = client(policy, faults)
    before = engine.generate(requests())
    engine.load(moved(policy), version=7)
    assert (faults.starts, faults.loads) == (1, 1)
    assert engine.clocks["sync_gap_mean"] < 1e-5
    assert engine.clocks["sync_missed"] < 0.05
    after = engine.generate(requests())
    assert after != before
    assert {span.version for some in after for one in some for span in one.versions} == {7}
    engine.close()


@pytest.mark.parametrize("fault", ["stale head", "shuffled"])
def test_a_silent_fault_of_the_reload_is_caught_and_answered_by_a_new_start(policy, fault, caplog):
    faults = Faults(load=fault)
    engine = client(policy, faults)
    engine.load(moved(policy, 0.01), version=1)
    assert faults.starts == 2
    assert "after the sync to version 1, learner and engine give" in caplog.text
    assert engine.clocks["sync_gap_mean"] < 1e-5
    engine.load(moved(policy, 0.01), version=2)  # from now on it is not tried any more
    assert (faults.starts, faults.loads) == (3, 1)
    assert engine.generate(requests())[0][0].versions[0].version == 2
    engine.close()


def test_a_disagreement_that_stays_stops_the_run_with_both_numbers(policy):
    faults = Faults(load="shuffled")
    engine = client(policy, faults)
    faults.folder = "wrong"
    with pytest.raises(Disagreement, match=r"mean -\d+\.\d+ by the learner, -\d+\.\d+ by the engine.* where 0\.0001 is allowed"):
        engine.load(moved(policy), version=1)
    engine.close()
    with pytest.raises(Disagreement, match="at temperature 1 the engine reports a mean log-prob of"):
        client(policy, faults)


def test_a_model_that_cannot_be_reloaded_gets_a_new_process_for_every_version(policy):
    faults = Faults(reload="restart", load="shuffled")
    engine = client(policy, faults)
    for version in (1, 2):
        engine.load(moved(policy, 0.01), version=version)
    assert (faults.starts, faults.loads) == (3, 0)
    assert engine.kept.restarts == 0
    engine.close()


def test_a_process_that_dies_after_a_sync_gets_the_present_weights(policy):
    faults = Faults()
    engine = client(policy, faults)
    engine.load(moved(policy), version=1)
    faults.dies = {faults.steps + 2}
    found = engine.generate(requests())
    assert (faults.starts, faults.loads) == (2, 2)
    assert found == engine.generate(requests())
    engine.close()


def test_weights_may_be_loaded_while_rows_are_made_within_a_window(policy):
    engine = client(policy, Faults(), engine_window=1)
    ticket = engine.submit(requests())
    engine.load(moved(policy, 0.01), version=1)
    found = engine.collect(ticket)
    assert {span.version for some in found for one in some for span in one.versions} <= {0, 1}
    late = engine.submit(requests())
    engine.kept.until(late)
    for version in (2, 3):
        engine.load(moved(policy, 0.01), version=version)
    with pytest.raises(EngineError, match="begun with version 1 of the weights and ended with the engine at 3: more than eng"):
        engine.collect(late)
    engine.close()


def test_what_vllm_would_sample_otherwise_is_refused(policy):
    engine = client(policy, Faults())
    for given, words in (({"temperature": 0.001}, "takes temperatures below 0.01"),
                         ({"min_p": 0.1, "top_k": 3}, "min_p before top_k"),
                         ({"max_tokens": 23}, "exceeds the model's 24 positions")):
        with pytest.raises(EngineError, match=words):
            engine.generate(requests(**given))
    engine.close()


def test_stop_strings_end_a_completion_where_every_engine_ends_it(policy):
    engine = client(policy, Faults(), sampling=Sampling(8, stop=("1",)))
    for some in engine.generate(requests(8, stop=("1", "2"))):
        for one in some:
            text = policy.tokenizer.decode(one.tokens)
            assert one.finish == ("stop" if text[-1:] in ("1", "2") or one.tokens[-1] in policy.eos_ids else "length")
            assert not set(text[:-1]) & {"1", "2"}
    engine.close()


def test_an_engine_that_does_not_move_is_found_before_it_leaves_the_tolerance():
    said = {"learner": np.full(64, -2.0), "engine": np.full(64, -2.0) + 0.002 * np.resize([1, -1], 64)}
    prover = Prover(lambda texts, temperature: [said["learner"]], "bfloat16", 99)
    prover.fix([((1,), (2,) * 64)])
    prover.expect()
    assert np.isnan(prover.compare([said["engine"]], "at the start").missed)
    for learner, engine, fine in ((0.01, 0.0, True), (0.03, 0.028, True), (0.03, 0.0, False), (0.03, 0.012, False)):
        said["learner"] = np.full(64, -2.0) + learner
        prover.expect()
        if fine:
            prover.compare([said["engine"] + engine], "now")
        else:
            with pytest.raises(Disagreement, match=r"did not move as the learner did.* moved by 0\.03 nats in the learner"):
                prover.compare([said["engine"] + engine], "now")


def test_the_tolerance_is_a_setting(policy):
    told = []
    for own in ({}, {"engine_tolerance": 0.1}):
        engine = client(policy, Faults(), **own)
        engine.prover.expect()
        off = [one + 0.05 for one in engine.prover.expected]
        try:
            engine.prover.compare(off, "now")
        except Disagreement as error:
            told.append(str(error))
        engine.close()
    assert len(told) == 1
    assert "where 0.0001 is allowed in float32 (set by engine_tolerance)" in told[0]
    with pytest.raises(ConfigError, match="engine_tolerance must be at least"):
        EngineSettings(engine_tolerance=-1.0)


def test_settings_that_differ_are_named():
    same_settings({"dtype": "float32", "tokens": [1, 2]}, {"dtype": "float32", "tokens": None})
    with pytest.raises(EngineError, match=r"tokens: \[1, 2\] in the run, \[1, 3\] in the engine"):
        same_settings({"dtype": "float32", "tokens": [1, 2]}, {"dtype": "float32", "tokens": [1, 3]})


@pytest.mark.parametrize(("own", "words"), [
    ({"engine_python": "python"}, "engine_inside and engine_python"),
    ({"engine_address": "here:8300"}, "engine_inside and engine_address"),
    ({"engine_threads": 2}, "engine_inside and engine_threads")])
def test_an_engine_inside_the_process_has_no_python_or_machine_of_its_own(own, words):
    with pytest.raises(ConfigError, match=words):
        EngineSettings(engine_inside=True, **own)


def test_an_engine_inside_the_process_needs_vllm_there():
    if importlib.util.find_spec("vllm"):
        pytest.skip("this Python has vLLM")
    with pytest.raises(ConfigError, match=f"{sys.executable} has no vLLM"):
        serving.python_of(Run(engine="vllm", serving=EngineSettings(engine_inside=True)))
    run = Run(engine="vllm", serving=EngineSettings(engine_inside=True), learner=LearnerSettings(parallel="fsdp2"))
    with pytest.raises(ConfigError, match="engine_inside and parallel=fsdp2"):
        serving.python_of(run)


@pytest.mark.parametrize(("prints", "words"), [
    ("echo 0.31.0", "has vLLM 0.31.0, and this version of groupwise knows 0.32 only; run `make setup-vllm`"),
    ("echo", "has no vLLM; run `make setup-vllm`"),
    ("echo broken >&2; exit 1", "has no vLLM: broken; run")])
def test_a_python_without_the_right_vllm_is_refused_at_once(tmp_path, prints, words):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{prints}\n")
    python.chmod(0o755)
    with pytest.raises(ConfigError, match=words):
        process.python_of(EngineSettings(engine_python=str(python)))


def test_the_python_with_vllm_is_looked_for_in_three_places(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_VERSION", "print('0.32.9')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(process.PYTHON, raising=False)
    assert process.python_of(EngineSettings()) == sys.executable
    (tmp_path / ".venv-vllm" / "bin").mkdir(parents=True)
    (tmp_path / ".venv-vllm" / "bin" / "python").symlink_to(sys.executable)
    assert process.python_of(EngineSettings()) == str(tmp_path / ".venv-vllm" / "bin" / "python")
    monkeypatch.setenv(process.PYTHON, "missing-python")
    with pytest.raises(ConfigError, match="missing-python cannot be run"):
        process.python_of(EngineSettings())
