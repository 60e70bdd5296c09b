"""A verifier in a process of its own: `python -m groupwise.verify.worker NAME DEADLINE MEMORY_MB`.

One JSON object a line. In: {"id", "text", "answer", "columns"}. Out: first {"ready": true}, then for each item
{"id", "verdict", "components"}, or {"id", "raised", "trace"}, with "fatal" where the process should be replaced. A verdict is a
list of the fields of `Verdict`, a component its name and value. A reply is written before the next item is begun.

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
from typing import Any, BinaryIO

from groupwise.verify import resolve
from groupwise.verify.mathematics import prepare
from groupwise.verify.reward import Grade, WrongRewardError, adapt

PREPARE = {"math": prepare}
"""What to do before a verifier's first item, so that no item's time pays for it."""

_GRACE = 5.0
"""Seconds after the deadline when the process ends itself, should nobody have killed it."""


def main(name: str, deadline: float, memory_mb: int) -> None:
    """Load the verifier, say that it is ready, and answer items until stdin ends."""
    requests, replies = _private_pipes()
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, lines), daemon=True).start()
    grade = adapt(resolve(name))
    PREPARE.get(name, lambda: None)()
    _limit_memory(memory_mb)
    _send(replies, {"ready": True})
    while True:
        item = json.loads(lines.get())
        _alarm(deadline + _GRACE)
        reply = _answer(grade, item)
        _alarm(0.0)
        _send(replies, reply)


def _answer(grade: Grade, item: dict[str, Any]) -> dict[str, Any]:
    """The reply to one item: its outcome, or what the verifier raised."""
    started = time.perf_counter()
    try:
        found = grade(item["text"], item["answer"], item["columns"])
    except MemoryError:
        return {"id": item["id"], "raised": "MemoryError", "trace": "", "fatal": True}
    except WrongRewardError as error:
        return {"id": item["id"], "raised": str(error), "trace": f"the reward function returned a wrong value: {error}"}
    except (Exception, SystemExit) as error:
        short = traceback.format_exception_only(error)[-1].strip()[:300]
        return {"id": item["id"], "raised": short, "trace": traceback.format_exc()[-8000:]}
    said, seconds = found.verdict, time.perf_counter() - started
    return {"id": item["id"], "verdict": [said.correct, said.kind, said.tier, said.extracted, seconds],
            "components": [(c.name, c.value) for c in found.components]}


def _private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Stdin and stdout under new numbers (not inherited by children); 0 reads nothing and 1 writes to stderr."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return requests, replies


def _read(requests: BinaryIO, lines: "queue.SimpleQueue[bytes]") -> None:
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
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
