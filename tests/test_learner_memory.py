"""Where memory runs out: the same gradient with less at a time, the same completions, and a clear end where nothing helps."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from kernels_support import library
from learner_support import gradient, groups_of, learner_of, packed, relative
from run_methods import critic, reaching
from run_support import tiny_folder, tiny_policy, tiny_run

from groupwise.core.keyed import fold
from groupwise.core.rollout import Context
from groupwise.core.services import Request, Sampling
from groupwise.engines.native import Native
from groupwise.errors import EngineError, TrainingError
from groupwise.learner.learner import Learner
from groupwise.learner.settings import Settings
from groupwise.methods import METHODS
from groupwise.models.load import load
from groupwise.models.memory import children, out_of_memory
from groupwise.objective.aggregate import MicroTokenMean
from groupwise.objective.batch import pack
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.run.compose import method_of
from groupwise.run.compute import compiler
from groupwise.run.learning import learner_of as assembled
from groupwise.run.loop import resume, train
from groupwise.run.workers import Setup, Workers

OBJECTIVE = METHODS["dr_grpo"](max_tokens=8).objective
ERRORS = [MemoryError("the kernels failed: std::bad_alloc"), torch.OutOfMemoryError("CUDA out of memory. Tried to have 2 GiB"),
          RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried ...")]


class Full(torch.autograd.Function):
    """Memory runs out on the way back."""

    @staticmethod
    def forward(ctx, x, error):
        ctx.error = error
        return x.clone()

    @staticmethod
    def backward(ctx, slope):
        raise ctx.error


def narrow(scorer, most, error, when="forward"):
    """The scorer on a machine that has memory for micro-batches of so many tokens."""
    inner = type(scorer).__call__

    def call(self, batch, want):
        if len(batch.tokens) <= most:
            return inner(self, batch, want)
        if when == "forward" or not torch.is_grad_enabled():
            raise error
        live = inner(self, batch, want)
        return replace(live, logp=Full.apply(live.logp, error))

    scorer_class = type("Narrow", (type(scorer),), {"__call__": call})
    object.__setattr__(scorer, "__class__", scorer_class)


def learners(kernels, needs):
    compile = compiler(library(), 2, "float32") if kernels else None
    return [Learner(tiny_policy(), Settings(lr=1e-3, micro_tokens=10_000), compile=compile, needs=needs) for _ in range(2)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("when", ["forward", "backward"])
@pytest.mark.parametrize("kernels", [False, True])
def test_the_gradient_is_that_of_a_machine_with_more_memory(error, when, kernels, caplog):
    plain, tight = learners(kernels, frozenset())
    batch = OBJECTIVE.weigh(packed(plain, groups_of(3, groups=5), OBJECTIVE))
    for learner in (plain, tight):  # a gradient that is there already stays
        learner.gradients(OBJECTIVE.weigh(packed(plain, groups_of(1), OBJECTIVE)), OBJECTIVE)
    narrow(tight.scorer, 30, error, when)
    found = [learner.gradients(batch, OBJECTIVE) for learner in (plain, tight)]
    assert found[1] == pytest.approx(found[0], rel=1e-5, abs=1e-6)
    whole, parts = (torch.cat([p.grad.flatten() for p in one.parameters.values()]) for one in (plain, tight))
    assert relative(parts, whole) < 1e-6
    assert plain.budget.lowered() == {}
    assert tight.budget.micro_tokens < 60
    assert f"--micro-tokens {tight.budget.micro_tokens} --logit-chunk {tight.budget.logit_chunk}" in caplog.text


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("method", [reaching, critic])
def test_log_probs_and_losses_in_two_passes(method, kernels):
    objective = method().objective
    plain, tight = learners(kernels, method().needs)
    narrow(tight.scorer, 30, MemoryError("none"))
    batches = [objective.weigh(packed(one, groups_of(3), objective, needs=method().needs | {"old", "entropy"}))
               for one in (plain, tight)]
    for name, column in batches[0].columns.items():
        torch.testing.assert_close(batches[1].columns[name], column, rtol=1e-5, atol=1e-5, equal_nan=True)
    whole, parts = (gradient(one, batch, objective)[0] for one, batch in zip((plain, tight), batches, strict=True))
    assert relative(parts, whole) < 1e-5
    assert tight.budget.micro_tokens < 1000


def test_other_errors_are_raised():
    learner = learner_of()
    narrow(learner.scorer, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        learner.gradients(OBJECTIVE.weigh(packed(learner_of(), groups_of(), OBJECTIVE)), OBJECTIVE)
    assert not out_of_memory(TrainingError("out of memory"))  # said already


def test_one_sequence_that_does_not_fit():
    learner = learner_of()
    narrow(learner.scorer, 5, MemoryError("none left"))
    batch = OBJECTIVE.weigh(packed(learner_of(), groups_of(), OBJECTIVE))
    with pytest.raises(TrainingError, match=r"the gradient \(none left\): one sequence of \d+ tokens .* LoRA"):
        learner.gradients(batch, OBJECTIVE)
    assert all(p.grad is None for p in learner.parameters.values())


@pytest.mark.parametrize("before", [False, True])
def test_an_objective_that_depends_on_the_cut_is_not_cut_otherwise(before):
    objective = Objective(Advantage(), (Policy(aggregate=MicroTokenMean()),))
    learner = learner_of(micro_tokens=60, fixed_cut=before)
    groups = groups_of()
    batch = objective.weigh(learner.planned(packed(learner, groups, objective), objective))
    narrow(learner.scorer, 5, MemoryError("none left"))
    with pytest.raises(TrainingError, match=r"depends on how a minibatch is cut.*--micro-tokens 30"):
        learner.logprobs(pack(groups), groups, frozenset({"old"})) if before else learner.gradients(batch, objective)
    assert learner.budget.lowered() == {}


def test_no_memory_for_the_moments(monkeypatch):
    learner = learner_of()
    learner.gradients(OBJECTIVE.weigh(packed(learner, groups_of(), OBJECTIVE)), OBJECTIVE)

    def step():
        raise MemoryError("none left")

    monkeypatch.setattr(learner.optimizer, "step", step)
    with pytest.raises(TrainingError, match="two moments of every trained parameter"):
        learner.apply()


REQUESTS = [Request(Context(tuple(range(3, 3 + n))), tuple(fold(7, n, s) for s in range(4)), Sampling(12)) for n in (2, 5, 9, 3)]


def small(engine, most):
    """The engine on a machine that has memory for so many rows; returns the sizes of the waves that it tried."""
    run, tried = engine._run, []

    def of(sampling, rows):
        tried.append(len(rows))
        for i, one in enumerate(run(sampling, rows)):
            if len(rows) > most and i == min(1, most):
                raise RuntimeError("std::bad_alloc")
            yield one

    engine._run = of
    return tried


def test_a_wave_is_made_again_in_parts(caplog):
    whole, engine = Native(tiny_policy(), max_rows=16).generate(REQUESTS), Native(tiny_policy(), max_rows=16)
    tried = small(engine, 5)
    parts = engine.generate(REQUESTS)
    assert tried == [16, 8, 4, 4, 4, 4]
    assert engine.max_rows == 4
    assert "--max-rows 4" in caplog.text
    for a, b in zip(whole, parts, strict=True):
        assert [c.tokens for c in a] == [c.tokens for c in b]
        np.testing.assert_allclose(np.concatenate([c.logp for c in a]), np.concatenate([c.logp for c in b]), atol=1e-5)
    small(engine, 0)
    with pytest.raises(EngineError, match="sampling one completion"):
        engine.generate(REQUESTS)


@pytest.mark.slow
def test_a_process_without_memory_makes_all_take_less(tmp_path, caplog):
    model = tiny_folder(tmp_path / "model")
    run = tiny_run(model, dtype="float32", micro_tokens=1000, method="run_methods:scarce")
    method = method_of(run, 8)
    with Workers(2) as team:
        one, alone = (assembled(run, load(model), method, model, workers=given) for given in (team, None))
        team.join(one, Setup(run, str(model), str(model)), method.objective)
        batch = method.objective.weigh(packed(alone, groups_of(3, groups=6), method.objective))
        whole, _ = gradient(alone, batch, method.objective)
        assert relative(gradient(one, batch, method.objective)[0], whole) < 1e-5
        assert "in a worker process: none left" in caplog.text
        assert team.others[0].process.pid in children()
        lowered = one.budget.micro_tokens
        narrow(one.scorer, 20, MemoryError("here"))  # now it is this process that has too little, and the other one waits
        assert relative(gradient(one, batch, method.objective)[0], whole) < 1e-5
        assert one.budget.micro_tokens < lowered < 200
        assert not team.closed


def test_a_resumed_run_goes_on_with_less(tmp_path, monkeypatch):
    """The bits of a run depend on the cut, so a resumed run is the same only if it goes on with the lowered one."""
    run = tiny_run(tiny_folder(tmp_path / "model"), steps=4, checkpoint_every=2, keep=9, micro_tokens=2000)
    from groupwise.learner import learner as module

    work = module.work

    def scarce(scorer, task, *more):
        if max(map(len, task.parts)) > 5:
            raise MemoryError("none left")
        return work(scorer, task, *more)

    with monkeypatch.context() as patch:
        patch.setattr(module, "work", scarce)
        whole = train(run, tmp_path / "runs")
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert 0 < rows[-1]["micro_tokens"] < 200
    cut = Path(shutil.copytree(whole, tmp_path / "cut"))
    shutil.rmtree(cut / "checkpoints" / "step-000004")
    resume(cut)
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


LIMITED = """
import resource, sys, torch
from learner_support import gradient, groups_of, packed, relative
from run_support import tiny_policy
from groupwise.learner.learner import Learner
from groupwise.learner.settings import Settings
from groupwise.methods import METHODS
from groupwise.run.compute import compiler
from kernels_support import library

