import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from groupwise.core.verdict import Component, Verdict
from groupwise.errors import ConfigError, DataError, VerifierError
from groupwise.verify import resolve
from groupwise.verify.pool import Item, Pool
from groupwise.verify.reward import Answer, Reward, WrongRewardError, outcome

HOSTILE = """
    import os, signal, subprocess, sys, time

    def reward(completion, answer, **columns):
        if completion == "hang":
            while True:
                pass
        if completion == "sleep":
            time.sleep(60)
        if completion == "busy C":
            return len(str(7 ** (7 ** 9))) > 0
        if completion == "grandchild":
            subprocess.run(["sleep", "60"])
        if completion == "exit":
            os._exit(3)
        if completion == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if completion == "memory":
            return len([bytearray(2**28) for _ in range(64)]) > 0
        if completion == "print":
            print('{"id": 0, "verdict": {}}' * 10)
            os.system("echo shell noise; echo more >&2")
            sys.stdout.write("x" * 300_000)
        if completion == "read":
            return float(len(sys.stdin.read()) + len(os.read(0, 10)))
        if completion == "garbage":
            for fd in range(3, 12):
                try:
                    os.write(fd, b"garbage\\n")
                except OSError:
                    pass
            time.sleep(60)
        if completion == "raise":
            raise KeyError("no such key")
        if completion == "sys.exit":
            sys.exit(1)
        if completion == "recurse":
            return reward(completion, answer)
        if completion in ("nan", "inf"):
            return float(completion)
        if completion == "text":
            return "1.0"
        if completion == "none":
            return None
        return completion == answer
"""


@pytest.fixture
def reward(tmp_path):
    def write(source, name="reward"):
        (tmp_path / "mine.py").write_text(textwrap.dedent(source))
        return f"{tmp_path}/mine.py:{name}"
    return write


def grade(pool, *texts):
    return pool.grade([Item(str(i), text, "right") for i, text in enumerate(texts)])


def kinds(graded):
    return [(g.verdict.correct, g.verdict.kind) for g in graded]


GOOD, CRASH, TIMEOUT = (True, "ok"), (None, "crash"), (False, "timeout")


def test_results_come_in_order_from_several_workers():
    with Pool("last_integer", workers=2) as pool:
        graded = pool.grade([Item(str(i), f"={i}", i if i % 3 else -1) for i in range(200)])
    assert [g.verdict.correct for g in graded] == [bool(i % 3) for i in range(200)]
    assert [g.verdict.extracted for g in graded] == [str(i) for i in range(200)]
    assert graded[1].components == (Component("correct", 1.0),)
    assert graded[0].components == (Component("correct", 0.0),)
    assert pool.problems == {}


def test_items_that_hang_are_wrong_and_the_others_go_on(reward):
    with Pool(reward(HOSTILE), deadline=0.4, timeout_reward=-1.0) as pool:
        graded = grade(pool, "right", "hang", "right", "sleep", "busy C", "grandchild", "wrong", "right")
    assert kinds(graded) == [GOOD, TIMEOUT, GOOD, TIMEOUT, TIMEOUT, TIMEOUT, (False, "mismatch"), GOOD]
    assert graded[1].components == (Component("correct", -1.0),)
    assert pool.problems == {"timeout: no verdict within 0.4 s": 4}


def test_items_that_kill_the_worker_abstain_and_the_others_go_on(reward):
    with Pool(reward(HOSTILE), deadline=20.0, memory_mb=512) as pool:
        graded = grade(pool, "right", "exit", "right", "killed", "memory", "garbage", "right")
        assert kinds(graded) == [GOOD, CRASH, GOOD, CRASH, CRASH, CRASH, GOOD]
        assert graded[1].components == (Component("correct", None),)
        assert pool.problems == {"crash: worker ended, exit status 3": 1, "crash: worker ended, killed by SIGKILL": 1,
                                 "crash: MemoryError": 1, "crash: worker sent something that is not a reply": 1}
        assert kinds(grade(pool, "exit")) == [CRASH]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_lost_worker_was_given_ahead_is_done_by_others(reward, workers):
    texts = ["right"] * 200
    texts[20] = texts[90] = "exit"
    texts[50] = "hang"
    with Pool(reward(HOSTILE), workers=workers, deadline=1.0) as pool:
        found = kinds(grade(pool, *texts))
    assert found == [{"exit": CRASH, "hang": TIMEOUT}.get(text, GOOD) for text in texts]


