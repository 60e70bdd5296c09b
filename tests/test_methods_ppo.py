"""PPO with a critic: against its equations in plain loops, and as a run that learns, is killed and goes on."""

import shutil
from dataclasses import replace
from pathlib import Path

import chaos
import numpy as np
import pytest
import torch
from objectives_support import Case, ragged
from run_support import tiny_folder, tiny_run

from groupwise.errors import ConfigError
from groupwise.learner.observe import Meter
from groupwise.methods import METHODS
from groupwise.methods.update import Minibatches, Once
from groupwise.objective.batch import pack
from groupwise.objective.terms import Live
from groupwise.run.disk import read_lines
from groupwise.run.loop import resume, train

SEEDS = range(4)


def prepared(method, case: Case, before):
    batch = pack(case.groups, default="old", dtype=torch.float64)
    needed = {name: case.table[name][batch.tokens] for name in ("old_logp", "ref_logp")} | {"values": before[batch.tokens]}
    batch = batch.with_columns(needed, method.objective.credit(case.groups, batch, needed))
    return method.objective.weigh(batch)


def by_hand(case, before, now, *, gamma, lam, beta, whiten, coef, clip):
    """The loss of PPO, token by token; the episodes of a ragged case have tokens that are not trained on, which are skipped."""
    old, ref, logp = (case.table[name].numpy() for name in ("old_logp", "ref_logp", "logp"))
    advantages, returns, masked = {}, {}, set()
    for rollout in [r for g in case.groups for r in g.rollouts]:
        tokens = [t for turn in rollout.episode.turns for t in turn.completion.tokens if case.trained[t]]
        after, carried = 0.0, 0.0
        for place, t in reversed(list(enumerate(tokens))):
            reward = (rollout.reward if place == len(tokens) - 1 else 0.0) - beta * (old[t] - ref[t])
            carried = reward + gamma * after - before[t] + gamma * lam * carried
            advantages[t], returns[t], after = carried, carried + before[t], before[t]
        masked |= set(tokens) if rollout.masked else set()
    if whiten:
        every = np.array(list(advantages.values()))
        advantages = {t: (a - every.mean()) / np.sqrt(every.var(ddof=1) + 1e-8) for t, a in advantages.items()}
    total = 0.0
    for t, a in advantages.items():
        if t not in masked:
            rho = np.exp(logp[t] - old[t])
            held = before[t] + min(max(now[t] - before[t], -clip), clip)
            total -= min(rho * a, min(max(rho, 0.8), 1.2) * a)
            total += coef * 0.5 * max((now[t] - returns[t]) ** 2, (held - returns[t]) ** 2)
    return total / len(advantages)


@pytest.mark.parametrize("arguments", [{}, {"whiten": False, "lam": 0.9, "gamma": 0.97}, {"kl_in_reward": 0.2, "lam": 0.5}])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_loss_is_that_of_the_equations(seed, arguments):
    case, rng, method = ragged(seed, cut=0.0), np.random.default_rng(seed), METHODS["ppo"](**arguments)
    before = rng.normal(size=len(case.trained))
    now = before + 0.3 * rng.normal(size=len(before))
    batch = prepared(method, case, torch.from_numpy(before))
    live = Live(logp=case.table["logp"][batch.tokens], values=torch.from_numpy(now)[batch.tokens])
    said = {"gamma": 1.0, "lam": 1.0, "whiten": True} | {k: v for k, v in arguments.items() if k != "kl_in_reward"}
    expected = by_hand(case, before, now, beta=arguments.get("kl_in_reward", 0.0), coef=0.5, clip=0.2, **said)
    assert float(method.objective.loss(live, batch).value) == pytest.approx(expected, rel=1e-9)


def test_what_is_asked_for_follows_from_the_arguments():
    plain, full = METHODS["ppo"](), METHODS["ppo"](kl_in_reward=0.1, entropy=0.01, value_clip=0.0, minibatches=2, epochs=3)
    assert plain.needs == {"values", "old"}
    assert full.needs == {"values", "old", "ref"}
    assert [t.name for t in full.objective.terms] == ["policy", "value", "entropy"]
    assert full.objective.terms[1].clip is None
    assert (plain.update, full.update) == (Minibatches(4), Minibatches(2, 3))
    once = METHODS["ppo"](minibatches=1)
    assert (once.update, once.needs, once.divides_by) == (Once(), {"values"}, "self")