def limit(more):
    size = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size + more if more else resource.RLIM_INFINITY, resource.RLIM_INFINITY))

torch.set_num_threads(1)
objective = METHODS["dr_grpo"](max_tokens=64).objective
for compute, mib, context in (("modules", 220, 0), ("kernels", 100, 2000)):
    policy = tiny_policy()
    policy.model.resize_token_embeddings(151936, mean_resizing=False)
    learner = Learner(policy, Settings(micro_tokens=2**14, logit_chunk=2**28),
                      compile=compiler(library(), 1, "float32") if compute == "kernels" else None)
    batch = objective.weigh(packed(learner, groups_of(0, *((6, 3, 24) if context else (3, 3, 90))), objective))
    batch = type(batch)(**{**vars(batch), "contexts": tuple((*c, *range(3, 25)) * (1 + context // 20) for c in batch.contexts)})
    found = [gradient(learner, batch, objective)[0]]
    before = [learner.budget.micro_tokens, learner.budget.logit_chunk]
    learner.scorer.rest()
    limit(mib << 20)
    found.append(gradient(learner, batch, objective)[0])
    limit(0)
    print(*before, learner.budget.micro_tokens, learner.budget.logit_chunk, relative(found[1], found[0]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_the_real_vocabulary_under_a_limit_of_the_system():
    library()
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=300, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in done.stdout.splitlines():
        *before, micro_tokens, chunk, difference = map(float, line.split())
        assert before == [2**14, 2**28]
        assert micro_tokens < 2**14
        assert chunk <= 2**28
        assert difference < 1e-5
    assert done.stderr.count("out of memory in the gradient") >= 3


@pytest.mark.gpu
def test_a_limit_on_a_gpu():
    policy = tiny_policy()
    policy.model.resize_token_embeddings(151936, mean_resizing=False)
    policy.model.to("cuda")
    learner = Learner(policy, Settings(micro_tokens=2**16, logit_chunk=2**30))
    groups = groups_of(0, 8, 8, 200)
    batch = pack(groups, device="cuda")
    batch = OBJECTIVE.weigh(batch.with_columns({}, OBJECTIVE.credit(groups, batch, {})))
    whole, _ = gradient(learner, batch, OBJECTIVE)
    torch.cuda.empty_cache()
    most = torch.cuda.memory_allocated() + 2**30
    torch.cuda.set_per_process_memory_fraction(most / torch.cuda.get_device_properties(0).total_memory)
    try:
        parts, _ = gradient(learner, batch, OBJECTIVE)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert learner.budget.logit_chunk < 2**29
    assert relative(parts, whole) < 1e-4
