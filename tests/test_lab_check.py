"""The invariance suite: every shipped method passes, and what is wrong on purpose is caught by the check that is about it."""

import json
from dataclasses import dataclass, replace

import pytest
from objectives_support import VARIANTS

from groupwise import cli
from groupwise.errors import ConfigError, TrainingError
from groupwise.lab import ranks
from groupwise.lab.check import CHECKS, as_json, as_text, check
from groupwise.lab.facts import degree_expected, shift_expected
from groupwise.lab.samples import generate
from groupwise.lab.shrink import Check
from groupwise.lab.subjects import shipped, subject, subject_of
from groupwise.lab.trials import Found
from groupwise.methods import METHODS
from groupwise.methods.method import Method
from groupwise.objective.aggregate import MicroTokenMean, TokenMean
from groupwise.objective.baselines import BatchStd, GroupMean, GroupStd, LengthMean, NoBaseline
from groupwise.objective.correction import Normalised, Rejected
from groupwise.objective.credit import Advantage, Blend, Reward, RewardMinusGreedy, RewardMinusKl
from groupwise.objective.gates import ClipCov
from groupwise.objective.objective import Objective
from groupwise.objective.penalties import Entropy
from groupwise.objective.returns import Gae
from groupwise.objective.soft import Shaped
from groupwise.objective.terms import Policy, ValueLoss

SEEDS = (0, 3)
"""Fractions off policy, and 0 and 1 on policy."""
WRONG = {
    "mean_of_micro_batch_means": "micro-batches",
    "weights_of_the_rollout_batch": "optimiser steps",
    "mask_off_by_one": "padding",
    "log_prob_off_by_one": "garbage",
    "std_over_tokens": "credit per episode",
    "kl_of_the_wrong_sign": "reference pull",
    "kl_the_wrong_way_round": "reference pull",
    "ratio_under_another_temperature": "sampling distribution",
    "ratio_of_scaled_log_probs": "on policy",
}


def wrong(name):
    return subject_of(f"tests/lab_wrong.py:{name}")


def only(name, subject):
    return check(subject, [one for one in CHECKS if one.name == name])


def failed(report):
    return {one.name: one for one in report.checks if one.status == "fail"}


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_shipped_methods_pass(name):
    report = check(subject(VARIANTS[name], name), seeds=SEEDS)
    assert report.ok, as_text(report)
    worst = max(one.max_error for one in report.checks if one.name != "finite differences")
    assert worst < 1e-9
    assert {one.name for one in report.checks} == {one.name for one in CHECKS}


@pytest.mark.parametrize(("name", "by"), WRONG.items())
def test_what_is_wrong_on_purpose_is_caught_by_its_check(name, by):
    example = failed(only(by, wrong(name)))[by].example
    assert 1 <= len(example["rows"]) <= 6  # small enough to be read
    assert len({(row["group"], row["rollout"]) for row in example["rows"]}) <= 4
    assert example["labels"][1] in example["rows"][0]


@pytest.mark.parametrize("name", ["weights_of_the_rollout_batch", "std_over_tokens", "kl_of_the_wrong_sign"])
def test_the_other_checks_have_nothing_to_say(name):
    assert set(failed(check(wrong(name), seeds=SEEDS))) == {WRONG[name]}


def test_the_term_that_fails_is_named():
    message = failed(only("reference pull", wrong("kl_of_the_wrong_sign")))["reference pull"].message
    assert "the term 'kl' (Kl) fails by itself" in message
    assert "KL(pi||ref) rises from" in message


def test_a_part_that_raises_is_a_failure_with_its_message():
    message = failed(only("order", wrong("raising")))["order"].message
    assert "AttributeError: 'Scored' object has no attribute 'no_such_thing'" in message


def test_an_objective_alone_is_enough_and_losses_over_a_step_are_checked():
    reaching = Objective(Advantage(), (Policy(aggregate=TokenMean(), reach="step"), Entropy(coef=0.1)))
    report = check(subject(reaching), seeds=SEEDS)
    assert report.ok, as_text(report)
    assert report.method == "Objective"
    assert {one.name: one.status for one in report.checks}["ranks"] == "skip"
    with pytest.raises(ConfigError, match="returned int; it must return a Method or an Objective"):
        subject(3, "mine")


def test_samples_have_what_they_should():
    wishes = subject(VARIANTS["grpo"]).wishes
    for seed in range(4):
        sample = generate(seed, wishes, "old")
        sizes = [len(rows) for rows in sample.groups]
        assert 1 in sizes
        assert max(sizes) > 2
        assert any(row.masked for row in sample.rows)
        assert any(row.truncated for row in sample.rows)
        assert len({row.rewards for row in sample.groups[0]}) == 1 < len({row.rewards for row in sample.groups[1]})
        assert any(len(row.parts) > 1 for row in sample.rows)
        assert any(part.off for row in sample.rows for part in row.parts)
    refused = subject(Objective(Advantage(baseline=GroupMean(singleton="refuse")), (Policy(),)))
    assert min(len(rows) for rows in generate(0, refused.wishes, "old").groups) == 2
    assert only("groups of one", refused).ok


