import os
import re
import shutil
import signal
import time
from dataclasses import replace

import chaos
import pytest
import torch
from learner_support import gradient, groups_of, packed, relative
from run_support import tiny_folder, tiny_policy, tiny_run

from groupwise.core.keyed import fold
from groupwise.core.rollout import Context
from groupwise.core.services import Request, Sampling
from groupwise.errors import ConfigError, EngineError, ObjectiveError, TrainingError
from groupwise.models.head import Want
from groupwise.models.load import load, save
from groupwise.run import machine, workers
from groupwise.run.assemble import method_of
from groupwise.run.compute import engine_of
from groupwise.run.learner_settings import LearnerSettings
from groupwise.run.learning import learner_of
from groupwise.run.loop import resume, train
from groupwise.run.policy import policy_for
from groupwise.run.settings import Run
from groupwise.run.shared import bytes_of
from groupwise.run.workers import Setup, Workers, deal

METHODS = {"dr_grpo": {}, "gspo": {}, "grpo": {"kl": 0.1}, "run_methods:reaching": {}, "run_methods:critic": {}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def running():
    """Two processes that the tests share, under "team"; another two if a test has ended them."""
    found = {}
    yield found
    if "team" in found:
        found["team"].close()


@pytest.fixture
def team(running):
    if "team" not in running or running["team"].closed:
        running["team"] = Workers(2)
    return running["team"]


def settings(model, name="dr_grpo", **changes):
    run = tiny_run(model, method=name, method_args=METHODS[name], dtype="float32", micro_tokens=60, **changes)
    return run, method_of(run, 8)


def learner(model, team, name="dr_grpo", **changes):
    """The learner of a method, shared with a team, and its objective."""
    run, method = settings(model, name, **changes)
    made = learner_of(run, policy_for(run.learner, model), method, model, workers=team)
    if team is not None:
        team.join(made, Setup(run, str(model)), method.objective)
    return made, method


def requests(max_tokens=12, temperature=1.0):
    contexts = [tuple(range(3, 3 + n)) for n in (4, 9, 2, 6, 6, 1, 5)]
    return [Request(Context(c), tuple(fold(7, i, s) for s in range(1 + i % 4)), Sampling(max_tokens, temperature))
            for i, c in enumerate(contexts)]


@pytest.mark.parametrize("name", METHODS)
def test_gradients_and_scores_are_those_of_one_process(name, model, team):
    found = []
    for shared in (None, team):
        one, method = learner(model, shared, name)
        default = "old" if method.update.steps > 1 else "self"
        needs = method.needs | {"old", "entropy", "sum_p2"}
        batch = packed(one, groups_of(3, groups=5), method.objective, default=default, needs=needs, shake=0.003)
        found.append((batch, *gradient(one, method.objective.weigh(batch), method.objective), one.apply()))
    (batch, flat, stats, _), (shared_batch, shared_flat, shared_stats, _) = found
    assert float(flat.norm()) > 1e-4
    assert relative(shared_flat, flat) < 1e-6
    assert shared_stats == pytest.approx(stats, rel=1e-5, abs=1e-6)
    for column, values in batch.columns.items():
        torch.testing.assert_close(shared_batch.columns[column], values, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_adapters_are_shared_beside_one_base(model, team):
    """With the reference, which is the base: what the others map is the policy once, and gradients of adapters only."""
    pytest.importorskip("peft")
    found = []
    for shared in (None, team):
        one, method = learner(model, shared, "grpo", lora_rank=4)
        with torch.no_grad():
            for p in one.parameters.values():
                p.add_(0.01)
        batch = packed(one, groups_of(3, groups=5), method.objective, needs=method.needs | {"old"})
        found.append((batch, *gradient(one, method.objective.weigh(batch), method.objective)))
    (batch, flat, _), (shared_batch, shared_flat, _) = found
    assert float((batch.columns["ref_logp"] - batch.columns["old_logp"]).abs().max()) > 1e-3
    assert relative(shared_flat, flat) < 1e-6
    for column, values in batch.columns.items():
        torch.testing.assert_close(shared_batch.columns[column], values, rtol=1e-5, atol=1e-6)
    size = sum(p.nbytes for p in one.policy.model.parameters())
    more = sum(p.nbytes for p in one.parameters.values())
    assert more < 0.25 * size
    assert size + more <= bytes_of(one, 1) < 1.1 * (size + more)


def test_weights_are_those_after_the_step_without_a_copy(model, team):
    after = []
    for shared in (None, team):
        one, method = learner(model, shared)
        for seed in range(3):
            batch = packed(one, groups_of(seed), method.objective)
            one.gradients(method.objective.weigh(batch), method.objective)
            one.gradients(method.objective.weigh(batch), method.objective)  # adds to what is there
            one.apply()
        after.append(torch.cat([p.detach().flatten() for p in one.parameters.values()]))
    start = torch.cat([p.flatten() for p in load(model).model.parameters()]).detach()
    assert relative(after[1] - start, after[0] - start) < 1e-3  # Adam's first steps divide by tiny numbers
    assert relative(after[1], after[0]) < 1e-5


@pytest.mark.parametrize("name", ["dr_grpo", "run_methods:reaching"])
def test_broken_and_idle_sequences_are_dropped_as_in_one_process(name, team, tmp_path):
    policy = tiny_policy()
    policy.model.config.tie_word_embeddings = False
    policy.model.lm_head.weight = torch.nn.Parameter(policy.model.lm_head.weight.detach().clone())
    save(policy, tmp_path / "untied")
    found = []
    for shared in (None, team):
        one, method = learner(tmp_path / "untied", shared, name)
        groups = groups_of(1, special=28)
        batch = packed(one, groups, method.objective)
        batch.credit["advantage"].values[4:8] = 0.0
        with torch.no_grad():
            one.policy.model.get_input_embeddings().weight[28] = torch.nan
        found.append(gradient(one, method.objective.weigh(batch), method.objective))
    (flat, stats), (shared_flat, shared_stats) = found
    assert stats["dropped_sequences"] == shared_stats["dropped_sequences"] == 1.0
    assert stats["idle_share"] == shared_stats["idle_share"] == (0.0 if "reaching" in name else pytest.approx(1 / 3, abs=0.1))
    assert float(flat.norm()) > 1e-4
    assert relative(shared_flat, flat) < 1e-6


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_completions_are_those_of_one_process(temperature, model, team):
    one, _ = learner(model, team)
    alone, shared = engine_of(load(model)), engine_of(one.policy, None, team)
    asked = requests(temperature=temperature)
    expected, made = alone.generate(asked), shared.generate(asked)
    assert [[c.tokens for c in some] for some in made] == [[c.tokens for c in some] for some in expected]
    logp = [torch.tensor([x for some in every for c in some for x in c.logp]) for every in (made, expected)]
    torch.testing.assert_close(*logp, rtol=1e-5, atol=1e-5)
    assert {name: shared.stats[name] for name in ("tokens", "prefill_tokens")} == {
        name: alone.stats[name] for name in ("tokens", "prefill_tokens")}
    shared.version = 5
    assert {c.versions[0].version for some in shared.generate(asked) for c in some} == {5}
    with torch.no_grad():  # the others see new weights at once
        one.policy.model.get_input_embeddings().weight.mul_(-1.0)
    assert [[c.tokens for c in some] for some in shared.generate(asked)] != [[c.tokens for c in some] for some in expected]
    with pytest.raises(EngineError, match="empty one"):
        shared.generate([*asked, replace(asked[0], context=Context(()))])
    assert shared.generate(asked[:1])  # a process without work, after an error that came before any was sent


def test_what_a_worker_raises_is_raised_here(model, team):
    one, method = learner(model, team)
    batch = packed(one, groups_of(0), method.objective)
    first, second = one._tasks(batch, range(batch.layout.size("sequence")), Want())
    (other,) = team.others
    with pytest.raises(ObjectiveError, match="log-probs of a model 'nobody' that was not loaded"):
        team.run([first, replace(second, model="nobody")], one.work)
    assert team.closed
    assert other.process.poll() is not None
    with pytest.raises(TrainingError, match="have ended: resume"):
        team.run([first, second], one.work)


def test_an_error_of_another_kind_comes_with_its_trace(model, team):
    learner(model, team)
    (other,) = team.others
    other.ask("generate", "nonsense")
    with pytest.raises(TrainingError, match=r"(?s)a worker process failed: TypeError: .*Traceback.*generate"):
        other.answer(60.0)


def test_a_worker_ends_when_the_other_end_is_closed(model, team):
    (other,) = team.others
    other.end.close()
    try:
        assert other.process.wait(60.0) == 0
    finally:
        team.close()


@pytest.mark.parametrize(("fault", "said"), [
    (signal.SIGKILL, r"a worker process ended \(killed by SIGKILL\): resume the run"),
    (signal.SIGSTOP, r"gave no answer within 2 s and was ended")])
def test_a_dead_or_hung_worker_is_found(fault, said, model, monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 2.0)
    with Workers(2) as team:
        (other,) = team.others
        os.kill(other.process.pid, fault)
        began = time.monotonic()
        with pytest.raises(TrainingError, match=said):
            engine_of(learner(model, team)[0].policy, None, team).generate(requests())
        assert time.monotonic() - began < 20.0
        assert other.process.poll() is not None


@pytest.mark.slow
def test_a_run_of_two_processes_resumes_bit_for_bit(model, tmp_path, capsys):
    run = tiny_run(model, workers=2, steps=chaos.STEPS, eval_every=3, checkpoint_every=2)
    whole = train(run, tmp_path / "whole")
    broken = shutil.copytree(whole, tmp_path / "broken" / whole.name)
    state = broken / chaos.LAST / "state.json"
    state.write_bytes(state.read_bytes()[:-3])
    resume(broken)
    assert "going on after step 4" in capsys.readouterr().out
    assert chaos.differences(broken, whole) == []
    assert re.search(r"^workers = 2$", (whole / "run.toml").read_text(), re.MULTILINE)


def test_how_many_processes(monkeypatch):
    def chosen(parameters=2_000_000, kernels=False, device="cpu", cores=2, **learner):
        monkeypatch.setattr(machine, "cores", lambda: cores)
        found = machine.with_threads(Run(learner=LearnerSettings(**learner)), parameters, kernels, device).learner
        return found.workers, found.threads

    assert chosen() == (2, 1)
    assert chosen(cores=1) == chosen(device="cuda:0") == chosen(workers=1) == (1, 1)
    assert chosen(kernels=True) == chosen(threads=2) == chosen(parameters=10**9) == (1, 2)
    assert chosen(workers=3, cores=8) == chosen(workers=3, parameters=10**9) == (3, 1)
    with pytest.raises(ConfigError, match="workers=2 on cuda: several processes share a processor's memory"):
        chosen(workers=2, device="cuda")
    with pytest.raises(ConfigError, match="take workers=1 and threads=2, or compute=modules"):
        Run(learner=LearnerSettings(workers=2, compute="kernels"))


def test_shares_are_alike_whole_and_the_same_again():
    asked = requests()
    shares = deal(asked, 2)
    assert sorted(i for share in shares for i in share) == list(range(len(asked)))
    assert shares == deal(asked, 2)
    first, second = (sum(len(asked[i].streams) * 12 + len(asked[i].context.tokens) for i in share) for share in shares)
    assert abs(first - second) <= 24
    assert deal([asked[0]] * 5, 2) == [[0, 2, 4], [1, 3]]
