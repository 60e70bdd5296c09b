"""Cases of docs/errors.md about engines that are processes of their own: environments, ports, memory, deaths."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import vllm_support
from errors_input import flag
from errors_support import BEGUN, TRAIN, Case
from vllm_support import Faults, Thread

from groupwise.engines.vllm import listen, process
from groupwise.run import serving

VLLM = "--engine vllm --engine-python ./python"
PORT = 47113
WHO = "the vLLM engine (process 4711 of this machine, .venv-vllm/bin/python)"


def python(what: str, prints: str) -> Case:
    """A Python that is asked for its vLLM."""
    return flag(what, VLLM, files={"python": f"#!/bin/sh\n{prints}\n"}, make=lambda: Path("python").chmod(0o755))


@contextlib.contextmanager
def token(letters: str) -> Iterator[None]:
    """A token in the environment, and a vLLM."""
    with mock.patch.dict(os.environ, {process.TOKEN: letters}), mock.patch.object(listen, "python_of", return_value="python"):
        yield


@contextlib.contextmanager
def taken() -> Iterator[None]:
    """A port that somebody listens on."""
    with token("0123456789abcdef"), socket.create_server(("127.0.0.1", PORT)):
        yield


@contextlib.contextmanager
def stand_in(faults: Faults, opening: str = "") -> Iterator[None]:
    """An engine with faults; `opening`: what it says when it is given the model."""
    class Refusing(vllm_support.Stub):
        def __init__(self, *given: object) -> None:
            if opening:
                raise ValueError(opening)
            super().__init__(*given)

    with (mock.patch.object(serving.process, "python_of", return_value="python"), mock.patch.object(Thread, "who", WHO),
          mock.patch.object(serving, "start_of", return_value=lambda: Thread(faults, 30.0)),
          mock.patch.object(vllm_support, "Stub", Refusing)):
        yield


ENGINES = [
    flag("a setting of vLLM without vLLM", "--engine-dtype bfloat16"),
    python("a Python without vLLM", "true"),
    python("another version of vLLM than is known", "echo 0.31.0"),
    flag("an address without a port", "--engine vllm --engine-address gpu7"),
    flag("routes that vLLM does not record", "--engine vllm --routing recorded"),
    Case("no token for runs on other machines", "serve --listen 127.0.0.1:47113", fault=lambda: token("")),
    Case("a port in use", f"serve --listen 127.0.0.1:{PORT}", fault=taken),
    Case("no memory for vLLM's cache", f"{TRAIN} --engine vllm", fault=lambda: stand_in(
        Faults(), "To serve at least one request with the model's max seq len (4096), 2.0 GiB KV cache is needed, which is "
        "larger than the available KV cache memory (1.0 GiB).")),
    Case("an engine that dies again and again", f"{TRAIN} --engine vllm --engine-restarts 2", kept=BEGUN,
         fault=lambda: stand_in(Faults(dies=set(range(30, 999))))),
]
