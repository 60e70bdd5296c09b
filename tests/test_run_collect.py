from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from collect_support import EOS, OBJECTIVE, POLICY, answers, collected, encode, problems, sampler_of, text_of
from run_rewards import digits
from run_support import REWARDS, tiny_policy

from groupwise.core.keyed import fold
from groupwise.core.rollout import BEHAVIOURS, Context, Episode, Span, Turn
from groupwise.core.services import Plan, Services
from groupwise.core.verdict import Component
from groupwise.engines.native import Native
from groupwise.errors import RolloutError, TrainingError
from groupwise.learner.learner import Learner
from groupwise.learner.settings import Models, Settings
from groupwise.methods.method import Method
from groupwise.objective.batch import pack
from groupwise.run import metrics
from groupwise.run.grade import Grader
from groupwise.sampling.admission import Refill, mixed
from groupwise.sampling.intervention import Intervention
from groupwise.verify.shaping import SoftOverlong


@pytest.fixture(scope="module")
def grader():
    with Grader("last_integer") as grader:
        yield grader


# ---- interventions ---------------------------------------------------------------------------------------------------

HINT = encode("#")


@dataclass
class Hint(Intervention):
    """Replaces the first failed rollout of a group by one made under a hint, trained under the plain prompt."""

    seen: list[Services] = field(default_factory=list)

    def after_score(self, groups, services):
        self.seen.append(services)
        return [self._helped(group, services) for group in groups]

    def _helped(self, group, services):
        place = int(np.flatnonzero(~group.correct)[0])
        plan = Plan(group.prompt, 1, visit=fold(0, "hint"), group=group.key,
                    context=Context((*HINT, *group.prompt.tokens), "hinted"),
                    train_context=Context(group.prompt.tokens), first=len(group.rollouts), role="hinted", max_tokens=5)
        (made,) = services.generate([plan])
        rollouts = list(group.rollouts)
        rollouts[place] = made.rollouts[0]
        return replace(group, rollouts=tuple(rollouts))


def hintable(request, sample):
    text = text_of(request.context.tokens)
    if text.startswith("#"):
        return (*encode(f"{3 + int(text.rstrip('=').split('+')[1])}"), EOS)
    return (*encode("0"), EOS)


def test_a_hinted_rollout_is_trained_under_the_prompt_and_is_no_history(grader):
    sampler = sampler_of(grader, hintable, Method(OBJECTIVE, intervene=(Hint(),)), prompts=1)
    (group,) = collected(sampler)
    assert group.correct.tolist() == [True, False]
    (turn,) = group.rollouts[0].episode.turns
    assert turn.context.tokens == (*HINT, *group.prompt.tokens)
    assert not group.rollouts[0].episode.unaided
    asked = sampler.engine.requests[-1]
    assert asked.context == turn.context
    assert asked.sampling.max_tokens == 5
    batch = pack([group], default="old")
    assert batch.contexts == (group.prompt.tokens,) * 2
    assert {BEHAVIOURS[b] for b in batch.behaviour.tolist()} == {"old"}
    with pytest.raises(RolloutError, match="cannot be 'recorded'"):
        replace(turn, spans=(Span(0, len(turn.completion.tokens), behaviour="recorded"),))
    stat = sampler.history.of(group.prompt.id)
    assert (stat.attempts, stat.successes, stat.visits) == (2, 0, 1)
    assert sampler.tally.budget.tokens == {"policy/generate": 4, "hinted/generate": 2}
    assert not sampler.tally.drawn[0].correct.any()  # what the metrics see is what the policy did


class Critics(Intervention):
    """One more rollout of every group, in another role."""

    def before(self, plans):
        return [p for plan in plans for p in (plan, replace(plan, n=1, first=plan.n, role="critic"))]

    def after_score(self, groups, services):
        def named(rollout):
            return replace(rollout, episode=replace(rollout.episode, policy=rollout.episode.role))
        return [replace(group, rollouts=tuple(map(named, group.rollouts))) for group in groups]


