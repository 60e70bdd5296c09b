"""Objectives as a whole: what is dropped, who weighs what, what is refused, what the parts declare."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from objectives_support import FIVE, TWO, gradients, group, objective, rollout, run, tensor, turn, weighed

from groupwise.core.rollout import Span
from groupwise.errors import ObjectiveError
from groupwise.methods import METHODS
from groupwise.objective.aggregate import Constant, SequenceMean, SequenceSum, TokenMean, UnitMean
from groupwise.objective.batch import Column, pack
from groupwise.objective.correction import Masked, Truncated
from groupwise.objective.penalties import Entropy, Kl
from groupwise.objective.ratio import SequenceRatio
from groupwise.objective.terms import Joint, Live, Policy, Shared, Supervised, Term, base_logp
from groupwise.objective.trust import Clip, DetachClip, LogProb, Unclipped

# what is not finite is dropped and counted


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["logp", "old_logp", "ref_logp"])
def test_a_non_finite_log_prob_drops_its_token_and_is_counted(where, bad):
    made = objective(Policy(), Kl(coef=0.1))
    values = {"logp": FIVE, "old_logp": [x - 0.05 for x in FIVE], "ref_logp": [x + 0.1 for x in FIVE]}
    spoilt = values | {where: [bad if i == 1 else x for i, x in enumerate(values[where])]}

    def of(v):
        batch = weighed(made, TWO, {k: tensor(v[k]) for k in ("old_logp", "ref_logp")}, default="old")
        return run(made, batch, v["logp"])

    (clean, before), (loss, after) = of(values), of(spoilt)
    assert (clean.dropped, loss.dropped) == (0, 1)
    assert after[1] == 0.0
    kept = [0, 2, 3, 4]
    np.testing.assert_array_equal(after[kept], before[kept])  # the denominators are those of the whole step
    assert bool(torch.isfinite(loss.value))


def test_a_non_finite_log_prob_drops_its_row_from_a_sequence_ratio_and_nothing_else():
    made = objective(Policy(ratio=SequenceRatio(), aggregate=SequenceMean()), Kl(coef=0.1))
    values = {"old_logp": tensor([x - 0.05 for x in FIVE]), "ref_logp": tensor([x + 0.1 for x in FIVE])}
    batch = weighed(made, TWO, values, default="old")
    _, before = run(made, batch, FIVE)
    loss, after = run(made, batch, [FIVE[0], float("nan"), *FIVE[2:]])
    assert loss.dropped == 1
    assert [s.mask.tolist() for s in loss.seen] == [[False] * 3 + [True] * 2, [True, False, True, True, True]]
    np.testing.assert_array_equal(after[3:], before[3:])
    assert after[1] == 0.0
    only = objective(Kl(coef=0.1, aggregate=SequenceMean()))
    alone = gradients(only, [weighed(only, TWO, values, default="old")], {"logp": tensor(FIVE)})[1]
    np.testing.assert_allclose(after[[0, 2]], alone[[0, 2]], atol=1e-15)  # of the first row only the KL is left


def test_a_wholly_broken_batch_has_no_loss_and_no_gradient():
    of_sequences = Policy(ratio=SequenceRatio(), aggregate=SequenceMean())
    for term in (Policy(), of_sequences, Policy(trust=LogProb(), aggregate=SequenceSum())):
        loss, gradient = run(objective(term), weighed(objective(term), TWO), [float("nan")] * 5)
        assert (loss.value.item(), loss.dropped, gradient.tolist()) == (0.0, 5, [0.0] * 5)


@dataclass(frozen=True, kw_only=True)
class Probability(Term):
    """A loss that is not linear in the log-prob."""

    name: str = "probability"

    def losses(self, live, batch, mask, correction):
        return live.logp.exp()


def test_a_term_need_not_know_of_broken_log_probs():
    made = objective(Probability(aggregate=TokenMean()))
    loss, gradient = run(made, weighed(made, TWO), [float("inf"), 0.0, float("nan"), 0.0, 0.0])
    assert (loss.value.item(), loss.dropped) == (pytest.approx(3 / 5), 2)
    assert gradient.tolist() == [0.0, 1 / 5, 0.0, 1 / 5, 1 / 5]


def test_a_masked_row_of_a_sequence_ratio_does_not_become_a_ratio_of_one():
    groups = [group("g", replace(TWO[0].rollouts[0], masked=True), TWO[0].rollouts[1])]
    made = objective(Policy(ratio=SequenceRatio(), aggregate=SequenceMean()))
    loss, gradient = run(made, weighed(made, groups), FIVE)
    assert loss.value.item() == pytest.approx(2.0 / 2)  # -w A of the second row alone, over both rows
    assert gradient[:3].tolist() == [0.0] * 3


def test_credit_that_abstains_leaves_the_numerators_only():
    groups = [group("g", *TWO[0].rollouts, rollout(None, turn((5, 6, 7))))]
    made = objective(Policy(aggregate=TokenMean()))
    batch = weighed(made, groups)
    assert batch.loss_mask.tolist() == [True] * 5 + [False] * 3
    assert batch.weights["policy"].values.tolist() == [1 / 8] * 5 + [0.0] * 3
    assert made.idle(batch).tolist() == [False, False, True]
    loss, gradient = run(made, batch, [*FIVE, float("nan"), 0.0, 1e9])
    assert (loss.dropped, gradient[5:].tolist()) == (0, [0.0] * 3)  # what nobody trains on is not missing


def test_columns_and_credit_add_up():
    batch = weighed(objective(Policy()), TWO)
    again = batch.with_columns({"values": tensor(FIVE)}, {"returns": Column("token", np.ones(5))})
    assert set(again.credit) == {"advantage", "returns"}
    assert set(again.columns) == {"engine_logp", "values"}


# weights


def test_shared_weights_are_those_of_the_other_term():
    made = objective(Kl(coef=0.5), Policy(aggregate=SequenceMean()), Entropy(coef=0.1))
    batch = weighed(made, TWO, {"ref_logp": tensor(FIVE)})
    expected = [1 / 6] * 3 + [1 / 4] * 2
    for name in ("kl", "policy", "entropy"):
        np.testing.assert_allclose(batch.weights[name].values, expected, rtol=1e-15)
    loss, _ = run(made, batch, FIVE, entropy=tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    bonus = sum(w * h for w, h in zip(expected, [1, 2, 3, 4, 5], strict=True))
    policy = -sum(w * a for w, a in zip(expected, [1, 1, 1, -2, -2], strict=True))
    assert loss.value.item() == pytest.approx(policy - 0.1 * bonus)


def teacher(*tokens):
    return turn(tokens, spans=(Span(0, len(tokens), "teacher", "unknown"),))


def test_joint_weights_count_the_tokens_of_both_terms():
    groups = [group("g", rollout(1.0, turn((0, 1, 2))), rollout(1.0, teacher(3, 4)))]
    own = Policy(of_behaviour=("self",), aggregate=TokenMean())
    apart = weighed(objective(own, Supervised(aggregate=TokenMean())), groups)
    assert apart.weights["policy"].values.tolist() == [1 / 3] * 3 + [0.0] * 2
    assert apart.weights["supervised"].values.tolist() == [0.0] * 3 + [1 / 2] * 2
    rule = Joint(TokenMean(), ("policy", "supervised"))
    together = weighed(objective(replace(own, aggregate=rule), Supervised(aggregate=rule)), groups)
    assert together.weights["policy"].values.tolist() == [1 / 5] * 3 + [0.0] * 2
    assert together.weights["supervised"].values.tolist() == [0.0] * 3 + [1 / 5] * 2
    loss, gradient = run(objective(replace(own, aggregate=rule), Supervised(aggregate=rule)), together, FIVE)
    assert loss.value.item() == pytest.approx(-3 / 5 + (0.7 + 0.2) / 5)
    np.testing.assert_allclose(gradient, [-1 / 5] * 5)


def test_token_mean_within_groups_is_the_mean_of_group_means():
    groups = [TWO[0], group("h", rollout(1.0, turn((5,))))]
    batch = weighed(objective(Policy(aggregate=TokenMean(within="group"))), groups)
    assert batch.weights["policy"].values.tolist() == [1 / 10] * 5 + [1 / 2]
    totals = weighed(objective(Policy(aggregate=TokenMean(within="group"))), groups[:1], total=lambda counts: 4 * counts)
    assert totals.weights["policy"].values.tolist() == [1 / 20] * 5


@dataclass(frozen=True, kw_only=True)
class PerUnit(Term):
    """A loss of 1 at its unit."""

    name: str = "per_unit"

    def losses(self, live, batch, mask, correction):
        return torch.ones(batch.layout.size(self.unit), dtype=torch.float64) + 0 * live.logp.sum()


@pytest.mark.parametrize(("unit", "rule", "expected"), [
    ("group", UnitMean(), [1 / 2, 1 / 2]), ("episode", UnitMean(), [1 / 3, 1 / 3, 1 / 3]),
    ("episode", SequenceMean(), [1 / 3, 1 / 3, 1 / 3]), ("sequence", SequenceMean(), [1 / 6, 1 / 6, 1 / 3, 1 / 3]),
    ("sequence", SequenceSum(), [1 / 3] * 4), ("role", UnitMean(), [1 / 2, 1 / 2]),
])
def test_losses_of_other_units_are_weighed(unit, rule, expected):
    rewritten = rollout(1.0, turn((0, 1), context=(9,)), turn((2,), context=(8,)))
    groups = [group("g", rewritten, rollout(0.0, turn((3,)))), group("h", rollout(0.0, turn((4, 5))))]
    made = objective(PerUnit(unit=unit, aggregate=rule, reach="group"))
    batch = weighed(made, groups)
    np.testing.assert_allclose(batch.weights["per_unit"].values, expected, rtol=1e-15)
    assert made.loss(Live(logp=torch.zeros(6, dtype=torch.float64)), batch).value.item() == pytest.approx(sum(expected))


def test_an_untrained_sequence_does_not_share_its_episode_s_weight():
    rewritten = rollout(1.0, turn((0, 1), context=(9,)), turn((2,), context=(8,), untrained=1))
    batch = weighed(objective(PerUnit(unit="sequence", aggregate=SequenceMean(), reach="group")), [group("g", rewritten)])
    assert batch.weights["per_unit"].values.tolist() == [1.0, 0.0]


# refusals


@pytest.mark.parametrize(("build", "message"), [
    (lambda: Kl(estimator="k1"), "zero: use 'k2' or 'k3'"),
    (lambda: Kl(estimator="k4"), "unknown KL estimator 'k4'"),
    (lambda: objective(), "need"),
    (lambda: objective(Policy(), Policy()), "different names"),
    (lambda: objective(Policy(), Kl(aggregate=Shared("polisy"))), "did you mean 'policy'"),
    (lambda: objective(Policy(aggregate=Joint(TokenMean(), ("sft",)))), "refer to a term 'sft'"),
    (lambda: objective(Policy(), Kl(aggregate=Shared("kl"))), "weights of its own"),
    (lambda: objective(Policy(), Kl(aggregate=Shared("entropy")), Entropy()), "weights of its own"),
    (lambda: objective(PerUnit(unit="group"), Kl(aggregate=Shared("per_unit"))), "same unit"),
    (lambda: Clip(-0.1, 0.2), "not negative"), (lambda: Clip(dual=1.0), "above 1"),
    (lambda: DetachClip(high=-0.5), "a cap of 5 is high=4"), (lambda: DetachClip(low=-0.5), "offsets from 1"),
    (lambda: TokenMean(within="batch"), "within each 'group'"), (lambda: Constant(0), "at least 1"),
    (lambda: Truncated(unit="episode"), "not at 'episode'"), (lambda: Masked(unit="group"), "not at 'group'"),
    (lambda: METHODS["grpo"](kl=0.1, kl_in_reward=0.1), "set one of them to 0"),
])
def test_parts_that_cannot_go_together_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(("rule", "unit"), [(TokenMean(), "sequence"), (SequenceSum(), "group"), (SequenceMean(), "group")])
def test_a_rule_refuses_units_that_it_cannot_weigh(rule, unit):
    with pytest.raises(ObjectiveError):
        weighed(objective(PerUnit(unit=unit, aggregate=rule, reach="group")), TWO)


def test_tokens_without_old_log_probs_are_refused():
    made = objective(Policy())
    with pytest.raises(ObjectiveError, match="no old_logp"):
        run(made, weighed(made, TWO, default="old"), FIVE)


def test_an_unweighed_batch_is_refused():
    with pytest.raises(ObjectiveError, match="not weighed"):
        run(objective(Policy()), pack(TWO, dtype=torch.float64), FIVE)


def test_an_empty_batch_and_a_missing_column_are_refused():
    with pytest.raises(ObjectiveError, match="nothing to train on"):
        pack([group("g", rollout(1.0, turn(())))])
    with pytest.raises(ObjectiveError, match="did you mean 'advantage'"):
        weighed(objective(Policy()), TWO).column("advantages")


def test_unknown_tokens_need_a_trust_of_their_own():
    groups = [group("g", rollout(1.0, turn((0, 1, 2))), rollout(1.0, teacher(3, 4)))]
    with pytest.raises(ObjectiveError, match="2 tokens have behaviour 'unknown'"):
        run(objective(Policy()), weighed(objective(Policy()), groups), FIVE)
    made = objective(Policy(elsewhere=Unclipped(), aggregate=SequenceSum()))
    loss, gradient = run(made, weighed(made, groups), FIVE)
    own = np.exp([-0.7, -0.2]) / 2  # f = pi A: the ratio divides by 1
    np.testing.assert_allclose(gradient, [-0.5] * 3 + (-own).tolist())
    assert loss.value.item() == pytest.approx(-1.5 - own.sum())
    assert base_logp(Live(logp=tensor(FIVE)), weighed(made, groups)).tolist() == [*FIVE[:3], 0.0, 0.0]


def test_unknown_tokens_are_not_in_the_ratio_of_their_sequence():
    mixed = turn((0, 1, 2), spans=(Span(0, 2), Span(2, 3, "teacher", "unknown")))
    made = objective(Policy(ratio=SequenceRatio(), elsewhere=Unclipped(), aggregate=SequenceMean()))
    batch = weighed(made, [group("g", rollout(1.0, mixed))], {"old_logp": tensor([-0.6, -1.2, -9.0])}, default="old")
    loss, _ = run(made, batch, FIVE[:3])
    np.testing.assert_allclose(loss.seen[0].ratio[:2], [np.exp((0.1 + 0.2) / 2)] * 2)


def test_garbage_beside_unknown_tokens_changes_nothing():
    groups = [group("g", rollout(1.0, turn((0, 1, 2), untrained=1)), rollout(1.0, teacher(3, 4)))]
    made = objective(Policy(elsewhere=Unclipped()))
    batch = weighed(made, groups)
    _, gradient = run(made, batch, [-0.5, -1.0, 1e9, -0.7, -0.2])
    assert gradient[2] == 0.0
    assert bool(torch.isfinite(gradient).all())


def test_a_teacher_that_is_silent_on_some_tokens_leaves_them_to_the_other_terms():
    made = objective(Policy(), Kl(coef=0.5, against="teacher:other", estimator="k2", needs=frozenset({"teacher:other"})))
    spoken = [x + 0.3 for x in FIVE]
    batch = weighed(made, TWO, {"teacher:other": tensor([*spoken[:3], np.nan, np.nan])})
    loss, gradient = run(made, batch, FIVE)
    assert loss.dropped == 0
    np.testing.assert_allclose(gradient, [-(1 + 0.5 * 0.3) / 5] * 3 + [2 / 5] * 2)


# what the parts declare


def test_reach_and_needs_are_those_of_the_parts():
    ratios = [SequenceRatio(unit=unit) for unit in ("segment", "sequence", "episode")]
    assert [objective(Policy(ratio=r)).reach for r in ratios] == ["sequence", "sequence", "group"]
    made = objective(Policy(), Kl(coef=0.1), Entropy())
    assert (made.reach, made.needs, made.scored_before) == ("token", {"ref", "entropy"}, {"ref"})
    assert objective(Policy(), PerUnit(unit="group", reach="step")).reach == "step"


def test_a_term_that_does_not_vanish_keeps_every_sequence():
    groups = [group("g", rollout(0.0, turn((0, 1, 2))), rollout(0.0, turn((3, 4))))]
    for terms, expected in (((Policy(),), True), ((Policy(), Entropy()), False), ((Policy(vanishes=False),), False),
                            ((Policy(ratio=SequenceRatio(unit="episode")),), False)):
        made = objective(*terms)
        assert made.idle(weighed(made, groups)).tolist() == [expected] * 2
