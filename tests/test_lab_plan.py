import json

import pytest
from run_support import tiny_folder, tiny_policy, tiny_run

from groupwise.cli import main
from groupwise.lab import plan as planning
from groupwise.lab.plan import advice, as_json, lines, plan
from groupwise.models import memory


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def found(model):
    return plan(tiny_run(model, method="grpo", method_args={"kl": 0.1}, eval_every=1))


def test_what_is_held_is_counted_to_the_byte(found):
    own = sum(p.nbytes for p in tiny_policy().model.parameters())
    assert own <= found.memory["weights"] < 1.01 * own  # and the frequencies of the rotary embedding
    assert found.memory["reference"] == found.memory["weights"]
    assert found.parts["training"]["gradients"] == own
    assert 2 * own <= found.memory["optimiser moments"] < 2.01 * own
    assert found.memory["value head"] == 0
    heads, size = 2, 32 // 4
    per_position = 2 * 2 * heads * size * 4  # layers, keys and values
    most = 16 * (8 + 40) * per_position
    assert 0 < found.parts["generation"]["KV cache, at most"] < most
    assert found.peak >= found.memory["programs, libraries, packed copies"] > 2**20


def test_tokens_and_seconds_add_up(found):
    assert found.at_most.tokens == 4 * 4 * 8
    assert found.at_mean.length <= found.at_most.length == 8
    for at in (found.at_mean, found.at_most):
        assert at.step == at.generate + at.verify + at.train > 0.0
        assert at.run == pytest.approx(2 * at.step + 3 * at.evaluate)


def test_the_verdict_names_what_to_change(found):
    assert advice(found).startswith("fits: needs")
    data = {**vars(found), "memory": {**found.memory, "training": 2**40}, "peak": 2**40, "room": 2**30}
    tight = planning.Outlook(**data)
    assert not tight.fits
    assert "most of it for training; take --micro-tokens 512" in advice(tight)
    assert "--max-rows 128" in advice(planning.Outlook(**{**data, "memory": {**found.memory, "generation": 2**40}}))
    assert "LoRA" in advice(planning.Outlook(**{**data, "memory": {**found.memory, "weights": 2**40}}))
    assert "--micro-tokens 7" in advice(planning.Outlook(**{**vars(found), "lowered": {"micro_tokens": 7.0}}))
    assert "not known" in advice(planning.Outlook(**{**vars(found), "room": 0}))


def test_the_command_prints_and_writes_it(model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--model", str(model), "--task-args", "train=16", "heldout=4", "--max-tokens", "8", "--compute", "modules",
             "--workers", "1", "--threads", "1", "--prompts-per-step", "2", "--group-size", "2"]
    assert main(["plan", *words, "--json", "plan.json"]) == 0
    printed = capsys.readouterr().out
    for part in ("weights", "optimiser moments", "KV cache", "graders", "tokens in all", "fits: needs"):
        assert part in printed
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["fits"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]  # it leaves no run behind
    monkeypatch.setattr(memory, "free", lambda device="cpu": 1)
    monkeypatch.setattr(planning.probe, "free", lambda device="cpu": 1)
    assert main(["plan", *words]) == 1
    assert "does not fit" in capsys.readouterr().out


@pytest.mark.gpu
def test_a_plan_on_a_gpu(model):
    found = plan(tiny_run(model, device="cuda"))
    assert found.memory["weights"] + found.memory["optimiser moments"] < found.peak < found.room
    assert json.dumps(as_json(found))
    assert lines(found)[0] == "memory of GPU, MiB"
