"""Golden vectors through the shipped methods; all of them, through any composition, are in test_lab_conformance.py."""

from dataclasses import replace

import numpy as np
import pytest
from objectives_support import group, rollout, turn

from groupwise.core.verdict import Component
from groupwise.lab import conformance
from groupwise.lab.adapters import adapt
from groupwise.lab.fixture import Table
from groupwise.lab.outcome import outcome
from groupwise.methods import METHODS
from groupwise.verify.shaping import SoftOverlong

DATA = conformance.load()
MAIN, VECTORS = DATA["fixtures"]["main"], {v["id"]: v for v in DATA["vectors"]}
WIDE, BOTH = {"clip_low": 0.2, "clip_high": 0.28}, pytest.mark.parametrize("padded", [False, True])
SHIPPED = {
    "loss.grpo.trl": ("grpo", {"kl": 0.0}), "loss.grpo_onpolicy.trl": ("grpo", {"kl": 0.0}),
    "loss.grpo_beta_plain.trl": ("grpo", {"kl": 0.05}), "loss.grpo_fully_masked_rows.trl": ("grpo", {"kl": 0.0}),
    "loss.grpo_beta_is.trl": ("grpo", {"kl": 0.05, "kl_estimator": "k3_weighted"}),
    "loss.dr_grpo.trl": ("dr_grpo", {"max_tokens": 8}), "loss.dapo.trl": ("dapo", {"max_tokens": 8}),
    "loss.dapo.verlA": ("dapo", {"max_tokens": 8, "dual": 10.0}),
    "loss.bnpo.trl": ("dapo", {"max_tokens": 8, "clip_high": 0.2, "micro_batch_means": True}),
    "loss.gspo_seq.trl": ("gspo", {}), "loss.gspo_seq_wide.trl": ("gspo", WIDE), "loss.gspo_wide.openrlhf": ("gspo", WIDE),
    "loss.gspo_kl+policy_loss.slime": ("gspo", WIDE), "loss.gspo_token.trl_git": ("gspo_token", {}),
    "loss.gspo_token_wide.trl_git": ("gspo_token", WIDE), "loss.gspo_3e-4_4e-4.verlA": ("gspo_token", {}),
    "loss.cispo_eh5.0.trl": ("cispo", {}), "loss.cispo_0.2_0.2.verlA": ("cispo", {"clip_low": 0.2, "clip_high": 0.2}),
    "loss.cispo_minimax_low1_high4.verlB": ("cispo", {}), "loss.luspo_seq.trl": ("luspo", {"clip_low": 0.2, "clip_high": 0.25}),
    "loss.gmpo.trl": ("gmpo", {}), "loss.sapo.trl": ("sapo", {}), "loss.vespo.trl": ("vespo", {}), "loss.gpg.verlA": ("gpg", {}),
    "loss.dppo_tv.verlB": ("dppo", {}), "loss.dppo_kl.verlB": ("dppo", {"measure": "kl"}),
    "loss.kl_cov_0.2.verlA": ("kl_cov", {"share": 0.2}),
    "loss.clip_cov_all.verlA": ("clip_cov", {"share": 0.5, "low": 0.2, "high": 5.0}),
    "loss.reinforce_batch_baseline.eq": ("reinforce", {}), "loss.kimi_k1.5_mirror_descent.eq": ("kimi", {}),
}


@BOTH
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_method_is_the_objective_of_the_vector(name, padded):
    """Its terms on the vector's advantages, at the padding too; the vector's own credit is compared elsewhere."""
    method, arguments = SHIPPED[name]
    case = adapt(VECTORS[name], MAIN)
    made = replace(METHODS[method](**arguments).objective, credit_by=case.objective.credit_by)
    result, expected = outcome(Table(replace(case, objective=made), MAIN, padded)), VECTORS[name]["expected"]
    limit = conformance.tolerance(VECTORS[name])
    assert result.loss() == pytest.approx(expected["loss"], abs=limit)
    assert conformance.distance(result.grad(), expected["grad"], result.table.mask) <= limit


@BOTH
@pytest.mark.parametrize(("name", "method", "arguments"), [
    ("loss.grpo.trl", "grpo", {"kl": 0.0}), ("loss.dapo.trl", "dapo", {"max_tokens": 8}), ("loss.gspo_seq.trl", "gspo", {}),
    ("loss.cispo_eh5.0.trl", "cispo", {}), ("loss.reinforce_batch_baseline.eq", "reinforce", {})])
def test_the_real_rewards_give_the_fixture_s_losses_up_to_its_rounding(name, method, arguments, padded):
    case = replace(adapt(VECTORS[name], MAIN), objective=METHODS[method](**arguments).objective, rewards=MAIN["rewards"])
    result, expected = outcome(Table(case, MAIN, padded)), VECTORS[name]["expected"]
    assert result.loss() == pytest.approx(expected["loss"], abs=1e-6)
    np.testing.assert_allclose(result.grad(), expected["grad"], atol=1e-6)


@pytest.mark.parametrize("name", ["reward.soft_overlong.eq", "reward.soft_overlong.trl"])
def test_soft_overlong_is_a_component_of_the_reward(name):
    config, expected = VECTORS[name]["config"], VECTORS[name]["expected"]["penalty"]
    limit, cache = (config.get(a, config.get(b)) for a, b in (("L_max", "max_completion_len"), ("L_cache", "soft_punish_cache")))
    shaped = SoftOverlong(limit, cache)(group("g", *(rollout(1.0, turn(range(n))) for n in config["lengths"])))
    np.testing.assert_allclose(shaped.rewards - 1.0, expected, atol=1e-9)
    assert {r.components[-1].name for r in shaped.rollouts} == {"overlong"}
    assert Component("overlong", expected[0]) == shaped.rollouts[0].components[-1]