def test_long_replies_pass(reward):
    path = reward("def reward(completion, answer): return {completion * 100_000: 1.0, 'b': 2.0}")
    with Pool(path, deadline=20.0) as pool:
        graded = grade(pool, "a", "bc")
    assert [g.components[0].name for g in graded] == ["a" * 100_000, "bc" * 100_000]


def test_printing_and_reading_do_not_touch_the_protocol(reward):
    with Pool(reward(HOSTILE), deadline=20.0) as pool:
        assert kinds(grade(pool, "print", "right", "read")) == [(False, "mismatch"), GOOD, (False, "mismatch")]


def test_rewards_that_raise_or_are_no_rewards_abstain_and_are_counted(reward):
    with Pool(reward(HOSTILE), deadline=20.0) as pool:
        graded = grade(pool, "raise", "nan", "inf", "text", "sys.exit", "recurse", "raise", "none", "right")
    assert kinds(graded) == [CRASH] * 7 + [(None, "unverified"), GOOD]
    assert pool.problems["crash: KeyError: 'no such key'"] == 2
    assert pool.problems["crash: the reward is nan"] == pool.problems["crash: the reward is inf"] == 1
    assert sum(pool.problems.values()) == 7


def test_all_items_raising_is_an_error_with_the_first_traceback(reward):
    with Pool(reward(HOSTILE), workers=2, deadline=20.0) as pool:
        with pytest.raises(VerifierError, match=r"failed on all 2 items(.|\n)*line \d+, in reward(.|\n)*no such key"):
            grade(pool, "raise", "nan")
        assert kinds(grade(pool, "right")) == [GOOD]
        assert pool.grade([]) == []


def test_big_and_odd_texts_pass(reward):
    path = reward("""
        def reward(completion, answer, size, finish, **columns):
            print(completion)
            return {"size": float(len(completion) == size), "cut": float(finish == "length"), "none": None}
    """)
    texts = ["x" * 5_000_000, "a\nb\r\n\u2028\0", "\ud800 lone", "日本語 🙂", ""]
    with Pool(path, deadline=30.0) as pool:
        graded = pool.grade([Item("i", t, None, {"size": len(t)}, "length") for t in texts])
    assert {g.components for g in graded} == {(Component("size", 1.0), Component("cut", 1.0), Component("none", None))}
    assert kinds(graded) == [GOOD] * 5


def test_items_must_be_json():
    with Pool("exact") as pool, pytest.raises(DataError, match="item 'bad'"):
        pool.grade([Item("bad", "x", object())])


@pytest.mark.parametrize(("source", "message"), [
    ("import no_such_module_of_mine", "no_such_module_of_mine"), ("1/0", "ZeroDivisionError"),
    ("import os; os._exit(7)", "exit status 7"),
    ("def reward(completion): return 1", "a completion and an answer"), ("def other(a, b): return 1", "no function 'reward'"),
    ("def reward(a, b): yield 1", "generator"),
    ("async def reward(a, b): yield 1", "generator"), ("def reward(completions, /): return 1", "columns are given by name"),
    ("syntax error", "SyntaxError")])
def test_a_verifier_that_cannot_start_is_an_error_with_its_stderr(reward, source, message):
    with pytest.raises(VerifierError, match=message):
        Pool(reward(source))


def test_a_verifier_that_starts_too_slowly_is_an_error(reward):
    with pytest.raises(VerifierError, match="not ready within 1 s"):
        Pool(reward("import time; time.sleep(60)"), start_deadline=1.0)