def test_whitening_leaves_out_what_abstains():
    case = ragged(1)
    gone = case.map(lambda i, r: replace(r, components=()) if i == 0 else r)
    method = METHODS["ppo"]()
    batch = prepared(method, gone, torch.zeros(len(case.trained), dtype=torch.float64))
    advantage = batch.column("advantage")[batch.counted & (batch.ids("token", "group") != 0)]
    assert abs(float(advantage.mean())) < 1e-12
    assert float(advantage.var()) == pytest.approx(1.0, abs=1e-6)
    assert not bool((batch.loss_mask & (batch.ids("token", "group") == 0)).any())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("tiny") / "model")


RUNS = {"modules": {}, "processes": {"workers": 2}, "kernels": {"compute": "auto"}}


@pytest.mark.parametrize("way", ["modules", pytest.param("processes", marks=pytest.mark.slow), "kernels"])
def test_it_learns_and_the_critic_with_it(way, model, tmp_path):
    run = tiny_run(model, method="ppo", method_args={"minibatches": 2}, steps=16, prompts_per_step=8, value_lr=1e-2, **RUNS[way])
    rows = read_lines(train(run, tmp_path) / "metrics.jsonl")
    early, late = ([float(np.mean([row[name] for row in some])) for name in ("reward", "value_mean", "loss/value")]
                   for some in (rows[:3], rows[-3:]))
    assert late[0] > early[0] + 0.15
    assert late[1] > early[1] + 0.1  # the values follow the reward
    assert rows[0]["value_mean"] == 0.0
    assert all(row["explained_variance"] <= 1.0 for row in rows if "explained_variance" in row)
    assert all(row["skipped_steps"] == 0 and row["optimiser_steps"] == 2 for row in rows)


@pytest.mark.parametrize("way", ["modules", pytest.param("processes", marks=pytest.mark.slow)])
def test_a_run_that_goes_on_ends_like_one_that_never_stopped(way, model, tmp_path):
    """The head is in the checkpoint, with the optimiser's moments for it."""
    run = tiny_run(model, method="ppo", method_args={"kl_in_reward": 0.05, "entropy": 0.01}, steps=chaos.STEPS, eval_every=3,
                   checkpoint_every=2, **RUNS[way])
    whole = train(run, tmp_path)
    copy = Path(shutil.copytree(whole, tmp_path / "copy" / whole.name))
    shutil.rmtree(copy / chaos.LAST)
    resume(copy)
    assert chaos.differences(copy, whole) == []


def test_the_metrics_of_a_critic():
    case, method = ragged(2, masked=0.0), METHODS["ppo"](whiten=False)
    before = torch.from_numpy(np.random.default_rng(0).normal(size=len(case.trained)))
    batch = prepared(method, case, before)
    now = torch.where(batch.counted, before[batch.tokens] + torch.where(batch.tokens % 2 == 0, 0.3, 0.1), 0.0)
    live, meter = Live(logp=case.table["logp"][batch.tokens], values=now), Meter()
    for part in np.array_split(np.arange(batch.layout.size("sequence")), 3):  # as micro-batches
        micro = batch.take(part)
        at = torch.from_numpy(np.isin(batch.layout.ids("token", "sequence"), part))
        piece = Live(logp=live.logp[at], values=now[at])
        meter.add(method.objective.loss(piece, micro), piece, micro)
    found, mask = meter.result(), batch.counted.numpy()
    returns, values = batch.column("returns").numpy()[mask], batch.columns["values"].numpy()[mask]
    assert found["explained_variance"] == pytest.approx(1 - (returns - values).var() / returns.var())
    assert found["value_mean"] == pytest.approx(values.mean())
    assert found["return_mean"] == pytest.approx(returns.mean())
    assert found["value_clipped"] == pytest.approx((batch.tokens.numpy()[mask] % 2 == 0).mean())
    assert found["loss/policy"] + 0.5 * found["loss/value"] == pytest.approx(found["loss"])


def test_a_single_rollout_of_each_prompt_is_enough(model, tmp_path):
    rows = read_lines(train(tiny_run(model, method="ppo", group_size=1, prompts_per_step=8), tmp_path) / "metrics.jsonl")
    assert all(row["grad_norm"] > 0 for row in rows)


def test_a_rate_of_the_head_that_cannot_be(model):
    with pytest.raises(ConfigError, match="value_lr"):
        tiny_run(model, value_lr=-1.0)