@pytest.mark.parametrize("rule", ["zero", "raw", "drop"])
def test_singleton_rules(rule):
    assert only("groups of one", subject(Objective(Advantage(baseline=GroupMean(singleton=rule)), (Policy(),)))).ok


def test_what_is_expected_of_rewards():
    assert (shift_expected(Advantage()), degree_expected(Advantage())) == (True, 1)
    assert (shift_expected(Advantage(scale=GroupStd())), degree_expected(Advantage(scale=GroupStd()))) == (True, 0)
    assert shift_expected(Advantage(baseline=NoBaseline())) is False
    assert shift_expected(Advantage(signal=RewardMinusKl(0.1))) is None
    assert shift_expected(Blend(((1.0, Advantage()), (1.0, Advantage(baseline=NoBaseline()))))) is False
    assert shift_expected(Declared()) is True


@dataclass(frozen=True)
class Declared:
    """A credit that claims more than it keeps."""

    shift_invariant: bool = True
    scale_degree: int = 1
    needs: frozenset[str] = frozenset()

    def __call__(self, table, state):
        return Advantage(baseline=NoBaseline())(table, state)


def test_a_claim_that_is_not_kept_is_a_failure():
    assert set(failed(check(subject(Objective(Declared(), (Policy(),))), seeds=SEEDS))) == {"reward shift"}


def test_what_depends_on_micro_batches_and_says_so_is_a_note():
    one, = only("micro-batches", subject(Objective(Advantage(), (Policy(aggregate=MicroTokenMean()),)))).checks
    assert (one.status, "declares depends_on_microbatches" in one.message) == ("note", True)


def test_text_and_json():
    report = only("credit per episode", wrong("std_over_tokens"))
    said = as_text(report)
    assert "1 of 1 checks failed (credit per episode)" in said
    assert "A, longer" in said
    values = json.loads(json.dumps(as_json(report)))
    assert values["ok"] is False
    assert {"name", "status", "max_error", "example", "message"} == set(values["checks"][0])


def test_processes_that_really_share_a_step():
    subjects = [*shipped(), wrong("mean_of_micro_batch_means"), subject(Method(WITH_LAMBDA), "not to be sent")]
    samples = [[generate(0, own.wishes, "old")] for own in subjects]
    for *good, bad, unsent in ranks.across(subjects, samples, (2, 3)).values():
        assert [found.error for found in good] == pytest.approx([0.0] * len(METHODS), abs=1e-12)
        assert bad.error > 0.01
        assert "cannot be sent" in unsent.skipped


WITH_LAMBDA = Objective(Advantage(transform=lambda x: x), (Policy(),))


def test_a_late_process_is_told(monkeypatch):
    one = subject(VARIANTS["grpo"], "grpo")
    with pytest.raises(TrainingError, match=r"2 processes did not come to an end in 0.01 s"):
        ranks.across([one], [[generate(0, one.wishes, "old")]], (2,), deadline=0.01)


def test_the_command(tmp_path, capsys):
    file = tmp_path / "report.json"
    assert cli.main(["check", "grpo", "--quick", "--args", "kl=0.1", "--json", str(file)]) == 0
    assert "all checks passed" in capsys.readouterr().out
    assert json.loads(file.read_text())["ok"] is True
    assert cli.main(["check", "tests/lab_wrong.py:std_over_tokens", "--quick"]) == 1
    assert cli.main(["check"]) == 2
    assert cli.main(["check", "grpoo"]) == 2
    assert cli.main(["check", "grpo", "--args", "beta=1"]) == 2
    assert "has no argument 'beta'" in capsys.readouterr().err


def test_a_smaller_example_fails_in_the_same_way():
    def noisy(subject, sample):
        return Found(float(len(sample.rows) > 2), "three rollouts")

    report = check(subject(replace(VARIANTS["grpo"])), [Check("mine", noisy, "nothing")])
    assert len({(row["group"], row["rollout"]) for row in report.checks[0].example["rows"]}) == 3


COMPOSED = {
    "gae": Objective(Gae(), (Policy(), ValueLoss())),
    "normalised correction": Objective(Advantage(), (Policy(),), correction=Normalised()),
    "screened": Objective(Advantage(), (Policy(),), screen=(Rejected(),)),
    "gated": Objective(Advantage(), (Policy(gates=(ClipCov(),)),)),
    "several rewards": Objective(Blend(((1.0, Advantage(signal=Reward("a"))), (0.5, Advantage(signal=Reward("b"))))),
                                 (Policy(),)),
    "greedy rollout": Objective(Advantage(baseline=NoBaseline(), signal=RewardMinusGreedy()), (Policy(),)),
    "foreign tokens": Objective(Advantage(baseline=LengthMean(), scale=BatchStd()),
                                (Policy(elsewhere=Shaped()), Entropy(coef=0.1))),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_compositions_pass(name):
    report = check(subject(COMPOSED[name], name), seeds=SEEDS)
    assert report.ok, as_text(report)