def test_wrong_names_and_settings_are_config_errors():
    with pytest.raises(ConfigError, match="did you mean 'numeric'"):
        Pool("numerc")
    with pytest.raises(ConfigError, match="workers >= 1"):
        Pool("exact", workers=0)
    with pytest.raises(ConfigError, match="not found"):
        resolve("no_such_module_at_all:f")
    with pytest.raises(ConfigError, match="did you mean 'resolve'"):
        resolve("groupwise.verify:resolv")
    with pytest.raises(ConfigError, match="does not exist"):
        resolve("nowhere/mine.py:f")


def test_a_closed_pool_refuses_and_leaves_no_process(reward):
    with Pool(reward("import os\ndef reward(completion, answer): return {'pid': os.getpid()}")) as pool:
        pid = int(grade(pool, "x")[0].components[0].value)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(VerifierError, match="closed"):
        grade(pool, "x")


def test_workers_end_with_the_process_that_started_them_even_in_the_middle_of_an_item(tmp_path):
    (tmp_path / "mine.py").write_text("import os\ndef reward(completion, answer):\n"
                                      "    open(answer, 'w').write(str(os.getpid()))\n    while True: pass\n")
    code = (f"from groupwise.verify.pool import *\npool = Pool({str(tmp_path / 'mine.py:reward')!r}, deadline=60.0)\n"
            f"pool.grade([Item('a', 'b', {str(tmp_path / 'pid')!r})])")
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    end = time.monotonic() + 20
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < end:
        time.sleep(0.02)
    parent.send_signal(signal.SIGKILL)
    parent.wait(timeout=10)
    pid = int((tmp_path / "pid").read_text())
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    assert not alive(pid)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_math_runs_its_symbolic_tier_in_the_worker():
    with Pool("math", deadline=3.0) as pool:
        graded = pool.grade([Item("a", r"\boxed{x+\frac12}", "0.5+x"), Item("b", r"\boxed{x+1}", "x"), Item("c",
            r"\boxed{7}", "7")])
    assert kinds(graded) == [GOOD, (False, "mismatch"), GOOD]


def test_what_a_reward_function_may_return():
    assert outcome(True).components == (Component("correct", 1.0),)
    assert (outcome(0.3).verdict.correct, outcome(0.3).components) == (True, (Component("reward", 0.3),))
    assert outcome(-1).verdict.correct is False
    assert outcome(Verdict(False, "no_answer")).verdict.kind == "no_answer"
    assert outcome({"a": 1, "b": -2.0}).verdict.correct is False
    assert outcome({"correct": True, "length": -5.0}).verdict.correct is True
    assert outcome({"correct": None, "length": 5.0}).verdict.correct is None
    assert outcome({"a": None}).verdict.correct is outcome(None).verdict.correct is None
    for wrong in ("1", [1.0], float("nan"), {"a": float("nan")}, {"a": "1"}, {}, {1: 1.0}, 1j):
        with pytest.raises(WrongRewardError):
            outcome(wrong)


def called(function, answer, columns, name=""):
    reward = Reward(function, name)
    (found,) = reward.outcomes(reward.call([Answer("", answer, columns)]), 1)
    return found.components


def test_columns_are_given_by_name():
    columns = {"level": 3, "finish": "stop", "answer": "shadow"}
    assert called(lambda completion, answer, level: level, 1, columns)[0].value == 3.0
    assert called(lambda completion, answer, **c: len(c), 1, columns)[0].value == 2.0
    assert called(lambda a, b: b, 7, columns)[0].value == 7.0
    assert called(lambda text, answer, meta: meta["level"], 1, columns)[0].value == 3.0
    with pytest.raises(WrongRewardError, match=r"takes 'lvel', which is no column of this line.*did you mean 'level'"):
        called(lambda completion, answer, lvel: 1.0, 1, columns)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_a_limit_of_the_shell_is_kept():
    code = ("import resource as r; from groupwise.verify.worker import _limit_memory; r.setrlimit(r.RLIMIT_AS, (2**34, 2**34)); "
            "_limit_memory(2**20); print(*r.getrlimit(r.RLIMIT_AS)); _limit_memory(1); print(r.getrlimit(r.RLIMIT_AS)[0])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    *first, second = map(int, done.stdout.split())
    assert first == [2**34, 2**34]
    assert second < 2**33
