"""Golden vectors: what other frameworks compute from the same rewards and log-probs, through the whole of ours."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest

from groupwise import cli
from groupwise.errors import ConfigError
from groupwise.lab import adapters, conformance, outcome
from groupwise.lab.adapters import adapt
from groupwise.lab.fixture import Table
from groupwise.objective.objective import Objective

DATA = conformance.load()
VECTORS = {v["id"]: v for v in DATA["vectors"]}


def fixture_of(vector):
    return DATA["fixtures"][vector.get("fixture", "main")]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", sorted(VECTORS))
def test_a_vector(name, padded):
    row = conformance.one(VECTORS[name], fixture_of(VECTORS[name]), padded)
    assert row.status == "pass", row
    assert row.left == ()
    assert row.path == ("train" if row.calls else "direct")
    assert row.path == "direct" or min(row.calls.values()) >= 1


def test_the_bundled_vectors_and_what_they_go_through():
    report = conformance.as_json(conformance.check(DATA))
    assert (report["passed"], report["total"]) == (196, 196)
    assert report["train"] >= 150
    assert report["distinct_objectives"] >= 100
    exact = {row["id"]: row["max_error"] for row in report["rows"] if row["tolerance"] == conformance.EXACT}
    assert max(exact.values()) < 1e-9
    assert all(row["note"] for row in report["rows"] if row["path"] == "direct")
    assert {row["id"] for row in report["rows"] if row["variant"]} == {
        "loss.bnpo.trl", "accum.bnpo.2ranks_x_2micro.trl", "accum.token-mean_legacy_dp_actor.verlA"}


def test_the_calls_are_those_of_the_class_that_training_uses(monkeypatch):
    seen = []
    for name in ("credit", "weigh", "loss"):
        plain = getattr(Objective, name)
        monkeypatch.setattr(Objective, name, lambda *a, _plain=plain, _name=name, **k: (seen.append(_name), _plain(*a, **k))[1])
    row = conformance.one(VECTORS["loss.grpo.trl"], fixture_of(VECTORS["loss.grpo.trl"]))
    assert {name: seen.count(name) for name in ("credit", "weigh", "loss")} == row.calls


@pytest.mark.parametrize("change", ["value", "setting", "reward"])
def test_a_wrong_number_is_seen(change):
    data = json.loads(json.dumps(DATA))
    vector = next(v for v in data["vectors"] if v["id"] == "loss.dapo.trl")
    if change == "value":
        vector["expected"]["grad"][0][0] += 1e-6
    elif change == "setting":
        vector["config"]["epsilon_high"] = 0.2
    else:
        data["fixtures"]["main"]["advantages"][0] += 1e-3
    assert conformance.one(vector, data["fixtures"]["main"]).status == "fail"


def test_an_odd_vector_is_a_row_like_the_others():
    vector = dict(VECTORS["loss.grpo.oat"], config={})
    row = conformance.one(vector, fixture_of(vector))
    assert (row.status, row.path) == ("error", "train")
    assert "critic_type" in row.note


def test_a_gradient_under_the_mask_is_seen():
    vector = VECTORS["loss.grpo.trl"]
    mask = np.array(fixture_of(vector)["response_mask"]) > 0
    ours = np.array(vector["expected"]["grad"])
    assert conformance.distance(ours, vector["expected"]["grad"], mask) == 0.0
    ours[~mask] = 1e-3
    assert conformance.distance(ours, vector["expected"]["grad"], mask) == pytest.approx(1e-3)
    ours[0, 0] = np.nan
    assert conformance.distance(ours, vector["expected"]["grad"], mask) == np.inf


def test_other_numbers_of_the_same_settings_run_too():
    """Settings are read, not ids: another epsilon gives another objective, equal to a hand-made one."""
    vector = json.loads(json.dumps(VECTORS["loss.grpo_two_sided_delta.trl"]))
    vector["config"] |= {"epsilon": 0.1, "epsilon_high": 0.3, "delta": 2.5}
    policy = adapt(vector, fixture_of(vector)).objective.terms[0]
    assert (policy.trust.low, policy.trust.high, policy.trust.cap) == (0.1, 0.3, 2.5)
    vector["id"] = "renamed"
    assert adapt(vector, fixture_of(vector)).objective.terms[0] == policy


def test_adapters_do_no_arithmetic():
    """Their code has no operator on numbers and calls nothing that computes: they translate."""
    folder = Path(adapters.__file__).parent
    for file in ("verl.py", "trl.py", "others.py", "__init__.py"):
        tree = ast.parse((folder / file).read_text())
        annotations = {id(part) for node in ast.walk(tree) for where in ("annotation", "returns")
                       for part in ast.walk(getattr(node, where, None) or ast.Pass())}
        for node in ast.walk(tree):
            if isinstance(node, ast.BinOp | ast.AugAssign):
                assert id(node) in annotations, f"{file}:{node.lineno}: {ast.unparse(node)}"
            if isinstance(node, ast.UnaryOp):
                assert isinstance(node.op, ast.Not), f"{file}:{node.lineno}: {ast.unparse(node)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert not {"math", "numpy", "torch", "operator"} & {a.name for a in node.names}, f"{file}:{node.lineno}"
                assert getattr(node, "module", "") not in ("math", "numpy", "torch", "operator"), f"{file}:{node.lineno}"


def test_ranks_and_micro_batches_add_up():
    vector = VECTORS["accum.dapo.2ranks_x_2micro.trl"]
    case = adapt(vector, fixture_of(vector))
    result = outcome.outcome(Table(case, fixture_of(vector)))
    assert (len(result.weighed), result.objective.counts["loss"]) == (4, 4)


@pytest.mark.parametrize(("text", "said"), [
    ("{", "not JSON"), ("[]", "no golden vectors"), ('{"fixtures": {}, "vectors": [{"id": "a"}]}', "lacks implementation"),
    ('{"fixtures": {}, "vectors": [{"id": "", "implementation": "", "function": "", "config": {}, "expected": {}}]}', "fixture"),
])
def test_a_file_that_is_no_vectors_is_refused(text, said, tmp_path):
    (tmp_path / "v.json").write_text(text)
    with pytest.raises(ConfigError, match=said):
        conformance.load(tmp_path / "v.json")
    with pytest.raises(ConfigError, match="no vectors can be read"):
        conformance.load(tmp_path / "absent.json")


def test_the_command_line_prints_a_matrix_and_fails_on_a_disagreement(tmp_path, capsys):
    assert cli.main(["conformance", "--only", "trl", "--json", str(tmp_path / "report.json")]) == 0
    said = capsys.readouterr().out
    assert "vectors agree" in said
    assert "1.16.0" in said
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"] == report["total"] > 30
    assert {"id", "status", "max_error", "objective", "path"} <= set(report["rows"][0])
    wrong = {"fixtures": DATA["fixtures"], "vectors": [dict(VECTORS["loss.grpo.trl"], expected={"loss": 1.0}),
                                                       dict(VECTORS["loss.grpo.trl"], id="b", implementation="mine 1.0")]}
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    assert cli.main(["conformance", str(tmp_path / "wrong.json")]) == 1
    said = capsys.readouterr().out
    assert "fail loss.grpo.trl: off by" in said
    assert "error b: vector 'b' is of 'mine 1.0'" in said


def test_against_a_framework_that_is_not_there(capsys):
    assert cli.main(["conformance", "--against", "verl"]) == 2
    assert "valid: trl" in capsys.readouterr().err


def test_a_file_in_the_documented_format_runs(tmp_path, capsys):
    """The smallest file that the page describes, with one vector worked out by hand."""
    fixture = {"group_ids": [0, 0], "rewards": [1.0, 0.0], "advantages": [1.0, -1.0], "response_mask": [[1, 1], [1, 0]],
               "new_logprobs": [[-1.0, -1.0], [-1.0, 9.0]], "old_logprobs": [[-1.0, -1.0], [-1.0, 9.0]]}
    vector = {"id": "loss.mine", "implementation": "trl 9", "function": "GRPOTrainer._compute_loss",
              "config": {"loss_type": "dapo"}, "expected": {"loss": -1 / 3, "grad": [[-1 / 3, -1 / 3], [1 / 3, 0.0]]}}
    (tmp_path / "v.json").write_text(json.dumps({"fixtures": {"main": fixture}, "vectors": [vector]}))
    assert cli.main(["conformance", str(tmp_path / "v.json")]) == 0
    assert "1 of 1 vectors agree" in capsys.readouterr().out
