import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import chaos
import pytest
import torch
from learner_support import groups_of, packed, relative
from run_support import tiny_folder, tiny_run
from torch.distributed.tensor import DTensor, distribute_tensor

from groupwise import cli
from groupwise.engines.native import Native
from groupwise.errors import CheckpointError, ConfigError, ObjectiveError, TrainingError
from groupwise.lab.subjects import subject_of
from groupwise.learner import checkpoint, shards
from groupwise.learner.norm import clip, norm
from groupwise.methods import METHODS
from groupwise.models.head import Want
from groupwise.models.load import load
from groupwise.run import assemble, link, loop, serving
from groupwise.run.config import to_toml
from groupwise.run.disk import read_lines
from groupwise.run.learner_settings import LearnerSettings
from groupwise.run.loop import resume, train
from groupwise.run.ranks import Ranks
from groupwise.run.settings import Run

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))  # where the other ranks find Toy, too
import ranks as bench
from ranks import Toy


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def running():
    """Two ranks that the tests share, under "team"; another two if a test has ended them."""
    found = {}
    yield found
    if "team" in found:
        found["team"].close()


@pytest.fixture
def team(running):
    if "team" not in running or running["team"].closed:
        running["team"] = Ranks(2, patience=60.0)
    return running["team"]


def flat(gradients, learner):
    return torch.cat([gradients.get(name, torch.zeros(p.shape)).flatten() for name, p in learner.parameters.items()])


def own(learner):
    return flat({name: p.grad for name, p in learner.parameters.items() if p.grad is not None}, learner)


@pytest.mark.parametrize(("name", "toy"), [
    ("ppo", Toy("float64")), ("clip_cov", Toy("float64")), ("grpo", Toy(checkpointing=True, values=False)),
    pytest.param("grpo", Toy(lora=3, values=False), marks=pytest.mark.slow),
    pytest.param("grpo", Toy(family="qwen3_moe", values=False), marks=pytest.mark.slow)])
def test_gradients_norms_and_scores_are_those_of_one_process(name, toy, team):
    if toy.lora:
        pytest.importorskip("peft")
    other = toy.first(team)
    found = bench.compared(subject_of(name), toy.alone(), other, seeds=1)
    most = bench.TOLERANCE[toy.dtype]
    assert found["gradient"] <= most
    assert found["norm"] <= most
    assert found["logprob"] <= 10 * most
    assert all(isinstance(p, DTensor) and p.to_local().shape[0] < p.shape[0] for p in other.parameters.values() if p.shape[0] > 1)


@pytest.mark.slow
def test_in_bfloat16_the_gradient_is_rounded_and_kept_in_float32(team):
    toy = Toy(narrow=True, values=False)
    other = toy.first(team)
    found = bench.compared(subject_of("grpo"), Toy(values=False).alone(), other, seeds=1)
    assert 1e-4 < found["gradient"] < 0.05
    assert {p.dtype for p in other.parameters.values()} == {torch.float32}


def test_ranks_keep_in_step_whatever_there_is_to_do(team):
    """Broken sequences on one rank, fewer sequences than ranks, none at all, gradients added up and thrown away."""
    toy = Toy(tied=False, values=False)
    one, other = toy.alone(), toy.first(team)
    objective = METHODS["dr_grpo"](max_tokens=8).objective
    for learner in (one, other):
        broken = learner.snapshot()
        broken["model.embed_tokens.weight"][28] = torch.nan
        learner.restore(broken)
    groups = groups_of(1, special=28)
    batch = objective.weigh(packed(one, groups, objective))
    batch.credit["advantage"].values[4:8] = 0.0
    few = objective.weigh(packed(one, groups_of(2, groups=1, size=2), objective).take([0]))
    none = replace(few, loss_mask=torch.zeros_like(few.loss_mask))
    for steps in ([batch], [few], [none], [batch, few]):
        stats = [[learner.gradients(step, objective) for step in steps] for learner in (one, other)]
        assert [s["dropped_sequences"] for s in stats[0]] == [s["dropped_sequences"] for s in stats[1]]
        assert [s["idle_share"] for s in stats[0]] == [s["idle_share"] for s in stats[1]]
        expected = own(one)
        assert float((flat(other.gathered(), other) - expected).norm()) <= 1e-5 * float(expected.norm())
        for learner in (one, other):
            learner.discard()
    assert other.gathered() == {}


