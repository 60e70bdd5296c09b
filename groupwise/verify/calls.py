"""What a pool and its workers say to each other: calls of one item or several, and the replies to them."""

import contextlib
import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Call:
    """Items (their places in a list) that a worker is given together."""

    id: int
    items: tuple[int, ...]


def take(todo: deque[Call], most: int) -> list[Call]:
    """The next calls that are to be done, `most` at most; other threads take some as well."""
    more: list[Call] = []
    with contextlib.suppress(IndexError):
        while len(more) < most:
            more.append(todo.popleft())
    return more


def payload(call: Call, records: Sequence[str]) -> bytes:
    """A call as a line; `records` are the items as JSON."""
    return f'{{"id": {call.id}, "items": [{", ".join([records[index] for index in call.items])}]}}\n'.encode()


def reply_in(line: bytes, sizes: Mapping[int, int]) -> dict[str, Any] | None:
    """The reply in a line; None if it is not one, or not to a call that is expected (`sizes`: the numbers of items by id)."""
    try:
        reply = json.loads(line)
    except ValueError:
        return None
    if not isinstance(reply, dict) or type(reply.get("id")) is not int or reply["id"] not in sizes:
        return None
    if "results" not in reply:
        return reply if "raised" in reply or "late" in reply else None
    results = reply["results"]
    whole = isinstance(results, list) and len(results) == sizes[reply["id"]] and all(map(_is_result, results))
    return reply if whole else None


def _is_result(one: Any) -> bool:
    return isinstance(one, dict) and ("raised" in one or {"verdict", "components"} <= one.keys())
