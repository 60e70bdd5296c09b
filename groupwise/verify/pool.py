"""Grading in worker processes that can be killed.

What happens to
    an item that hangs                      the worker is killed; wrong, kind "timeout" (else hanging the grader would pay)
    an item that kills its worker           abstention, kind "crash"; the item is not tried again, the others go on
    a reward that raises, NaN, wrong type   abstention, kind "crash", counted in `Pool.problems`; `VerifierError` if all do
"""

import contextlib
import json
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any

from groupwise.core.verdict import Component, Finish, Verdict
from groupwise.errors import ConfigError, DataError, VerifierError
from groupwise.verify import check_name
from groupwise.verify.child import Child, GoneError, LateError

AHEAD = 64
"""Items at most that a worker is given at a time: it need not wait for the next, and its time is still counted by the item."""
_MOST_PROBLEMS = 200
"""Different messages that `Pool.problems` keeps apart."""
_EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Item:
    """One answer to grade. `answer` and `meta` hold JSON values; a reward function gets `meta` and `finish` as columns."""

    id: str
    text: str
    answer: Any
    meta: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)
    finish: Finish = "stop"


@dataclass(frozen=True, slots=True)
class Graded:
    """A verdict with its reward components."""

    verdict: Verdict
    components: tuple[Component, ...]


