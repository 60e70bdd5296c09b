"""The entropy bonus: fixed, or held at a target by the method's state."""

import shutil
from pathlib import Path

import chaos
import numpy as np
import pytest
import torch
from objectives_support import gradients, group, ragged, rollout, turn
from run_support import tiny_folder, tiny_run

from groupwise.errors import ConfigError, ObjectiveError
from groupwise.methods import METHODS
from groupwise.methods.entropy import AdaptiveEntropy, sampled_entropy
from groupwise.objective.terms import Live
from groupwise.run.disk import read_lines
from groupwise.run.loop import resume, train


def step(entropy):
    """A group whose tokens were sampled at this entropy, besides one that is not trained on and one without a log-prob."""
    logp = [-entropy - 0.1, -entropy + 0.1, -9.0]
    return [group("g", rollout(1.0, turn((0, 1, 2), logp, untrained=1)), rollout(0.0, turn((3,), [np.nan])))]


def test_the_coefficient_follows_the_target():
    state, used = AdaptiveEntropy(target=0.5, start=0.01), []
    for entropy in (0.4, 0.4, 0.6, 0.5, 0.4, 0.6, 0.6, 0.6, 0.6, 0.4):
        state.observe(step(entropy))
        used.append(state.coefficients()["entropy"])
    # raised below the target, lowered above it and at it, applied only at or below it, never negative
    assert used == pytest.approx([0.01, 0.015, 0.0, 0.015, 0.01, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert state.current == pytest.approx(0.005)


def test_without_a_token_nothing_is_applied_and_nothing_moves():
    state = AdaptiveEntropy(target=0.5, start=0.01)
    assert sampled_entropy([]) is None
    state.observe([])
    assert (state.coefficients()["entropy"], state.current) == (0.0, 0.01)


def test_the_state_comes_back():
    state, other = AdaptiveEntropy(target=0.5), AdaptiveEntropy(target=0.5)
    state.observe(step(0.1))
    other.load_state_dict(state.state_dict())
    assert other == state


@pytest.mark.parametrize("factor", [0.0, 0.02])
def test_a_factor_of_a_step_is_that_coefficient(factor):
    """The method's own objective with a factor is the objective with that coefficient written in."""
    case, fixed = ragged(0), METHODS["grpo"](kl=0.0, entropy=factor).objective
    adaptive = METHODS["grpo"](kl=0.0, entropy_target=0.5).objective
    found = []
    for made, factors in ((adaptive, {"entropy": factor}), (fixed, {})):
        batch = made.weigh(case.prepared(made), factors=factors)
        entropy = case.table["ref_logp"][batch.tokens].clone().requires_grad_()
        loss = made.loss(Live(logp=case.table["logp"][batch.tokens], entropy=entropy), batch).value
        loss.backward() if factor else None
        found.append((float(loss.detach()), entropy.grad))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-15)
    if factor:
        torch.testing.assert_close(found[0][1], found[1][1])
        assert float(found[0][1].abs().max()) > 0


def test_a_factor_for_no_term_is_refused():
    case, made = ragged(0), METHODS["dapo"](max_tokens=16).objective
    with pytest.raises(ObjectiveError, match="'entropi'"):
        made.weigh(case.prepared(made), factors={"entropi": 1.0})
    assert gradients(made, [made.weigh(case.prepared(made))], case.table)[0]


@pytest.mark.parametrize("name", ["grpo", "dapo"])
def test_arguments(name):
    def make(**arguments):
        return METHODS[name](**({"max_tokens": 16} if name == "dapo" else {}), **arguments)
    assert "entropy" not in [t.name for t in make().objective.terms]
    (term,) = [t for t in make(entropy=0.01).objective.terms if t.name == "entropy"]
    assert term.coef == 0.01
    assert make(entropy=0.01).state().coefficients() == {}
    state = make(entropy=0.01, entropy_target=0.3).state()
    assert (state.target, state.current) == (0.3, 0.01)
    with pytest.raises(ConfigError, match="must not be negative"):
        make(entropy=-0.1)


def test_a_run_shows_its_coefficient_and_goes_on_with_it(tmp_path):
    arguments = {"kl": 0.0, "entropy": 0.02, "entropy_target": 3.45}
    run = tiny_run(tiny_folder(tmp_path / "model"), method="grpo", method_args=arguments, steps=chaos.STEPS, eval_every=3,
                   checkpoint_every=2)
    whole = train(run, tmp_path)
    rows = read_lines(whole / "metrics.jsonl")
    current = 0.02
    for row in rows:
        entropy = row["surprise"]  # of all tokens drawn, which here are those trained on
        assert row["coef/entropy"] == pytest.approx(current if entropy <= 3.45 else 0.0)
        current = max(0.0, current + (0.005 if entropy < 3.45 else -0.005))
    assert len({row["coef/entropy"] for row in rows}) > 2
    copy = Path(shutil.copytree(whole, tmp_path / "copy" / whole.name))
    shutil.rmtree(copy / chaos.LAST)
    resume(copy)
    assert chaos.differences(copy, whole) == []


def test_a_bonus_keeps_the_entropy_up(tmp_path):
    model, found = tiny_folder(tmp_path / "model"), []
    for entropy in (0.0, 0.3):
        run = tiny_run(model, f"e{entropy}", method="grpo", method_args={"kl": 0.0, "entropy": entropy}, steps=12)
        found.append(read_lines(train(run, tmp_path) / "metrics.jsonl")[-1]["entropy"])
    assert found[1] > found[0] + 0.05