def test_weights_and_moments_go_to_disk_and_back_on_any_number_of_ranks(team, tmp_path):
    toy, subject = Toy(), subject_of("ppo")
    other = toy.first(team)
    for seed in range(2):
        other.gradients(bench.step_of(subject, toy.alone(), seed), subject.objective)
        other.apply()
    other.write(tmp_path / shards.FOLDER)
    assert sorted(p.suffix for p in (tmp_path / shards.FOLDER).iterdir()) == [".safetensors"] * 2
    kept, counters = other.snapshot(), {"steps": 2, "bad_steps": 1, "bad_in_a_row": 0}
    batch, after = bench.step_of(subject, toy.alone(), 5), []
    for make in (lambda: other, lambda: toy.first(team), toy.alone):
        learner = make()
        if learner is not other:
            learner.restore(kept)
            checkpoint.load(learner, tmp_path, counters)
            assert (learner.steps, learner.bad_steps) == (2, 1)
        learner.gradients(batch, subject.objective)
        learner.apply()
        after.append(torch.cat([x.flatten() for x in learner.snapshot().values()]))
    assert torch.equal(after[0], after[1])
    assert relative(after[2], after[0]) < 1e-5
    alone = Toy(values=False).alone()
    with pytest.raises(CheckpointError, match="policy has no such parameter: the checkpoint is of another model or method"):
        checkpoint.load(alone, tmp_path, counters)
    (tmp_path / shards.FOLDER / "shard-00002-model-00001-of-00001.safetensors").unlink()
    with pytest.raises(CheckpointError, match="of another model, or files of it are missing"):
        checkpoint.load(learner, tmp_path, counters)
    with pytest.raises(CheckpointError, match=r"holds no state of an optimiser \(neither"):
        checkpoint.load(alone, tmp_path / "nowhere", counters)


def test_the_norm_counts_gradients_in_shards_and_whole_ones_once_each(team):
    mesh = team.mesh()
    whole = torch.nn.Parameter(torch.zeros(3))
    whole.grad = torch.tensor([1.0, 2.0, 2.0])
    # Of rank 0 alone, as the other would have to run the same: two ranks together are in the tests above.
    alone = torch.distributed.new_group([0], use_local_synchronization=True)
    mesh = torch.distributed.device_mesh.DeviceMesh.from_group(alone, "cpu")
    sharded = torch.nn.Parameter(distribute_tensor(torch.zeros(4), mesh))
    sharded.grad = distribute_tensor(torch.full((4,), 2.0), mesh)
    size = norm([whole.grad, sharded.grad])
    assert float(size) == pytest.approx(5.0)
    clip([whole, sharded], 1.0, size)
    assert whole.grad.tolist() == pytest.approx([0.2, 0.4, 0.4])
    assert sharded.grad.to_local().tolist() == pytest.approx([0.4] * 4)
    clip([whole, sharded], 2.0, norm([whole.grad, sharded.grad]))
    assert whole.grad.tolist() == pytest.approx([0.2, 0.4, 0.4])


