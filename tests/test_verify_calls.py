"""Rewards that take lists, and asynchronous ones."""

import textwrap

import pytest

from groupwise.core.verdict import Component
from groupwise.errors import VerifierError
from groupwise.verify.calls import reply_in
from groupwise.verify.pool import Item, Pool
from groupwise.verify.reward import Answer, Reward, WrongRewardError

LISTS = """
    import math, os

    def sizes(completions, prompts, answer, level, tokens, **columns):
        assert columns["finish"] == ["stop"] * len(completions), columns
        return [len(completions) + len(p) / 10 + a / 100 + n / 1000 + t / 10000
                for p, a, n, t in zip(prompts, answer, level, tokens, strict=True)]

    def trl(completions, **kwargs):
        return [-abs(20 - len(completion)) for completion in completions]

    def odd(completions, **kwargs):
        for one in completions:
            while one == "hang":
                pass
            if one == "exit":
                os._exit(3)
            if one == "short":
                return [1.0]
            if one == "number":
                return 1.0
        return [math.nan if one == "nan" else None if one == "none" else 1.0 for one in completions]

    async def waits(completions, **kwargs):
        return [float(len(completions))] * len(completions)
"""

ASYNC = """
    import asyncio, os

    EIGHT = asyncio.Barrier(8)

    async def together(completion, answer, **columns):
        await EIGHT.wait()
        return float(completion)

    async def odd(completion, answer):
        if completion == "hang":
            while True:
                pass
        if completion == "exit":
            os._exit(3)
        if completion == "late":
            await asyncio.sleep(60)
        while completion == "stubborn":
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass
        if completion == "raise":
            raise ConnectionError("no route")
        await asyncio.sleep(0)
        return completion == answer
"""


@pytest.fixture
def pool(tmp_path):
    def start(source, function, **settings):
        (tmp_path / "mine.py").write_text(textwrap.dedent(source))
        return Pool(f"{tmp_path}/mine.py:{function}", **{"deadline": 20.0, **settings})
    return start


def items(*texts, ids=None):
    return [Item(ids[i] if ids else str(i), text, "right") for i, text in enumerate(texts)]


def values(graded):
    return [g.components[0].value for g in graded]


def kinds(graded):
    return [(g.verdict.correct, g.verdict.kind) for g in graded]


GOOD, WRONG, CRASH, TIMEOUT = (True, "ok"), (False, "mismatch"), (None, "crash"), (False, "timeout")


@pytest.mark.parametrize("workers", [1, 2])
def test_lists_are_the_answers_to_one_prompt_with_their_columns(pool, workers):
    with pool(LISTS, "sizes", workers=workers) as made:
        graded = made.grade([Item(name, "x", 3, {"level": i}, prompt="p" * n, tokens=i) for i, (name, n) in
                             enumerate([("a", 1), ("a", 1), ("b", 2), ("b", 2), ("b", 2), ("a", 1)])])
    assert values(graded) == pytest.approx([2.13, 2.1311, 3.2322, 3.2333, 3.2344, 1.1355])


def test_a_function_written_for_trl(pool):
    with pool(LISTS, "trl", name="brief") as made:
        graded = made.grade(items("x" * 20, "", "abc", ids="aab"))
    assert [g.components for g in graded] == [(Component("brief", x),) for x in (0.0, -20.0, -17.0)]


def test_a_list_of_another_length_trains_nothing_and_names_both(pool):
    with pool(LISTS, "odd") as made:
        graded = made.grade(items("a", "short", "c", "d", "number", "nan", "none", "h", ids="xxxyzwww"))
        assert kinds(graded) == [CRASH] * 3 + [GOOD, CRASH, CRASH, (None, "unverified"), GOOD]
        assert made.problems == {"crash: 1 rewards for 3 completions": 3, "crash: the reward is nan": 1,
                                 "crash: a function of `completions` returns a list with a reward for each, got a float": 1}
        with pytest.raises(VerifierError, match=r"failed on all 2 items(.|\n)*1 rewards for 2 completions"):
            made.grade(items("a", "short", ids="xx"))


def test_who_loses_a_list_is_found_by_asking_each_alone(pool):
    with pool(LISTS, "odd", deadline=0.5) as made:
        graded = made.grade(items("a", "hang", "c", "exit", "e", "f", ids="xxxyyz"))
        assert kinds(graded) == [GOOD, TIMEOUT, GOOD, CRASH, GOOD, GOOD]
        assert made.problems == {"timeout: no verdict within 0.5 s": 1, "crash: worker ended, exit status 3": 1}


def test_lists_may_be_asynchronous(pool):
    with pool(LISTS, "waits") as made:
        assert values(made.grade(items("a", "b", "c", ids="xxy"))) == [2.0, 2.0, 1.0]


def test_asynchronous_rewards_run_side_by_side(pool):
    with pool(ASYNC, "together") as made:  # nobody passes the barrier before there are eight
        assert values(made.grade(items(*map(str, range(96))))) == [float(i) for i in range(96)]
        assert made.problems == {}


def test_what_still_waits_at_the_deadline_abstains(pool):
    with pool(ASYNC, "odd", deadline=0.5) as made:
        graded = made.grade(items("right", "late", "wrong", "stubborn", "raise", "right"))
        assert kinds(graded) == [GOOD, CRASH, WRONG, CRASH, CRASH, GOOD]
        assert made.problems == {"crash: still waiting after 0.5 s": 2, "crash: ConnectionError: no route": 1}
        assert kinds(made.grade(items("late", "late"))) == [CRASH] * 2  # a service that is down does not stop the run


def test_what_blocks_the_others_is_wrong_and_they_are_done_again(pool):
    with pool(ASYNC, "odd", deadline=0.5) as made:
        graded = made.grade(items("right", "wrong", "hang", "right", "exit", "right"))
        assert kinds(graded) == [GOOD, WRONG, TIMEOUT, GOOD, CRASH, GOOD]
        assert made.problems == {"timeout: no verdict within 0.5 s": 1, "crash: worker ended, exit status 3": 1}


def test_names_a_reward_may_ask_for():
    item = Item("p", "text", 7, {"prompt": "the data's", "finish": "no", "level": 3}, "length", "ours", 5)
    assert item.columns == {"prompt": "the data's", "tokens": 5, "finish": "length", "level": 3}
    reward = Reward(lambda completions, prompts, level: [prompts == ["the data's"] and level == [3]])
    assert reward.outcomes(reward.call([Answer("text", 7, item.columns)]), 1)[0].verdict.correct is True
    with pytest.raises(WrongRewardError, match="takes 'solution', which is no column of this line; valid: answer, completions"):
        Reward(lambda completions, solution: []).call([Answer("text", 7, item.columns)])


def test_a_further_reward_names_its_components():
    for value, names in ((True, ["style"]), (0.5, ["style"]), (None, ["style"]), ({"a": 1, "b": None}, ["style/a", "style/b"])):
        (found,) = Reward(lambda text, answer, value=value: value, "style").outcomes(value, 1)
        assert [c.name for c in found.components] == names


@pytest.mark.parametrize("line", [b"x", b"[]", b'{"id": [1]}', b'{"id": true, "late": 1}', b'{"id": 1}', b'{"id": 2, "late": 1}',
                                  b'{"id": 1, "results": 3}', b'{"id": 1, "results": [{}, {}]}',
                                  b'{"id": 1, "results": [{"raised": ""}]}'])
def test_what_is_no_reply(line):
    assert reply_in(line, {1: 2}) is None
    assert reply_in(b'{"id": 1, "results": [{"raised": ""}, {"verdict": 0, "components": 0}]}', {1: 2}) is not None
