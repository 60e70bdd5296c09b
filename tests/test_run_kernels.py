import json
import shutil

import pytest
from kernels_support import library
from run_support import tiny_folder, tiny_run

from groupwise.errors import ConfigError
from groupwise.kernels import build
from groupwise.run import assemble as assembly
from groupwise.run.assemble import assemble
from groupwise.run.loop import resume, train

FILES = ("metrics.jsonl", "evaluations.jsonl", "heldout.jsonl", "model/model.safetensors")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    library()
    return tiny_folder(tmp_path_factory.mktemp("model") / "model")


@pytest.mark.parametrize("method", ["dr_grpo", "grpo"])
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(model, tmp_path, method):
    run = tiny_run(model, steps=4, eval_every=2, checkpoint_every=2, keep=9, compute="kernels", threads=2, method=method,
                   updates_per_batch=2, method_args={"kl": 0.1} if method == "grpo" else {})
    whole = train(run, tmp_path / "runs")
    cut = shutil.copytree(whole, tmp_path / "cut")
    shutil.rmtree(cut / "checkpoints" / "step-000004")
    resume(cut)
    for name in FILES:
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


def test_another_way_of_computing_is_said_on_resume(model, tmp_path, capsys):
    folder = train(tiny_run(model, steps=4, checkpoint_every=2, keep=9, compute="auto", threads=2), tmp_path / "runs")
    shutil.rmtree(folder / "checkpoints" / "step-000004")
    settings = folder / "run.toml"
    settings.write_text(settings.read_text().replace('compute = "auto"', 'compute = "modules"'))
    resume(folder)
    said = capsys.readouterr().out
    assert f"compute was {library().kind.name}-" in said
    assert "is modules" in said
    assert "now: the run goes on, but no longer bit for bit" in said


def test_kernels_are_taken_where_they_can_be(model, tmp_path, monkeypatch):
    job = assemble(tiny_run(model, compute="auto", threads=0), tmp_path)
    job.grader.close()
    kind = library().kind
    assert assembly.meta(job)["compute"].startswith(kind.name)
    assert job.run.learner.dtype == ("bfloat16" if kind.narrow else "float32")
    assert not [note for note in job.notes if "kernels" in note]
    monkeypatch.setattr("groupwise.run.compute.find", lambda: "no C++ compiler was found")
    job = assemble(tiny_run(model, compute="auto", threads=0), tmp_path)
    job.grader.close()
    assert assembly.meta(job)["compute"].startswith("modules")
    assert job.run.learner.dtype == "float32"
    assert job.notes[-1] == "compiled kernels are not used: no C++ compiler was found"
    with pytest.raises(ConfigError, match=r"compute=kernels was asked for, but cannot be: no C\+\+ compiler"):
        assemble(tiny_run(model, compute="kernels"), tmp_path)


def test_a_run_by_kernels_records_that_engine_and_learner_agree(model, tmp_path):
    folder = train(tiny_run(model, compute="kernels", threads=2), tmp_path / "runs")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(row["mismatch_max"] == 0.0 for row in rows if "mismatch_max" in row)
    assert any("mismatch_max" in row for row in rows)
    assert build.cache().is_dir()
