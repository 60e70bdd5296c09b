from collections import Counter
from dataclasses import replace

import pytest

from groupwise.core.rollout import Completion, Context, Episode, Group, Prompt, Rollout, Turn
from groupwise.core.services import Budget
from groupwise.core.verdict import Component, Verdict
from groupwise.run.collect import Tally
from groupwise.run.metrics import of_groups, of_updates

PROMPT = Prompt("p", "1+1=", 2, tokens=(3, 4))


def rollout(reward, length, correct=False, finish="stop", kind="mismatch"):
    completion = Completion((5,) * length, (-float(length),) * length, finish)
    return Rollout(Episode(PROMPT, (Turn(Context(PROMPT.tokens), completion),)), Verdict(correct, "ok" if correct else kind),
                   (Component("r", reward),))


def test_of_groups():
    mixed = Group("a", PROMPT, (rollout(1.0, 2, True), rollout(0.0, 6, finish="length", kind="truncated")), abstained=1)
    flat = Group("b", PROMPT, (rollout(1.0, 2, True), rollout(1.0, 4, True, finish="length")))
    wrong = Group("c", PROMPT, (rollout(0.0, 4), rollout(0.5, 4)))
    tally = Tally(drawn=[mixed, flat, wrong], refused=Counter(all_correct=1), rounds=2, surplus=1,
                  budget=Budget({"policy/generate": 22}))
    row = of_groups(tally)
    assert all(type(value) is float for value in row.values())
    assert (row["groups"], row["rollouts"], row["abstained"]) == (3, 7, pytest.approx(1 / 7))
    assert (row["rounds"], row["surplus"], row["refused/all_correct"], row["tokens/policy/generate"]) == (2, 1, 1, 22)
    assert (row["reward"], row["accuracy"]) == (pytest.approx(3.5 / 6), 0.5)
    assert row["informative"] == pytest.approx(2 / 3)  # rewards differ in a and c
    assert (row["groups_all_correct"], row["groups_all_wrong"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert [row[name] for name in ("length", "length_right", "length_wrong")] == pytest.approx([22 / 6, 8 / 3, 14 / 3])
    assert (row["length_right_median"], row["length_wrong_median"]) == (2, 4)
    assert (row["truncated"], row["truncated_right"], row["truncated_wrong"]) == (pytest.approx(1 / 3),) * 3
    assert [row[f"verdict/{kind}"] for kind in ("ok", "truncated", "mismatch")] == pytest.approx([1 / 2, 1 / 6, 1 / 3])
    assert row["surprise"] == pytest.approx((4 + 36 + 4 + 16 + 16 + 16) / 22)


def test_components_have_means_and_shares_of_abstentions():
    def scored(*components, correct=True):
        return replace(rollout(0.0, 2, correct), components=tuple(Component(*one, weight=0.5) for one in components))
    kept = Group("a", PROMPT, (scored(("correct", 1.0), ("style", 3.0)), scored(("correct", 0.0), ("style", None))), abstained=2)
    lost = [scored(("correct", 1.0), ("style", None), correct=None), scored(("correct", None), correct=None)]
    row = of_groups(Tally(drawn=[kept], lost=lost))
    assert (row["reward/correct"], row["reward/style"]) == (0.5, 3.0)  # unweighted, of those that count
    assert (row["abstained/correct"], row["abstained/style"], row["abstained"]) == (0.25, 0.75, 0.5)


def test_of_groups_without_rollouts():
    row = of_groups(Tally(drawn=[Group("a", PROMPT, (), abstained=4)], rounds=1, refused=Counter(all_abstained=1)))
    assert row == {"rounds": 1, "groups": 1, "rollouts": 4, "abstained": 1, "surplus": 0, "refused/all_abstained": 1}
    assert of_groups(Tally())["abstained"] == 0


def test_of_groups_where_all_are_right():
    row = of_groups(Tally(drawn=[Group("a", PROMPT, (rollout(1.0, 3, True),) * 2)]))
    assert row["length_right"] == 3
    assert "length_wrong" not in row


def test_of_updates_keeps_the_sense_of_each_number():
    first = {"loss": 1.0, "ratio_max": 3.0, "mismatch_max": 0.1, "lr": 0.2, "skipped_steps": 0.0, "tokens_trained": 10.0,
             "dropped_sequences": 1.0, "dropped_tokens": 4.0, "only_once": 5.0}
    second = {"loss": 2.0, "ratio_max": 2.0, "mismatch_max": 0.3, "lr": 0.1, "skipped_steps": 1.0, "tokens_trained": 20.0,
              "dropped_sequences": 2.0, "dropped_tokens": 0.0}
    assert of_updates([first, second]) == {
        "loss": 1.5, "ratio_max": 3.0, "mismatch_max": 0.3, "lr": 0.1, "skipped_steps": 1.0, "tokens_trained": 30.0,
        "dropped_sequences": 3.0, "dropped_tokens": 4.0, "only_once": 5.0, "optimiser_steps": 2.0}
    assert of_updates([]) == {"optimiser_steps": 0.0}