def test_two_roles_and_two_policies_share_a_group(grader):
    sampler = sampler_of(grader, answers(), Method(OBJECTIVE, intervene=(Critics(),)))
    groups = collected(sampler)
    assert [[r.episode.role for r in group.rollouts] for group in groups] == [["policy", "policy", "critic"]] * 2
    batch = pack(groups)
    assert batch.layout.size("role") == 4  # within each group
    assert batch.written_by("critic").layout.size("sequence") == 2
    assert sampler.tally.budget.tokens == {f"{role}/generate": sum(r.episode.length for g in groups for r in g.rollouts
                                                                   if r.episode.role == role) for role in ("policy", "critic")}
    streams = [s for request in sampler.engine.requests for s in request.streams]
    assert len(set(streams)) == len(streams) == 6


def test_before_update_has_the_last_look(grader):
    class Drop(Intervention):
        def before_update(self, groups):
            return [group for group in groups if group.prompt.answer % 2]
    sampler = sampler_of(grader, answers(), Method(OBJECTIVE, intervene=(Drop(),)), prompts=8)
    assert len(collected(sampler)) == 4


# ---- admission -------------------------------------------------------------------------------------------------------


def order(sampler):
    """The second terms of the prompts in the order in which they are drawn."""
    plans = sampler.planner.draw(8, 2, sampler.history)
    sampler.planner.load_state_dict({"cursor": 0})
    return [plan.prompt.answer - 3 for plan in plans]


def dynamic(rounds=3, short="train", **more):
    return Method(OBJECTIVE, admit=(mixed,), refill=Refill(rounds, short), **more)


def test_refused_groups_are_replaced_and_the_surplus_is_cut_in_draw_order(grader):
    first = order(sampler_of(grader, answers(), prompts=3))
    sampler = sampler_of(grader, answers(wrong=first[:2]), dynamic(), prompts=3)
    kept = collected(sampler)
    assert [group.prompt.answer - 3 for group in kept] == first[2:5]
    assert sampler.tally.rounds == 2
    assert sampler.tally.surplus == 1
    assert sampler.tally.refused == Counter(all_wrong=2)
    row = metrics.of_groups(sampler.tally)
    assert (row["rounds"], row["groups"], row["refused/all_wrong"], row["surplus"]) == (2, 6, 2, 1)
    assert row["groups_all_wrong"] == pytest.approx(2 / 6)
    assert sampler.planner.state_dict() == {"cursor": 6}


@pytest.mark.parametrize("short", ["train", "stop"])
def test_refills_are_bounded(grader, short):
    first = order(sampler_of(grader, answers(), prompts=2))
    sampler = sampler_of(grader, answers(wrong=first[1:]), dynamic(2, short), prompts=2)
    if short == "stop":
        with pytest.raises(TrainingError, match="only 1 of 2 groups were admitted after 2 rounds"):
            collected(sampler)
    else:
        assert [group.prompt.answer - 3 for group in collected(sampler)] == first[:1]
    assert sampler.tally.rounds == 2
    assert sampler.tally.refused == Counter(all_wrong=3)


def test_shaping_comes_after_admission(grader):
    def long_winded(request, sample):
        return (*encode("00000" if sample else "0"), EOS)  # all wrong; lengths 6 and 2
    shape = SoftOverlong(limit=8, cache=4)
    sampler = sampler_of(grader, long_winded, dynamic(1, shape=(shape,)))
    assert collected(sampler) == []  # shaped rewards would differ within the group
    assert sampler.tally.refused == Counter(all_wrong=2)
    sampler = sampler_of(grader, long_winded, Method(OBJECTIVE, shape=(shape,)), prompts=1)
    (group,) = collected(sampler)
    assert group.rewards.tolist() == [0.0, -0.5]
    assert sampler.tally.drawn[0].rewards.tolist() == [0.0, 0.0]


# ---- abstentions -----------------------------------------------------------------------------------------------------


def halves(request, sample):
    """Even samples begin with a digit, odd ones do not."""
    return (*encode("12" if sample % 2 == 0 else "+12"), EOS)


