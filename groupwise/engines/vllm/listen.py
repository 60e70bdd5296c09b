"""`groupwise serve`: lets runs on other machines sample here. Whoever connects shows a token; one run at a time gets a process.

Weights and texts cross the network as they are: listen on an address that only your own machines reach, or through a tunnel.
"""

import hmac
import os
import socket
from collections.abc import Callable

from groupwise.engines.vllm.process import TOKEN, Child, python_of
from groupwise.engines.vllm.settings import EngineSettings, address_of
from groupwise.engines.vllm.wire import PROTOCOL, Head, receive, send
from groupwise.errors import ConfigError, EngineError

PATIENCE = 10.0
"""Seconds that a stranger has to show a token."""


def listen(address: str) -> socket.socket:
    """The socket of HOST:PORT. EngineError: the port is in use, or no address of this machine."""
    try:
        return socket.create_server(address_of(address), backlog=4)
    except OSError as error:
        raise EngineError(f"cannot listen on {address} ({os.strerror(error.errno or 0)}): another engine may be running there; "
                          "take another port, or an address of this machine") from error


def serve(address: str, own: EngineSettings, threads: int, say: Callable[[str], None]) -> None:
    """Answer runs until interrupted. ConfigError: no token, no vLLM; EngineError: the port is in use."""
    token = os.environ.get(TOKEN, "")
    if len(token) < 16:
        raise ConfigError(f"groupwise serve lets in whoever shows the token in {TOKEN}: set it, to 16 letters at least, here and "
                          "where the run is")
    python, child, session = python_of(own), None, ""
    with listen(address) as door:
        say(f"listening on {address}; runs come in with --engine vllm --engine-address {address}")
        try:
            while True:
                end, whence = door.accept()
                with end:
                    busy = child is not None and child.process.poll() is None
                    asked, problem = _asked(end, token)
                    if not problem and busy and asked["session"] != session:
                        problem = "another run samples here already: one engine serves one run"
                    _answered(end, asked, problem)
                    if problem:
                        say(f"{whence[0]}: refused: {problem}")
                        continue
                    if child is not None:
                        child.close()
                    session, child = asked["session"], Child(python, threads, end)
                    say(f"{whence[0]}: a run came in, process {child.process.pid}")
        finally:
            if child is not None:
                child.close()


def _asked(end: socket.socket, token: str) -> tuple[Head, str]:
    """What a stranger says, and what is wrong with it."""
    end.settimeout(PATIENCE)
    try:
        head, _ = receive(end)
    except (EOFError, OSError) as error:
        return {}, f"no greeting ({error})"
    if not hmac.compare_digest(str(head.get("token", "")).encode(), token.encode()):
        return head, "wrong token"
    if head.get("ask") != "hello" or head.get("protocol") != PROTOCOL or not head.get("session"):
        return head, (f"the run speaks protocol {head.get('protocol')}, this engine {PROTOCOL}: take one version of groupwise on "
                      "both sides")
    return head, ""


def _answered(end: socket.socket, asked: Head, problem: str) -> None:
    try:
        send(end, {"id": asked.get("id", 0), "kind": "raised" if problem else "done", "name": "refused", "message": problem})
    except OSError:
        return
    end.settimeout(None)