def test_a_run_in_shards_is_that_of_one_process_and_goes_on_with_another_number(model, team, tmp_path, capsys):
    team.close()  # a process has one team at a time
    plain = tiny_run(model, steps=4, eval_every=2, checkpoint_every=2, dtype="float32")
    run = replace(plain, learner=replace(plain.learner, parallel="fsdp2", ranks=2))
    folders = [train(one, tmp_path / name) for name, one in {"one": plain, "two": run}.items()]
    rows = [read_lines(folder / "metrics.jsonl") for folder in folders]
    assert len(rows[0]) == len(rows[1]) == 4
    for one, two in zip(*rows, strict=True):
        assert one.keys() == two.keys()
        different = {name for name in one if two[name] != pytest.approx(one[name], rel=1e-4, abs=1e-5)}
        assert different == set()
    weights = [torch.cat([p.detach().flatten() for p in load(folder / "model").model.parameters()]) for folder in folders]
    assert relative(weights[1], weights[0]) < 1e-3
    assert re.search(r'^parallel = "fsdp2"$\n^ranks = 2$', (folders[1] / "run.toml").read_text(), re.MULTILINE)
    two = folders[1]
    shutil.rmtree(two / "checkpoints/step-000004")
    capsys.readouterr()
    resume(two, ranks=1)
    said = " ".join(capsys.readouterr().out.split())
    assert "ranks was 2 when the checkpoint was made and is 1 now: the run goes on, but no longer bit for bit" in said
    again = read_lines(two / "metrics.jsonl")
    assert again[:2] == rows[1][:2]
    assert again[3] == pytest.approx(rows[1][3], rel=1e-3, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3])
def test_a_run_in_shards_resumes_bit_for_bit(number, model, team, tmp_path):
    team.close()
    run = tiny_run(model, parallel="fsdp2", ranks=number, steps=chaos.STEPS, eval_every=3, checkpoint_every=2, method="ppo")
    whole = train(run, tmp_path / "whole")
    broken = shutil.copytree(whole, tmp_path / "broken" / whole.name)
    shutil.rmtree(broken / chaos.LAST)
    resume(broken)
    assert chaos.differences(broken, whole) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_in_shards_that_is_told_to_stop_saves_and_goes_on_bit_for_bit(number, model, team, tmp_path):
    team.close()
    run = tiny_run(model, "one", parallel="fsdp2", ranks=2, steps=chaos.STEPS, eval_every=3, preflight="off")
    whole = train(run, tmp_path / "whole")
    (tmp_path / "settings.toml").write_text(to_toml(run))
    words = [sys.executable, "-m", "groupwise", "train", "--config", "settings.toml", "--run", "one"]
    paths = os.pathsep.join([str(chaos.ROOT), str(chaos.ROOT / "tests")])
    child = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             start_new_session=True, env={**os.environ, "PYTHONPATH": paths})
    folder = tmp_path / "runs" / "one"
    until = time.monotonic() + 120.0
    while not ((folder / "metrics.jsonl").exists() and read_lines(folder / "metrics.jsonl")) and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(child.pid, number)  # a terminal tells all ranks of Ctrl-C
    said, _ = child.communicate(timeout=120.0)
    assert child.returncode == 130, said
    assert "the step is finished and saved first" in said
    assert 0 < len(read_lines(folder / "metrics.jsonl")) < chaos.STEPS
    resume(folder)
    wrong = chaos.differences(folder, whole)
    assert [name for name in wrong if "checkpoints" not in name] == []


@pytest.mark.parametrize(("fault", "said"), [
    (signal.SIGKILL, r"rank 1 of 2 ended \(killed by SIGKILL\): resume the run"),
    pytest.param(signal.SIGSTOP, r"the ranks waited for each other, 3 s at most; awaited: rank 1 of 2", marks=pytest.mark.slow)])
def test_a_dead_or_hung_rank_is_named(fault, said, team):
    team.close()
    with Ranks(2, patience=3.0) as own_team:
        toy = Toy(values=False)
        learner = toy.first(own_team)
        batch = bench.step_of(subject_of("dr_grpo"), toy.alone(), 0)
        (other,) = own_team.others
        os.kill(other.process.pid, fault)
        began = time.monotonic()
        with pytest.raises(TrainingError, match=said):
            learner.gradients(batch, subject_of("dr_grpo").objective)
        assert time.monotonic() - began < 60.0
        assert other.process.poll() is not None
        with pytest.raises(TrainingError, match="have ended: resume"):
            learner.apply()