@pytest.mark.parametrize("verifier", ["moody", "deadly"])
def test_abstentions_leave_the_statistics_and_are_counted(verifier):
    with Grader(f"{REWARDS}:{verifier}") as grader:
        sampler = sampler_of(grader, halves, prompts=2, size=4)
        groups = collected(sampler)
        assert [(len(group.rollouts), group.abstained) for group in groups] == [(2, 2), (2, 2)]
        assert all(r.episode.text == "+12" for group in groups for r in group.rollouts)
        row = metrics.of_groups(sampler.tally)
        assert (row["rollouts"], row["abstained"], row["reward"]) == (8.0, 0.5, digits("12", None))
        assert sampler.history.of(groups[0].prompt.id).attempts == 2
        assert sum(grader.problems().values()) == (4 if verifier == "deadly" else 0)
        everything = sampler_of(grader, lambda request, sample: (*encode("1"), EOS), prompts=1)
        assert collected(everything) == []
        assert everything.tally.refused == Counter(all_abstained=1)
        assert metrics.of_groups(everything.tally)["abstained"] == 1.0


# ---- services --------------------------------------------------------------------------------------------------------


def test_methods_may_ask_for_services(grader):
    learner = Learner(POLICY, Settings(), models=Models({"judge": tiny_policy(1)}))
    sampler = sampler_of(grader, answers(), learner=learner)
    assert isinstance(sampler, Services)
    groups = collected(sampler)
    first = groups[0].prompt
    (made,) = sampler.generate([Plan(first, 3, visit=1, group="extra")])
    assert (made.key, len(made.rollouts)) == ("extra", 3)
    turn = Turn(Context(first.tokens), groups[0].rollouts[0].episode.turns[0].completion, text=f"so {first.answer}")
    (scored,) = sampler.score(first, [Episode(first, (turn,))])
    assert scored.verdict.correct is True
    assert scored.components == (Component("correct", 1.0),)
    before = dict(sampler.tally.budget.tokens)
    found = sampler.logprobs(groups, "teacher:judge")
    expected = learner.logprobs(pack(groups, default="old"), groups, frozenset({"teacher:judge"}))["teacher:judge"]
    assert np.concatenate([row for group in groups for row in found[group.key]]) == pytest.approx(expected.numpy())
    assert [len(row) for row in found[groups[0].key]] == [r.episode.length for r in groups[0].rollouts]
    assert sampler.tally.budget.tokens == {**before, "teacher:judge/score": len(expected)}
    sampler.store("notes")["seen"] = 3
    other = sampler_of(grader, answers())
    other.load_state_dict(sampler.state_dict())
    assert other.store("notes") == {"seen": 3}
    assert other.history.stats == sampler.history.stats
    assert [p.prompt.id for p in other.draw(1)] == [p.prompt.id for p in sampler.draw(1)]


def test_what_is_drawn_does_not_depend_on_the_workers():
    found = []
    for workers in (1, 3):
        with Grader("last_integer", (f"{REWARDS}:digits",), workers=workers) as grader:
            groups = collected(sampler_of(grader, Native(POLICY), prompts=3, size=4, seed=5))
        found.append([replace(g, rollouts=tuple(replace(r, verdict=replace(r.verdict, seconds=0.0)) for r in g.rollouts))
                      for g in groups])
    assert found[0] == found[1]
    assert len({r.episode.turns[0].completion.tokens for g in found[0] for r in g.rollouts}) > 6


def test_other_seeds_draw_other_tokens(grader):
    texts = [[r.episode.text for g in collected(sampler_of(grader, Native(POLICY), prompts=8, seed=seed)) for r in g.rollouts]
             for seed in (0, 1)]
    assert sorted(texts[0]) != sorted(texts[1])


def test_an_extension_of_a_group_draws_new_numbers():
    torch.manual_seed(0)
    (prompt, *_) = problems()
    with Grader("last_integer") as grader:
        sampler = sampler_of(grader, answers())
        sampler.generate([Plan(prompt, 2, visit=7, group="a"), Plan(prompt, 2, visit=7, group="a", first=2)])
        ((once),) = (request.streams for request in sampler.engine.requests)
        sampler.generate([Plan(prompt, 4, visit=7, group="a")])
    assert len(set(once)) == 4
    assert sampler.engine.requests[-1].streams == once
