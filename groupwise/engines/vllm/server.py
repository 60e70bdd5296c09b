"""The loop of the process that samples: it answers questions (`wire`), and steps the engine while there is anything to make.

Plain Python: what does the work is handed in (`inside.Core`, or a test's).
"""

import select
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from groupwise.engines.vllm.wire import Head, receive, send

ALIVE = 1.0
"""Seconds between two signs of life while rows are being made."""


@runtime_checkable
class Making(Protocol):
    """What makes tokens, a step at a time."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the engine is, for the run to compare with what it asked for."""
        ...

    def add(self, key: str, row: Mapping[str, Any], version: int) -> None:
        """Begin a row."""
        ...

    def step(self) -> Iterable[tuple[str, Mapping[str, Any]]]:
        """One more token for every row, and those that have ended with it."""
        ...

    def load(self, weights: bytearray, version: int) -> None:
        """Other weights, with this version; rows in the making go on with them."""
        ...


class Server:
    """One run's questions, from a connection that is its own. `make` builds what does the work from a folder and settings."""

    def __init__(self, end: socket.socket, make: Callable[[Path, Mapping[str, Any]], Making], folder: Path) -> None:
        self.end, self.make, self.folder = end, make, folder
        self.core: Making | None = None
        self.open: dict[str, tuple[int, int]] = {}  # rows in the making: question and place
        self.left: dict[int, int] = {}  # rows that a question still waits for
        self.said = time.monotonic()

    def serve(self) -> None:
        """Answer until the other end is closed, or the engine fails: then it has said why."""
        while True:
            if not self.open or select.select([self.end], [], [], 0.0)[0]:
                try:
                    head, body = receive(self.end)
                except (EOFError, OSError):
                    return
                if not self._answered(head, body):
                    return
            if self.open and not self._stepped():
                return

    def _say(self, head: Mapping[str, Any]) -> None:
        self.said = time.monotonic()
        send(self.end, head)

    def _answered(self, head: Head, body: bytearray) -> bool:
        """Take in one question; whether to go on."""
        number, name = head.get("id", 0), head.get("ask")
        try:
            reply = getattr(self, f"_do_{name}")(number, head, body)
        except Exception as error:
            self._say({"id": number, "kind": "raised", "name": type(error).__name__, "message": str(error),
                       "trace": traceback.format_exc()})
            return name not in ("open", "load")  # after which nobody knows what is in there
        if reply is not None:
            self._say({"id": number, "kind": "done", **reply})
        return True

    def _stepped(self) -> bool:
        """One step, with what ended in it told; whether to go on."""
        assert self.core is not None
        ended: dict[int, list[dict[str, Any]]] = {}
        try:
            for key, made in self.core.step():
                number, place = self.open.pop(key)
                self.left[number] -= 1
                ended.setdefault(number, []).append({"row": place, **made})
        except Exception as error:
            self._say({"id": 0, "kind": "raised", "name": type(error).__name__, "message": str(error),
                       "trace": traceback.format_exc(), "fatal": True})
            return False
        for number, rows in ended.items():
            self._say({"id": number, "kind": "rows", "rows": rows, "last": not self.left[number]})
        if time.monotonic() - self.said > ALIVE:
            self._say({"id": 0, "kind": "alive"})
        return True

    def _do_file(self, number: int, head: Head, body: bytearray) -> dict[str, Any]:
        """A file of the model, which lies on another machine."""
        name = Path(str(head["name"])).name
        (self.folder / name).write_bytes(body)
        return {}

    def _do_open(self, number: int, head: Head, body: bytearray) -> dict[str, Any]:
        if self.core is not None:
            raise ValueError("an engine is open already")
        self.core = self.make(Path(head["folder"]) if head.get("folder") else self.folder, head["settings"])
        return {"facts": dict(self.core.facts)}

    def _do_generate(self, number: int, head: Head, body: bytearray) -> dict[str, Any] | None:
        assert self.core is not None, "open comes first"
        if not head["rows"]:
            return {}
        for place, row in head["rows"]:
            key = f"{number}/{place}"
            self.core.add(key, row, head["version"])
            self.open[key] = number, place
        self.left[number] = len(head["rows"])
        return None

    _do_score = _do_generate

    def _do_load(self, number: int, head: Head, body: bytearray) -> dict[str, Any]:
        assert self.core is not None, "open comes first"
        began = time.monotonic()
        self.core.load(body, head["version"])
        return {"seconds": time.monotonic() - began}
