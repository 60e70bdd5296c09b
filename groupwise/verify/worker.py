"""A verifier in a process of its own: `python -m groupwise.verify.worker VERIFIER NAME DEADLINE MEMORY_MB`.

One JSON object a line. In: a call, {"id", "items"}, where an item is a list of the fields of `Answer`. Out: first {"ready": true,
"batched", "asynchronous"}, or {"refused": why}; then for each call {"id", "results"}, or what was raised, or {"id", "late": true}
of an asynchronous one that was still waiting at its deadline. A result is {"verdict", "components"} (lists of the fields of
`Verdict`, of names and values) or what was raised: {"raised", "trace"}, with "fatal" where the process should be replaced.

A reply is written before the next call is begun; asynchronous calls run side by side, and replies come in any order.

The protocol keeps the original stdin and stdout to itself: whatever the verifier prints goes to stderr, and it reads nothing.
The process ends when its stdin does, so it does not outlive the one that started it.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO

from groupwise.errors import ConfigError
from groupwise.verify import opinion, r1_zero, resolve
from groupwise.verify import reward as reward_module
from groupwise.verify.programs import prepare as prepare_program
from groupwise.verify.reward import Answer, Outcome, Reward, WrongRewardError

PREPARE: dict[str, Callable[[], None]] = {"math": opinion.prepare, "program": prepare_program, **dict.fromkeys(
    ("r1_zero_boxed", "r1_zero_boxed_fast", "r1_zero_tag", "r1_zero_tag_fast"), r1_zero.prepare)}
"""What to do before a verifier's first item, so that no item's time pays for it."""

Lines = queue.SimpleQueue[bytes]
_OURS = (__file__, reward_module.__file__)
"""Files whose lines say nothing of why a reward function raised."""

_GRACE = 5.0
"""Seconds after the deadline when the process ends itself, should nobody have killed it."""


def main(verifier: str, name: str, deadline: float, memory_mb: int) -> None:
    """Load the verifier, say that it is ready, and answer calls until stdin ends."""
    requests, replies = _private_pipes()
    lines: Lines = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, lines), daemon=True).start()
    try:
        reward = Reward(resolve(verifier), name)
    except ConfigError as error:
        _send(replies, {"refused": str(error)})
        return
    PREPARE.get(verifier, lambda: None)()
    _limit_memory(memory_mb)
    _send(replies, {"ready": True, "batched": reward.batched, "asynchronous": reward.asynchronous})
    (_side_by_side if reward.asynchronous else _one_by_one)(reward, lines, replies, deadline)


def _one_by_one(reward: Reward, lines: Lines, replies: BinaryIO, deadline: float) -> None:
    while True:
        call = json.loads(lines.get())
        items = [Answer(*item) for item in call["items"]]
        _alarm(deadline * len(items) + _GRACE)
        reply = _reply(reward, call, partial(reward.call, items), time.perf_counter())
        _alarm(0.0)
        _send(replies, reply)


def _side_by_side(reward: Reward, lines: Lines, replies: BinaryIO, deadline: float) -> None:
    """As many calls at a time as there are: whoever asks sees to it that they are not too many."""
    import asyncio  # as much to load as all else of a worker; only those of asynchronous functions need it

    async def serve() -> None:
        loop, calls, running = asyncio.get_running_loop(), asyncio.Queue[bytes](), set[asyncio.Task[None]]()
        longest = 0.0

        def forward() -> None:
            while True:
                loop.call_soon_threadsafe(calls.put_nowait, lines.get())

        async def answer(call: dict[str, Any]) -> None:
            items, started = [Answer(*item) for item in call["items"]], time.perf_counter()
            task = asyncio.ensure_future(reward.call(items))
            # Not `wait_for`: that would go on waiting for a function that does not let itself be cancelled.
            await asyncio.wait({task}, timeout=deadline * len(items))
            if task.done():
                reply = _reply(reward, call, task.result, started)
            else:
                task.cancel()
                reply = {"id": call["id"], "late": True}
            _alarm(longest if len(running) > 1 else 0.0)
            _send(replies, reply)

        threading.Thread(target=forward, daemon=True).start()
        while True:
            call = json.loads(await calls.get())
            longest = max(longest, deadline * len(call["items"]) + _GRACE)
            _alarm(longest)
            running.add(task := loop.create_task(answer(call)))
            task.add_done_callback(running.discard)

    asyncio.run(serve())


def _reply(reward: Reward, call: dict[str, Any], value: Callable[[], Any], started: float) -> dict[str, Any]:
    """The reply to a call: the outcome of every item of what it returned, or what it raised."""
    try:
        outcomes = reward.outcomes(value(), len(call["items"]))
    except BaseException as error:  # sys.exit and the cancellation of a task too
        return {"id": call["id"], **_raised(error)}
    seconds = (time.perf_counter() - started) / len(outcomes)
    return {"id": call["id"], "results": [_result(found, seconds) for found in outcomes]}


def _result(found: Outcome | WrongRewardError, seconds: float) -> dict[str, Any]:
    if isinstance(found, WrongRewardError):
        return _raised(found)
    said = found.verdict
    return {"verdict": [said.correct, said.kind, said.tier, said.extracted, seconds, said.mark, said.version],
            "components": [(c.name, c.value) for c in found.components]}


def _raised(error: BaseException) -> dict[str, Any]:
    if isinstance(error, MemoryError):
        return {"raised": "MemoryError", "trace": "", "fatal": True}
    if isinstance(error, WrongRewardError):
        return {"raised": str(error), "trace": f"the reward function is wrong: {error}"}
    short = traceback.format_exception_only(error)[-1].strip()[:300]
    own = error.__traceback__
    while own is not None and own.tb_frame.f_code.co_filename in _OURS:
        own = own.tb_next
    return {"raised": short, "trace": "".join(traceback.format_exception(error.with_traceback(own)))[-8000:].strip()}


def _private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Stdin and stdout under new numbers (not inherited by children); 0 reads nothing and 1 writes to stderr."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return requests, replies


def _read(requests: BinaryIO, lines: Lines) -> None:
    for line in requests:
        lines.put(line)
    os._exit(0)


def _send(replies: BinaryIO, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply).encode() + b"\n")
    replies.flush()


def _alarm(seconds: float) -> None:
    """End the process after some seconds (0: never) by the signal's default action, which no busy C code can hold up."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _limit_memory(megabytes: int) -> None:
    """At most so much address space beyond what the loaded verifier has."""
    if sys.platform == "linux":
        import resource
        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        most, hard = now + megabytes * 2**20, resource.getrlimit(resource.RLIMIT_AS)[1]  # of the shell's `ulimit -v`, perhaps
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
