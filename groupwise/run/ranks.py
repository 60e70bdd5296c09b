"""The ranks of a learner in shards: rank 0, which runs the loop, and the others, which do as it says (`groupwise.run.rank`).

Rank 0 starts the others, or torchrun has started them all. Every wait but that for the next word of rank 0 ends after `PATIENCE`.
A rank that fails writes down why at the store and ends, which breaks the connections of those that wait for it; rank 0 then says
which it was.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import IO, Any

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import PrefixStore

from groupwise.errors import ConfigError, GroupwiseError, TrainingError
from groupwise.learner.budget import LESS
from groupwise.learner.work import Outcome, Task
from groupwise.models.memory import out_of_memory
from groupwise.objective.objective import Objective
from groupwise.run.link import STARTING, Link, launched, lost, meeting, store_at

PATIENCE = 600.0
"""Seconds that a rank may be waited for."""
GRACE = 5.0
"""Seconds in which a rank that failed says so."""
STUCK = 30.0
"""Seconds after which rank 0 ends by force if it still waits inside a library for a rank that is gone."""
_TAIL = 4000
_ERRORS = {cls.__name__: cls for cls in GroupwiseError.__subclasses__()}


class Rank:
    """One other rank that this process has started; `said` is what it printed."""

    def __init__(self, rank: int, size: int, port: int, threads: int) -> None:
        self.said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `close`)
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        # It watches its standard input, which this process holds open: it ends with this one, however that ends.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "groupwise.run.rank"], stdin=subprocess.PIPE, stdout=self.said, stderr=self.said,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path, **{k: str(v) for k, v in place.items()}},
            start_new_session=True)

    def ended(self) -> str:
        """How it ended; empty if it has not."""
        code = self.process.poll()
        if code is None:
            return ""
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def tail(self) -> str:
        """The last that it printed."""
        size = self.said.seek(0, os.SEEK_END)
        self.said.seek(max(0, size - _TAIL))
        return self.said.read().decode(errors="replace").strip() or "(nothing)"

    def close(self, seconds: float) -> None:
        """Wait so long for its end, then end it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.said.close()


