"""math-verify's opinion of two answers, within a time of its own.

math-verify's own timers are signals that fail off the main thread and end whatever timer was set: they are off. Instead the wall
clock's timer is borrowed (a worker's own is put back, less the time that passed); off the main thread there is none, and only the
deadline of the pool ends it.
"""

import contextlib
import logging
import re
import signal
import threading
import time
from collections.abc import Iterator
from functools import cache
from types import FrameType

from groupwise.verify.amounts import Truth

SECONDS = 1.0
"""Wall time that the opinions on one response may take together."""
_LONGEST = 400
"""Characters that math-verify is given of an answer."""
_HEAVY = re.compile(r"\^\s*\{?[^{}]{0,60}\^|\^\s*\{?\s*\d{4,}|\*\*\s*\d+\s*\*\*|\d{30,}|\d{3,}\s*!|__|!\s*!")
"""What may keep it in one long operation of C, which no timer interrupts."""


class LateError(BaseException):
    """The time is up; no `Exception`, since math-verify catches those."""


class Opinions:
    """The opinions on one response, which share `seconds`; `late` says that one did not come in time."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.left, self.late = seconds, False

    def of(self, gold: str, given: str) -> Truth:
        """math-verify's opinion; None if it finds nothing to compare, or does not say it in time."""
        if max(len(gold), len(given)) > _LONGEST or _HEAVY.search(gold) or _HEAVY.search(given) or self.left <= 0:
            return None
        prepare()  # never within the limit: a module of which half is loaded stays broken
        started = time.perf_counter()
        try:
            with _limited(self.left):
                return _asked(gold, given)
        except (LateError, MemoryError, RecursionError):
            self.late = True
            return None
        finally:
            self.left -= time.perf_counter() - started


@cache
def prepare() -> None:
    """Load math-verify and use it once, so that no item pays for it."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    _asked(r"x+\frac{1}{2}", "x+0.5")


def _asked(gold: str, given: str) -> Truth:
    from math_verify import parse, verify  # takes a second to import (sympy); only workers of this verifier need it
    target, source = (parse(f"${one}$", parsing_timeout=None) for one in (given, gold))
    if not target or not source:
        return None
    return bool(verify(source, target, timeout_seconds=None))


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise `LateError` in what runs here after so many seconds, where a timer can be had."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(number: int, frame: FrameType | None) -> None:
        raise LateError

    before, started = signal.signal(signal.SIGALRM, late), time.perf_counter()
    rest, _ = signal.setitimer(signal.ITIMER_REAL, seconds, 0.1)  # again and again, should a bare `except` swallow the first
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, max(1e-3, rest - (time.perf_counter() - started)) if rest else 0.0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
