"""How the ranks of a learner in shards find and talk to each other.

They meet at a store, a small table over TCP. What rank 0 says, what the others answer, and the shards go through process groups:
gloo on processors, nccl between GPUs.
"""

import os
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore, Store

from groupwise.errors import ConfigError, GroupwiseError
from groupwise.run.settings import Run
from groupwise.run.shared import packed, unpacked

STARTING = 300.0
"""Seconds that a rank may take to load its libraries."""
LISTENING = timedelta(days=1)
"""How long a rank waits for the next word of rank 0, which samples in between; it ends at once when rank 0 does."""
LINK = ("gloo", "nccl", "connection", "timed out", "timeout", "broken pipe", "socket", "store")
"""Words of the errors that say a connection failed, not what ran over it."""


def launched() -> int:
    """How many ranks torchrun has started; 0 if it did not start this process."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def number(wanted: int, device: str) -> int:
    """How many ranks a learner in shards has. ConfigError: other than torchrun started, or more than there are GPUs."""
    started, gpus = launched(), torch.cuda.device_count() if device.startswith("cuda") else 0
    if not dist.is_available():
        raise ConfigError("parallel=fsdp2: this PyTorch was built without torch.distributed; take parallel=none")
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"parallel=fsdp2 and device={device}: each rank takes a GPU of its own; take device=cuda, and choose "
                          "GPUs by CUDA_VISIBLE_DEVICES")
    if started and wanted not in (0, started):
        raise ConfigError(f"ranks={wanted}, but torchrun started {started} processes: leave ranks at 0, or start {wanted} "
                          f"(torchrun --nproc-per-node {wanted})")
    found = started or wanted or gpus or 2
    if gpus and not started and found > gpus:
        raise ConfigError(f"ranks={found}, but there {'is 1 GPU' if gpus == 1 else f'are {gpus} GPUs'}: two ranks cannot share "
                          f"one; take ranks={gpus}, or device=cpu")
    return found


def launched_for(run: Run, ranks: int = 0) -> Run:
    """The run with this number of ranks; 0: its own.

    ConfigError: torchrun started several processes, or ranks were given, for a learner that is not in shards.
    """
    started = launched()
    if started and os.environ["RANK"] != "0":
        raise ConfigError(f"this is rank {os.environ['RANK']} of {started} that torchrun started, and rank 0 is to run the loop: "
                          "let torchrun start `-m groupwise train ...`, or leave it off, and the run starts its ranks itself")
    if max(ranks, started) > 1 and run.learner.parallel == "none":
        how = f"torchrun started {started} processes" if started else f"ranks={ranks} was given"
        raise ConfigError(f"{how}, and the run has parallel=none: its learner is in one process; leave that off, or start a run "
                          "with parallel=fsdp2")
    return replace(run, learner=replace(run.learner, ranks=ranks)) if ranks and run.learner.parallel != "none" else run


def alone(run: Run) -> Run:
    """The run in one process: what looks at a run before or after it needs no shards."""
    return replace(run, learner=replace(run.learner, parallel="none", ranks=0))


class Link:
    """The connections of one rank: `mesh` is where shards lie. Other ranks must open theirs at the same time."""

    def __init__(self, store: Store, rank: int, size: int, device: str, patience: float) -> None:
        self.store, self.rank, self.size, self.device = store, rank, size, device
        if device == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)))
        dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", store=PrefixStore("group", store),
                                rank=rank, world_size=size, timeout=timedelta(seconds=patience))
        self.mesh, self.patience = init_device_mesh(device, (size,)), timedelta(seconds=patience)

    def send(self, rank: int, message: Any, most: timedelta | None = None) -> None:
        """Send to a rank, which takes it within `most`, or the patience. RuntimeError: it is gone, or does not listen."""
        data = torch.frombuffer(packed(message), dtype=torch.uint8)
        for part in (torch.tensor([len(data)]), data):
            _done(dist.isend(part, rank), most or self.patience)

    def receive(self, rank: int, *, order: bool = False) -> Any:
        """What a rank sends, its tensors on this device; an order may be long in coming. RuntimeError: it is gone, or late."""
        size = torch.zeros(1, dtype=torch.int64)
        _done(dist.irecv(size, rank), LISTENING if order else self.patience)
        data = torch.empty(int(size), dtype=torch.uint8)
        _done(dist.irecv(data, rank), self.patience)
        return unpacked(data.numpy().data, self.device)


def _done(work: dist.Work | None, most: timedelta) -> None:
    assert work is not None
    work.wait(most)


def store_at(port: int, *, host: str = "127.0.0.1", master: bool) -> TCPStore:
    """The table where ranks meet; a port of 0: any that is free."""
    return TCPStore(host, port, is_master=master, wait_for_workers=False, timeout=timedelta(seconds=STARTING))


def meeting() -> tuple[Store, int, int]:
    """The store at which the environment says that ranks meet, this rank, and how many there are."""
    place, rank = os.environ, int(os.environ["RANK"])
    master = rank == 0 and place.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = store_at(int(place["MASTER_PORT"]), host=place["MASTER_ADDR"], master=master)
    return PrefixStore(f"groupwise/{place.get('TORCHELASTIC_RESTART_COUNT', '0')}", store), rank, int(place["WORLD_SIZE"])


def lost(error: BaseException) -> bool:
    """Whether an error says that a connection to another rank failed, or that one was awaited too long."""
    plain = isinstance(error, RuntimeError) and not isinstance(error, GroupwiseError)
    return plain and any(word in str(error).lower() for word in LINK)
