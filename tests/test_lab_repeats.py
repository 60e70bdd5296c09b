from dataclasses import replace

import numpy as np
import pytest
import torch
from run_support import tiny_folder, tiny_run

from groupwise.lab.repeats import gram, repeated, signs, variance
from groupwise.run.assemble import assemble
from groupwise.run.config import resolved


def test_the_variance_is_that_of_the_gradients():
    vectors = torch.from_numpy(np.random.default_rng(0).normal(0.5, 1.0, size=(6, 40)))
    found, g = variance(gram(list(vectors))), vectors.numpy()
    assert found["spread"] == pytest.approx(np.cov(g.T).trace())
    assert found["signal"] == pytest.approx((np.square(g.sum(0)).sum() - np.square(g).sum()) / 30)
    assert found["noise"] == pytest.approx(found["spread"] / found["signal"])
    assert found["noise_low"] <= found["noise"] <= found["noise_high"]


def test_the_estimate_of_the_signal_is_unbiased():
    random, mean = np.random.default_rng(1), np.full(10, 0.2)
    found = [variance(gram([torch.from_numpy(x) for x in random.normal(mean, 1.0, (2, 10))])) for _ in range(2000)]
    assert np.mean([f["signal"] for f in found]) == pytest.approx(mean @ mean, abs=0.25)
    assert np.mean([f["spread"] for f in found]) == pytest.approx(10.0, abs=0.5)


@pytest.fixture
def job(tmp_path):
    made = assemble(resolved(tiny_run(tiny_folder(tmp_path / "base"), group_size=2)), tmp_path)
    with made.workers, made.grader:
        yield made


def test_repeats_are_of_the_same_prompts_and_do_not_move_the_weights(job):
    before = job.learner.snapshot()
    found = repeated(job, 4)
    assert all(torch.equal(x, before[name]) for name, x in job.learner.parameters.items())
    assert (found["repeats"], found["prompts"]) == (4, 4)
    assert found["spread"] > 0
    assert all(0.0 <= found[name] <= 1.0 for name in ("flipped", "lost", "empty"))


def test_signs_are_those_of_the_rewards_less_their_means(job):
    plans = job.sampler.draw(0)
    drawn = [job.sampler.generate([replace(plan, visit=1000 * r + i) for i, plan in enumerate(plans)]) for r in range(8)]
    small, large = [], []
    for groups in zip(*drawn, strict=True):
        pool = np.concatenate([g.rewards for g in groups])
        for g in groups:
            small += list(g.rewards - g.rewards.mean())
            large += list(g.rewards - pool.mean())
    s, b = np.where(np.abs(small) > 1e-9, np.sign(small), 0), np.where(np.abs(large) > 1e-9, np.sign(large), 0)
    found = signs(job, drawn)
    assert {(s * b < 0).any(), (s == 0).any()} == {True}  # the sample shows both
    assert found["flipped"] == pytest.approx((s * b < 0).sum() / (s * b != 0).sum())
    assert found["lost"] == pytest.approx(((s == 0) & (b != 0)).sum() / (b != 0).sum())
    assert found["empty"] == pytest.approx(np.mean([s[i] == 0 for i in range(0, len(s), 2)]))
