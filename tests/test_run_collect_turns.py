from dataclasses import dataclass

import numpy as np
import pytest
from collect_support import EOS, collected, encode, sampler_of, text_of

from groupwise.core.services import Reply
from groupwise.objective.baselines import GroupMean, NoBaseline
from groupwise.objective.batch import pack
from groupwise.objective.credit import Advantage, Blend, TurnReward
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.run.grade import Grader


@pytest.fixture(scope="module")
def grader():
    with Grader("last_integer") as grader:
        yield grader


@dataclass
class Again:
    """A wrong answer may be tried once more; a right one earns 1, at the second turn 0.5."""

    rewrite: bool = False
    max_turns: int = 2

    def reply(self, prompt, turns):
        if turns[-1] == str(prompt.answer):
            return Reply(reward=1.0 / len(turns), state="solved")
        if self.rewrite:
            return Reply(done=False, reward=0.0, state="second", rewritten=f"?{prompt.text}")
        return Reply(text="?", done=False, reward=0.0, state="second")


def patient(request, sample):
    """Sample 0 is right at once, sample 1 at the second turn, sample 2 never."""
    text = text_of(request.context.tokens)
    second = int(text.replace("?", "").rstrip("=").split("+")[1].split("=")[0])
    tries = 1 if "?" in text else 0
    if tries:
        sample += 1  # only samples 1 and 2 come here
    return (*encode(str(3 + second) if sample == tries else "0"), EOS)


def test_an_append_only_episode_is_one_sequence(grader):
    sampler = sampler_of(grader, patient, environment=Again(), prompts=1, size=3)
    (group,) = collected(sampler)
    once, twice, never = (r.episode for r in group.rollouts)
    assert [len(e.turns) for e in (once, twice, never)] == [1, 2, 2]
    assert [r.verdict.correct for r in group.rollouts] == [True, True, False]
    assert twice.turns[1].context.tokens == (*group.prompt.tokens, *encode("0"), EOS, *encode("?"))
    batch = pack([group])
    assert batch.layout.size("sequence") == 3
    assert batch.layout.size("segment") == 5
    row = batch.take([1])
    assert tuple(row.tokens.tolist()) == (*encode("0"), EOS, *encode("?"), *twice.turns[1].completion.tokens)
    assert row.counted.tolist() == [True, True, False, *[True] * len(twice.turns[1].completion.tokens)]
    assert row.contexts == (group.prompt.tokens,)
    assert sampler.history.of(group.prompt.id).attempts == 3  # an answer of the environment is no help


def test_a_rewritten_history_makes_one_sequence_per_turn(grader):
    (group,) = collected(sampler_of(grader, patient, environment=Again(rewrite=True), prompts=1, size=3))
    batch = pack([group])
    assert batch.layout.size("sequence") == 5
    assert batch.layout.size("episode") == 3
    assert batch.contexts[2] == encode(f"?{group.prompt.text}")
    assert bool(batch.counted.all())


def test_an_episode_ends_where_the_context_is_full(grader):
    # A prompt has 4 tokens, an answer 2 and the environment's word 1: the second turn has room for one token, a third for none.
    def wrong(request, sample):
        return (*encode("0"), EOS)
    sampler = sampler_of(grader, wrong, environment=Again(max_turns=3), prompts=1, context_limit=8)
    (group,) = collected(sampler)
    assert [[len(turn.completion.tokens) for turn in r.episode.turns] for r in group.rollouts] == [[2, 1], [2, 1]]
    assert [r.episode.truncated for r in group.rollouts] == [True, True]
    assert [request.sampling.max_tokens for request in sampler.engine.requests] == [4, 1]


def test_turns_are_credited_by_turn(grader):
    (group,) = collected(sampler_of(grader, patient, environment=Again(), prompts=1, size=3))
    credit = Advantage(signal=TurnReward(), key="turn")
    batch = pack([group])
    columns = Objective(credit, (Policy(),)).credit([group], batch, {})
    # First turns earned 1, 0, 0; second turns 0.5, 0.
    assert columns["advantage"].unit == "segment"
    assert columns["advantage"].values == pytest.approx([2 / 3, -1 / 3, 0.25, -1 / 3, -0.25])


def test_turns_are_credited_by_state(grader):
    (group,) = collected(sampler_of(grader, patient, environment=Again(), prompts=1, size=3))
    by_state = Advantage(signal=TurnReward(), key="state", baseline=GroupMean())
    credit = Blend(((1.0, Advantage(baseline=NoBaseline())), (2.0, by_state)))
    batch = pack([group])
    assert [turn.state for r in group.rollouts for turn in r.episode.turns] == ["start", "start", "second", "start", "second"]
    found = Objective(credit, (Policy(),)).credit([group], batch, {})["advantage"].values
    # At the start 1, 0 and 0 were earned, in state "second" 0.5 and 0. Rewards: 1 + 1, 1 + 0.5, 0.
    segment = batch.layout.ids("token", "segment")
    first = [int(np.flatnonzero(segment == s)[0]) for s in range(5)]
    assert found[first] == pytest.approx([2.0 + 4 / 3, 1.5 - 2 / 3, 1.5 + 2 * 0.25, -2 / 3, -2 * 0.25])
