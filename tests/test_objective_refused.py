"""Compositions that would count something twice, or shrink everything, are refused with the reason."""

import pytest
from objectives_support import RAW

from groupwise.errors import ConfigError, ObjectiveError
from groupwise.methods import METHODS
from groupwise.methods.method import Method
from groupwise.methods.update import Minibatches
from groupwise.objective.correction import Masked, Truncated, Uncorrected
from groupwise.objective.credit import Advantage, Blend, RewardMinusKl, kl_in_reward
from groupwise.objective.objective import Objective
from groupwise.objective.penalties import Kl
from groupwise.objective.returns import Gae
from groupwise.objective.terms import Policy
from groupwise.objective.trust import Clip, DetachClip

IN_REWARD = Advantage(signal=RewardMinusKl(0.1))


@pytest.mark.parametrize("correction", [Truncated(), Masked()])
def test_a_correction_of_recorded_ratios(correction):
    objective = Objective(RAW, (Policy(),), correction)
    assert Method(objective).divides_by == "self"
    with pytest.raises(ConfigError, match=rf"count the mismatch .* twice: take Uncorrected|{type(correction).__name__}"):
        Method(objective, behaviour="recorded")
    with pytest.raises(ObjectiveError, match="'policy' sees tokens of behaviour 'recorded'"):
        Objective(RAW, (Policy(of_behaviour=("recorded",)),), correction)


def test_recorded_ratios_without_a_correction():
    method = Method(Objective(RAW, (Policy(of_behaviour=("recorded",)),), Uncorrected()), behaviour="recorded",
                    update=Minibatches(2))
    assert method.divides_by == "recorded"
    assert method.needs == frozenset()  # no pass before the first update
    assert Objective(RAW, (Policy(corrected="none", of_behaviour=("recorded",)),), Truncated())
    with pytest.raises(ConfigError, match="'old' or 'recorded', got 'none'"):
        Method(Objective(RAW, (Policy(),)), behaviour="none")


@pytest.mark.parametrize(("credit", "expected"), [
    (IN_REWARD, True), (Advantage(signal=RewardMinusKl(0.0)), False), (RAW, False), (Gae(kl=0.1), True), (Gae(), False),
    (Blend(((1.0, RAW), (0.5, IN_REWARD))), True),
])
def test_a_penalty_in_the_reward_and_one_in_the_loss(credit, expected):
    assert kl_in_reward(credit) == expected
    assert Objective(credit, (Policy(), Kl(coef=0.0)))
    assert Objective(credit, (Policy(), Kl(coef=0.1, against="teacher:judge", needs=frozenset({"teacher:judge"}))))
    if expected:
        with pytest.raises(ObjectiveError, match="in the reward and in the loss"):
            Objective(credit, (Policy(), Kl(coef=0.1)))
    else:
        assert Objective(credit, (Policy(), Kl(coef=0.1)))


def test_two_penalties_in_the_loss():
    with pytest.raises(ObjectiveError, match=r"two KL terms against 'ref_logp' \(kl, more\)"):
        Objective(RAW, (Policy(), Kl(), Kl(name="more", estimator="k2")))
    assert Objective(RAW, (Policy(), Kl(), Kl(name="more", against="teacher:judge", needs=frozenset({"teacher:judge"}))))


def test_methods_refuse_them_too():
    with pytest.raises(ConfigError, match="set one of them to 0"):
        METHODS["grpo"](kl=0.1, kl_in_reward=0.1)


def test_a_cap_below_one():
    for bounds in ({"high": -0.72}, {"low": -0.1}):
        with pytest.raises(ObjectiveError, match="a cap below 1 would shrink"):
            DetachClip(**bounds)
    with pytest.raises(ObjectiveError, match="offsets from 1"):
        Clip(high=-0.1)


def test_the_cap_of_cispo_as_a_ratio_or_as_an_offset():
    assert METHODS["cispo"](cap=5.0).objective.hash == METHODS["cispo"]().objective.hash
    with pytest.raises(ConfigError, match=r"shrink the weight of every token.*clip_high=0\.28"):
        METHODS["cispo"](cap=0.28)
    with pytest.raises(ConfigError, match="both bound the ratio"):
        METHODS["cispo"](cap=5.0, clip_high=0.28)