def test_an_engine_is_proved_by_all_ranks(model, team, tmp_path, monkeypatch):
    """A proof asks the learner while the engine is opened: the other ranks must have been heard by then, or all wait."""
    team.close()
    proofs = []

    def opened(run, learner, python, *prompts):
        proofs.extend(serving.score_of(learner)([((1, 2), (3, 4, 5))], 1.0))
        return Native(learner.policy)

    monkeypatch.setattr("groupwise.run.ranks.PATIENCE", 20.0)
    monkeypatch.setattr(assemble, "python_of", lambda run: "a python")
    monkeypatch.setattr(assemble, "vllm_of", opened)
    job = assemble.assemble(tiny_run(model, parallel="fsdp2", ranks=2), tmp_path, serve=True)
    for part in (job.grader, job.workers):
        part.close()
    assert [len(some) for some in proofs] == [3]


def test_what_another_rank_raises_is_raised_here(team):
    learner = Toy(values=False).first(team)
    batch = bench.step_of(subject_of("dr_grpo"), Toy(values=False).alone(), 0)
    with pytest.raises(ObjectiveError, match="log-probs of a model 'nobody' that was not loaded"):
        team.run([replace(task, model="nobody") for task in learner._tasks(batch, range(4), Want())],
                 lambda task: team.connected().receive(1))
    assert team.closed


def test_what_cannot_be_is_refused_before_any_work(monkeypatch):
    for words, said in {
            "--ranks 2": "ranks=2 and parallel=none: ranks hold shards of the weights; take parallel=fsdp2, or workers=2",
            "--parallel fsdp2 --workers 2": "parallel=fsdp2 and workers=2: .* leave workers off",
            "--parallel fsdp2 --compute kernels": "parallel=fsdp2 and compute=kernels",
            "--parallel fsdp2 --quantise nf4 --lora-rank 4": "parallel=fsdp2 and quantise=nf4",
            "--parallel fsdp2 --optimizer adamw8bit": "parallel=fsdp2 and optimizer=adamw8bit"}.items():
        with pytest.raises(ConfigError, match=said):
            cli.settings(words.split())
    assert link.number(0, "cpu") == 2
    assert link.number(5, "cpu") == 5
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert link.number(0, "cuda") == 2
    with pytest.raises(ConfigError, match=r"ranks=3, but there are 2 GPUs: two ranks cannot share one; take ranks=2"):
        link.number(3, "cuda")
    with pytest.raises(ConfigError, match=r"device=cuda:1: each rank takes a GPU of its own"):
        link.number(2, "cuda:1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert link.number(0, "cpu") == 3
    with pytest.raises(ConfigError, match=r"ranks=2, but torchrun started 3 processes: leave ranks at 0, or start 2"):
        link.number(2, "cpu")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ConfigError, match=r"this is rank 1 of 3 that torchrun started, and rank 0 is to run the loop"):
        loop.train(Run())
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match=r"torchrun started 3 processes, and the run has parallel=none"):
        loop.train(Run())
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    with pytest.raises(ConfigError, match=r"ranks=2 was given, and the run has parallel=none"):
        link.launched_for(Run(), 2)
    assert link.launched_for(Run(learner=LearnerSettings(parallel="fsdp2", ranks=2)), 3).learner.ranks == 3


@pytest.mark.slow
def test_torchrun_starts_the_ranks(model, tmp_path):
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "groupwise", "--"]
    (tmp_path / "run.toml").write_text(to_toml(tiny_run(model, parallel="fsdp2", steps=2)))
    subprocess.run([*words, "train", "--config", "run.toml", "--run", "by-torchrun"], cwd=tmp_path, check=True, timeout=300)
    assert len(read_lines(tmp_path / "runs/by-torchrun/metrics.jsonl")) == 2


@pytest.mark.gpu
def test_a_rank_on_each_gpu_is_one_process(model, team, tmp_path):
    team.close()
    plain = tiny_run(model, steps=3, checkpoint_every=2, dtype="float32", device="cuda")
    run = replace(plain, learner=replace(plain.learner, parallel="fsdp2"))
    rows = [read_lines(train(one, tmp_path / name) / "metrics.jsonl") for name, one in {"one": plain, "shards": run}.items()]
    for one, other in zip(*rows, strict=True):
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