class Pool:
    """Worker processes of one verifier; they start with the pool and are replaced when an item kills them.

    `deadline` is seconds per item, `memory_mb` the address space an item may add, `start_deadline` the seconds a worker may
    take to load the verifier. `timeout_reward` is what a time-out pays: the lowest reward, if rewards go below 0.
    Raises `ConfigError` for an unknown name and `VerifierError` if the verifier cannot be loaded.
    """

    def __init__(self, verifier: str, *, workers: int = 1, deadline: float = 5.0, memory_mb: int = 2048,
                 start_deadline: float = 60.0, timeout_reward: float = 0.0) -> None:
        if workers < 1 or deadline <= 0 or memory_mb < 1 or start_deadline <= 0:
            raise ConfigError(f"a verifier pool needs workers >= 1, deadline > 0, memory_mb >= 1, start_deadline > 0; "
                              f"got {workers}, {deadline}, {memory_mb}, {start_deadline}")
        check_name(verifier)
        self.verifier, self.deadline, self.memory_mb = verifier, float(deadline), memory_mb
        self.start_deadline, self.timeout_reward = start_deadline, timeout_reward
        self.problems: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._closed = False
        self._asked = 0
        self._children: list[Child | None] = [self._start() for _ in range(workers)]
        try:
            for slot in range(workers):
                self._wait_ready(slot)
        except BaseException:
            self.close()
            raise

    def grade(self, items: Sequence[Item]) -> list[Graded]:
        """One result per item, in order.

        Raises `DataError` for an item that is not JSON and `VerifierError` if every item's reward raised or was no reward.
        """
        if self._closed:
            raise VerifierError(f"the pool of verifier {self.verifier!r} is closed; make a new one")
        # Ids never come again, so that a reply that an interrupted call left behind is not taken for another's.
        first, self._asked = self._asked, self._asked + len(items)
        payloads = [_payload(first + index, item) for index, item in enumerate(items)]
        results: list[Graded | None] = [None] * len(items)
        traces: dict[int, str] = {}
        todo, slots = deque(range(len(items))), min(len(self._children), len(items))
        ahead = min(AHEAD, 1 + len(items) // (4 * max(1, slots)))  # a slow item must not keep back many that others could do

        def serve(slot: int) -> None:
            sent: deque[int] = deque()
            while True:
                if len(sent) <= ahead // 2:
                    more: list[int] = []
                    with contextlib.suppress(IndexError):
                        while len(sent) + len(more) < ahead:
                            more.append(todo.popleft())
                    if more:
                        sent += more
                        self._send(slot, b"".join([payloads[index] for index in more]))
                if not sent:
                    return
                index = sent.popleft()
                results[index] = self._one(slot, first + index, traces)
                if self._children[slot] is None:  # what else it was sent is another's to do
                    todo.extendleft(reversed(sent))
                    sent.clear()

        with self._lock:
            self._run(serve, slots, todo)
        if items and len(traces) == len(items):
            raise VerifierError(f"verifier {self.verifier!r} failed on all {len(items)} items; the first:\n{traces[min(traces)]}")
        return [graded for graded in results if graded is not None]

    def close(self) -> None:
        """End the workers."""
        self._closed = True
        for slot in range(len(self._children)):
            self._discard(slot)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _run(self, serve: Callable[[int], None], slots: int, todo: deque[int]) -> None:
        if slots <= 1:
            for slot in range(slots):
                serve(slot)
            return
        with ThreadPoolExecutor(slots, thread_name_prefix="verify") as threads:
            try:
                list(threads.map(serve, range(slots)))
            finally:
                todo.clear()  # an error or an interrupt ends the other workers' turns as well

    def _send(self, slot: int, payload: bytes) -> None:
        """Give a worker some items, after what it was given before; a worker that is gone is replaced."""
        child = self._children[slot]
        if child is None:
            self._children[slot] = child = self._start()
            self._wait_ready(slot)
        child.send(payload)

    def _one(self, slot: int, index: int, traces: dict[int, str]) -> Graded:
        """The result of the oldest item that a worker has; one that does not answer, or not sensibly, is discarded."""
        child = self._children[slot]
        assert child is not None
        try:
            line = child.receive(self.deadline)
        except LateError:
            self._discard(slot)
            self._note(f"timeout: no verdict within {self.deadline:g} s")
            return Graded(Verdict(False, "timeout", "pool", None, self.deadline), (Component("correct", self.timeout_reward),))
        except GoneError:
            self._note(f"crash: worker ended, {child.status()}")
            self._discard(slot)
            return _crash()
        reply = _reply(line, index)
        if reply is None:
            self._note("crash: worker sent something that is not a reply")
            self._discard(slot)
            return _crash()
        return self._read(slot, index, reply, traces)

    def _read(self, slot: int, index: int, reply: dict[str, Any], traces: dict[int, str]) -> Graded:
        if "raised" not in reply:
            components = tuple(Component(name, value) for name, value in reply["components"])
            return Graded(Verdict(*reply["verdict"]), components)
        self._note(f"crash: {reply['raised']}")
        if reply.get("fatal"):
            self._discard(slot)
        else:
            traces[index] = reply["trace"]
        return _crash()

    def _start(self) -> Child:
        return Child(self.verifier, deadline=self.deadline, memory_mb=self.memory_mb)

    def _wait_ready(self, slot: int) -> None:
        child = self._children[slot]
        assert child is not None
        try:
            if json.loads(child.receive(self.start_deadline)) == {"ready": True}:
                return
            problem = "sent something else than its greeting"
        except LateError:
            problem = f"was not ready within {self.start_deadline:g} s; does the module do heavy work when imported?"
        except GoneError:
            problem = f"ended before it was ready ({child.status()})"
        self._discard(slot)
        raise VerifierError(f"the worker of verifier {self.verifier!r} {problem}. Its stderr:\n{child.stderr or '(empty)'}")

    def _discard(self, slot: int) -> None:
        child, self._children[slot] = self._children[slot], None
        if child is not None:
            child.kill()

    def _note(self, message: str) -> None:
        known = message in self.problems or len(self.problems) < _MOST_PROBLEMS
        self.problems[message if known else "crash: other"] += 1


def _payload(index: int, item: Item) -> bytes:
    columns = {**item.meta, "finish": item.finish}
    try:
        return json.dumps({"id": index, "text": item.text, "answer": item.answer, "columns": columns}).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise DataError(f"item {item.id!r}: answer and meta must be JSON values to reach a verifier process: {error}") from error


def _reply(line: bytes, index: int) -> dict[str, Any] | None:
    """The reply in a line; None if it is not one, or of another item."""
    try:
        reply = json.loads(line)
    except ValueError:
        return None
    if not isinstance(reply, dict) or reply.get("id") != index:
        return None
    return reply if "raised" in reply or {"verdict", "components"} <= reply.keys() else None


def _crash() -> Graded:
    return Graded(Verdict(None, "crash", "pool"), (Component("correct", None),))