class Ranks:
    """All ranks, as rank 0 has them (`Crew`): it starts the others unless torchrun did, and ends them."""

    def __init__(self, size: int, threads: int = 1, device: str = "cpu", *, patience: float = 0.0) -> None:
        self.size, self.device, self.patience = size, device, patience or PATIENCE
        self.closed, self.broken, self.waits_since = False, False, 0.0
        self.link: Link | None = None
        self.objective: Objective | None = None
        if dist.is_initialized():
            raise ConfigError("parallel=fsdp2: this process has a torch.distributed process group already; start from one that "
                              "has none, or end it with torch.distributed.destroy_process_group()")
        if launched():
            self.store, self.others = meeting()[0], list[Rank]()
        else:
            store = store_at(0, master=True)
            self.store = PrefixStore("groupwise/0", store)
            self.others = [Rank(rank, size, store.port, threads) for rank in range(1, size)]

    def mesh(self) -> DeviceMesh:
        """Where the shards lie."""
        return self.connected().mesh

    def connected(self) -> Link:
        """This rank's connections, opened if they are not. TrainingError: the ranks have ended, or a rank did not come."""
        if self.closed:
            raise TrainingError("the ranks of this run have ended: resume it")
        if self.link is None:
            with self.guarded():
                self._meet()
                self.store.set("begin", json.dumps({"device": self.device, "patience": self.patience}))
                self.link = Link(self.store, 0, self.size, self.device, self.patience)
            if self.others:
                threading.Thread(target=self._watch, daemon=True).start()
        return self.link

    def _meet(self) -> None:
        """Until all others have loaded their libraries."""
        end = time.monotonic() + STARTING
        for rank in range(1, self.size):
            while not self.store.check([f"here/{rank}"]):
                if (gone := self._gone(rank)) or time.monotonic() > end:
                    raise TrainingError(gone or f"rank {rank} is awaited: it did not start within {STARTING:g} s")
                time.sleep(0.02)

    # ---- what the others are told ------------------------------------------------------------------------------------

    def begin(self, share: Any, objective: Objective) -> None:
        """Have the others make their part of a learner from `share`, a `run.learning.Share`; its method has this objective."""
        self.tell("setup", share)
        self.objective = objective

    def wait(self) -> None:
        """Until the others are ready; raises what kept them from it."""
        with self.guarded():
            for rank in range(1, self.size):
                self.connected().receive(rank)

    def run(self, tasks: Sequence[Task], own: Callable[[Task], Outcome]) -> list[Outcome]:
        """One task for each rank, all run as often as the longest needs. Gradients are added inside the backward passes."""
        passes = max(len(task.parts) for task in tasks)
        if not passes:
            return [Outcome() for _ in tasks]
        first, *others = (replace(task, passes=passes) for task in tasks)
        with self.guarded():
            for rank, task in enumerate(others, 1):
                given = task.objective is not self.objective or self.objective is None  # what they have need not pickle
                lean = replace(task, objective=task.objective if given else None).alone()
                self.connected().send(rank, ("work", (lean, task.objective is not None and not given)))
            return [own(first), *(self.connected().receive(rank) for rank in range(1, self.size))]

    def tell(self, name: str, *given: Any) -> None:
        """Have the others do something."""
        with self.guarded():
            for rank in range(1, self.size):
                self.connected().send(rank, (name, given))

    @contextlib.contextmanager
    def together(self, name: str, *given: Any) -> Iterator[None]:
        """Have the others do something in which this rank takes part."""
        self.tell(name, *given)
        with self.guarded():
            yield

    # ---- when something fails ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Where this rank waits for others: what breaks ends all of them, and is said in words."""
        outer, self.waits_since = self.waits_since, self.waits_since or time.monotonic()
        try:
            yield
        except BaseException as error:
            self.broken, found = True, self._explained(error)
            self.close()
            if found is error:
                raise
            raise found from error
        finally:
            self.waits_since = outer

    def _explained(self, error: BaseException) -> BaseException:
        """The error, or what lies behind it."""
        if out_of_memory(error):
            return TrainingError(f"rank 0 ran out of memory ({str(error).partition(chr(10))[0]}), and cannot try with less while "
                                 f"the others wait inside the same pass: lower micro_tokens or logit_chunk, or {LESS}")
        if not lost(error):
            return error
        end, silent = time.monotonic() + GRACE, list(range(1, self.size))
        while silent and time.monotonic() < end:
            time.sleep(0.05)
            silent = [rank for rank in silent if not self._word(rank) and not self._ended(rank)]
        for rank in range(1, self.size):
            word = self._word(rank)
            if word and word["kind"] in _ERRORS:
                return _ERRORS[word["kind"]](word["text"])
            if word and word["kind"] != "link":
                return TrainingError(f"rank {rank} failed: {word['kind']}: {word['text']}\n{word['trace']}")
        for rank in range(1, self.size):  # of those that did not only wait for another
            if (gone := self._gone(rank)) and not self._word(rank):
                return TrainingError(gone)
        awaited = f"awaited: rank {', '.join(map(str, silent))} of {self.size}" if silent else "those that gave up first: " + \
            "; ".join(f"rank {rank} ({self._word(rank)['text'].partition(chr(10))[0]})" for rank in range(1, self.size))
        return TrainingError(f"the ranks waited for each other, {self.patience:g} s at most; {awaited}. All were ended: resume "
                             f"the run ({str(error).partition(chr(10))[0]})")

    def _word(self, rank: int) -> dict[str, str]:
        """What a rank has written down before it ended; empty: nothing."""
        key = f"said/{rank}"
        try:
            return json.loads(self.store.get(key)) if self.store.check([key]) else {}
        except RuntimeError:  # the store has gone down with torchrun
            return {}

    def _ended(self, rank: int) -> str:
        return self.others[rank - 1].ended() if self.others else ""

    def _gone(self, rank: int) -> str:
        """That a rank has ended, and how; empty if it has not, or that cannot be known from here."""
        how = self._ended(rank)
        return how and f"rank {rank} of {self.size} ended ({how}): resume the run. It printed:\n{self.others[rank - 1].tail()}"

    def _watch(self) -> None:
        """End this process if it waits where nothing wakes it (nccl) for a rank that is gone."""
        since: dict[int, float] = {}
        while not self.closed:
            time.sleep(1.0)
            gone = [rank for rank in range(1, self.size) if not self.closed and self._ended(rank)]
            late = [rank for rank in gone if time.monotonic() - since.setdefault(rank, time.monotonic()) > STUCK]
            if late and self.waits_since and time.monotonic() - self.waits_since > STUCK:
                print(f"groupwise: {self._gone(gone[0])}", file=sys.stderr, flush=True)
                os._exit(2)

    def close(self) -> None:
        """End the others; the connections are closed."""
        if self.closed:
            return
        well, self.closed = self.link is not None and not self.broken, True
        if well and self.link is not None:
            with contextlib.suppress(RuntimeError):
                for rank in range(1, self.size):
                    self.link.send(rank, ("end", ()))
        for other in self.others:
            other.close(GRACE if well else 0.0)
        if dist.is_initialized():
            dist.destroy_process_group()

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
