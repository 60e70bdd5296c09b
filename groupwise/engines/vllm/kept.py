"""A process that is kept alive, and what it was asked for: when it is lost, the next one is asked for what is still open."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from groupwise.core.services import Request
from groupwise.engines.vllm.process import Link, Lost
from groupwise.engines.vllm.wire import Head
from groupwise.errors import ConfigError, EngineError

logger = logging.getLogger(__name__)
Made = TypeVar("Made")


@dataclass
class Ticket:
    """Rows that were asked for together (`ask`), and those that have been made, by place."""

    ask: str
    rows: list[dict[str, Any]]
    requests: Sequence[Request] = ()
    made: dict[int, Head] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether every row has been made."""
        return len(self.made) == len(self.rows)

    def take(self, rows: Iterable[Head]) -> None:
        """Keep rows; one that is there already stays as it is."""
        for row in rows:
            self.made.setdefault(row["row"], row)


class Kept:
    """Connections from `start`, one after the other; each is told what `begin` says first. `restarts` counts those that were not
    planned, of which `most` are allowed for one and the same work.
    """

    def __init__(self, start: Callable[[], Link], begin: Callable[[], None], most: int) -> None:
        self.start, self.begin, self.most, self.restarts = start, begin, most, 0
        self.link: Link | None = None
        self.tickets: dict[int, Ticket] = {}
        self.replies: dict[int, Head] = {}

    def surviving(self, do: Callable[[], Made]) -> Made:
        """`do`, with a process; again with a new one as often as it is lost and the settings allow. EngineError: too often."""
        said = ""
        for left in range(self.most, -1, -1):
            try:
                if self.link is None:
                    self.link = self.start()
                    self.begin()
                return do()
            except Lost as error:
                self.drop()
                self.restarts += 1
                said, still = str(error), sum(len(ticket.rows) - len(ticket.made) for ticket in self.tickets.values())
                if left:
                    logger.warning("%s; it is started again, and %d open completions are asked for again",
                                   said.partition(". It printed")[0], still)
        raise EngineError(f"{said}. It was started {self.most + 1} times for one and the same work "
                          f"(engine_restarts={self.most}); the run can be resumed")

    def send(self, ticket: Ticket, version: int) -> None:
        """Ask for the rows of a ticket that are still open, under a new number."""
        assert self.link is not None
        self._forget(ticket)
        rows = [[i, row] for i, row in enumerate(ticket.rows) if i not in ticket.made]
        if rows:
            self.tickets[self.link.ask(ticket.ask, {"rows": rows, "version": version})] = ticket

    def until(self, ticket: Ticket) -> None:
        """Wait until a ticket is whole."""
        while not ticket.whole:
            self._take(0.0)
        self._forget(ticket)

    def reply(self, number: int, seconds: float = 0.0) -> Head:
        """Wait for the answer to a question, `seconds` or the deadline, if that is longer; rows that come before it are kept."""
        assert self.link is not None
        while number not in self.replies:
            self._take(max(seconds, self.link.deadline))
        return self.replies.pop(number)

    def drop(self) -> None:
        """End the process; completions that it owes are asked of the next one."""
        if self.link is not None:
            self.link.close()
        self.link, self.replies = None, {}
        self.tickets = {number: ticket for number, ticket in self.tickets.items() if ticket.requests}

    def close(self) -> None:
        """End the process for good."""
        self.tickets = {}
        self.drop()

    def _forget(self, ticket: Ticket) -> None:
        self.tickets = {number: other for number, other in self.tickets.items() if other is not ticket}

    def _take(self, seconds: float) -> None:
        """One message."""
        assert self.link is not None
        head = self.link.answer(seconds)
        number, kind = head.get("id", 0), head.get("kind")
        if kind == "rows" and number in self.tickets:
            self.tickets[number].take(head["rows"])
        elif kind == "done":
            self.replies[number] = head
        elif kind == "raised":
            raise self._problem(head)

    def _problem(self, head: Head) -> Exception:
        """What went wrong over there. Lost: the process cannot go on; ConfigError: settings that vLLM does not take."""
        assert self.link is not None
        said = f"{self.link.who} says: {head['name']}: {head['message']}"
        if head.get("fatal"):
            return Lost(said)
        if "KV cache" in said or "cache blocks" in said:
            return ConfigError(f"{said}\nThere is no room for its cache of keys and values: raise --engine-memory (GiB), or "
                               "lower --max-tokens or --max-prompt-tokens")
        return EngineError(f"{said}\n{str(head.get('trace', ''))[-1500:]}")
