"""Messages between a run and the process that samples for it: a head in JSON, then bytes. Nothing is ever unpickled.

    MAGIC | 4 bytes: length of the head | 8 bytes: length of the body | head | body        (lengths little-endian)

A run asks, each question with a number (`id`) of its own:

    hello     {protocol, token, session}          on another machine: may this run come in
    file      {name}, body                        on another machine: a file of the model
    open      {folder or none, settings}          start vLLM on a model
    generate  {rows, version}                     answered row by row, as they end
    score     {rows}                              log-probs at temperature 1 of tokens that are given
    load      {version}, body: safetensors        other weights, also while rows are in the making

The answer's `kind` is done, rows, alive (a sign of life between answers) or raised. This file is plain Python: both environments
read it.
"""

import json
import socket
from collections.abc import Mapping
from typing import Any

from groupwise.core.stream import exactly

PROTOCOL = 1
MAGIC = b"gwv1"

Head = dict[str, Any]


class Garbled(OSError):
    """What came is no message: the other end speaks something else."""


def send(end: socket.socket, head: Mapping[str, Any], body: bytes | memoryview = b"") -> None:
    """Write one message. TimeoutError (of the socket's own limit), OSError: the other end is gone."""
    text = json.dumps(head, separators=(",", ":")).encode()
    end.sendall(MAGIC + len(text).to_bytes(4, "little") + len(body).to_bytes(8, "little") + text)
    if len(body):
        end.sendall(body)


def receive(end: socket.socket) -> tuple[Head, bytearray]:
    """Read one message. TimeoutError as above; EOFError, OSError: the other end is gone, or speaks something else."""
    first = exactly(end, 16)
    if first[:4] != MAGIC:
        raise Garbled(f"{bytes(first[:4])!r} begins no message of ours")
    length, rest = int.from_bytes(first[4:8], "little"), int.from_bytes(first[8:], "little")
    try:
        head = json.loads(exactly(end, length))
    except ValueError as error:
        raise Garbled(f"a head that is not JSON: {error}") from error
    if not isinstance(head, dict):
        raise Garbled("a head that is no table")
    return head, exactly(end, rest)
