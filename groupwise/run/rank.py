"""Another rank of a learner in shards: `python -m groupwise.run.rank`, or any but the first that torchrun starts.

It holds its part of every weight and does what rank 0 says: makes its learner ("setup"), works on its share of a batch ("work"),
calls its learner's methods (apply, discard, weights, write ...), and ends ("end"). What fails is written down at the store.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from groupwise.learner.parallel import Sharded
from groupwise.learner.work import Outcome, Task
from groupwise.models.memory import out_of_memory
from groupwise.objective.objective import Objective
from groupwise.run.link import LISTENING, Link, launched, lost, meeting


class Told:
    """The ranks as one of the others has them (`Crew`): it does as it is told, and tells nobody."""

    def __init__(self, link: Link) -> None:
        self.size, self.link = link.size, link

    def mesh(self) -> DeviceMesh:
        """Where the shards lie."""
        return self.link.mesh

    def run(self, tasks: Sequence[Task], own: Callable[[Task], Outcome]) -> list[Outcome]:
        """The share that rank 0 sent."""
        return [own(task) for task in tasks]

    def tell(self, name: str, *given: Any) -> None:
        """Rank 0 tells."""

    @contextlib.contextmanager
    def together(self, name: str, *given: Any) -> Iterator[None]:
        """All are at it already."""
        yield


def serve(link: Link) -> None:
    """Do what rank 0 says until it says that this is the end."""
    learner: Sharded | None = None
    objective: Objective | None = None
    while True:
        name, given = link.receive(0, order=True)
        if name == "end":
            return
        if name == "setup":
            learner = None  # of an earlier one the shards go first
            learner, objective = given[0].other(Told(link))
            link.send(0, "ready", LISTENING)  # rank 0 may be reading prompts
            continue
        assert learner is not None
        if name == "work":
            task, own = given
            link.send(0, learner.work(replace(task, objective=objective) if own else task))
        else:
            getattr(learner, name)(*given)


def _word(error: BaseException) -> dict[str, str]:
    """What rank 0 is to know of an error: its class if it is one of ours; link: another rank was lost, or awaited too long."""
    if out_of_memory(error):
        return {"kind": "TrainingError", "text": f"rank {os.environ['RANK']} ran out of memory ({error}): lower micro_tokens or "
                "logit_chunk, take LoRA or checkpointing, or more ranks", "trace": ""}
    return {"kind": "link" if lost(error) else type(error).__name__, "text": str(error), "trace": traceback.format_exc()}


def _end_with_parent() -> None:
    """Rank 0 holds this process's standard input open; when it is gone, so is this process, wherever it waits."""
    os.read(0, 1)  # nothing is ever written there
    os._exit(1)


def follow() -> int:
    """Be a rank that is told what to do; the exit status. Signals are rank 0's to answer."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if not launched():
        threading.Thread(target=_end_with_parent, daemon=True).start()
    store, rank, size = meeting()
    try:
        store.set(f"here/{rank}", "")
        store.wait(["begin"], LISTENING if launched() else timedelta(minutes=30))
        given = json.loads(store.get("begin"))
        serve(Link(store, rank, size, given["device"], given["patience"]))
        dist.destroy_process_group()
        return 0
    except BaseException as error:  # whatever it is, rank 0 waits, and is to say it
        traceback.print_exc()
        with contextlib.suppress(RuntimeError):  # rank 0 may be what is gone
            store.set(f"said/{rank}", json.dumps(_word(error)))
        sys.stderr.flush()
        os._exit(1)  # without a word to the others, who notice at once


if __name__ == "__main__":
    sys.exit(follow())
