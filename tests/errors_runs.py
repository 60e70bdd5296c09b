"""Cases of docs/errors.md about runs: their folders and checkpoints, the disk, signals, rewards that fail while it trains."""

import contextlib
import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import chaos
from errors_support import BEGUN, EXACT, GOES_ON, HERE, RESUME, RUN, TRAIN, UNTOUCHED, WRONG, Case, begun
from safetensors import SafetensorError

from groupwise.learner import checkpoint as learner_checkpoint
from groupwise.run import disk, loop
from groupwise.run.lock import lock

LAST = f"{RUN}/{chaos.LAST}"
ONE = "def one(completion, answer):\n"
OLDER = f"{EXACT}: the checkpoint before it is taken"


def damaged(what: str, harm: Callable[[], object], status: int = 0, kept: str = OLDER, words: str = RESUME) -> Case:
    """A run that is harmed, then resumed."""
    def make() -> None:
        begun()
        harm()
    return Case(what, words, status=status, make=make, kept=kept)


def spoil(name: str) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(Path(name).read_bytes())
    data[len(data) // 2] ^= 1
    Path(name).write_bytes(data)


def cut(name: str, size: int) -> None:
    """Keep so many bytes of a file."""
    os.truncate(name, size)


def cut_before(name: str, text: str) -> None:
    """Keep what stands before a text in a file."""
    cut(name, Path(name).read_text().index(text))


def mended() -> None:
    """The reward, as it is in the undisturbed run."""
    shutil.copy(HERE / "run_rewards.py", "mine.py")


def all_spoilt() -> None:
    for path in Path(RUN, "checkpoints").glob("*/state.json"):
        spoil(str(path))


def at(call: int, patched: object, name: str, error: BaseException) -> contextlib.AbstractContextManager[object]:
    """From the call of this number on, a function raises."""
    original, calls = getattr(patched, name), iter(range(1, 10**6))

    def counted(*given: object, **named: object) -> object:
        if next(calls) >= call:
            raise error
        return original(*given, **named)

    return mock.patch.object(patched, name, counted)


def full(name: str = "file") -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)


@contextlib.contextmanager
def read_only() -> Iterator[None]:
    """A folder that nothing can be made in, also for root."""
    with mock.patch.object(os, "mkdir", side_effect=OSError(errno.EROFS, os.strerror(errno.EROFS))):
        yield


@contextlib.contextmanager
def signalled(*numbers: signal.Signals) -> Iterator[None]:
    """In the third step signals come, one after the other."""
    packed, calls = loop.pack, iter(range(1, 10**6))

    def pack(*given: object, **named: object) -> object:
        if next(calls) == 3:
            for number in numbers:
                signal.raise_signal(number)
        return packed(*given, **named)

    with mock.patch.object(loop, "pack", pack):
        yield


def reward(what: str, body: str, status: int = 2, kept: str = BEGUN, head: str = ONE) -> Case:
    """A reward that fails while the run trains. The others have all the time that a busy machine may need."""
    deadline = 0.05 if "sleep" in body else 20
    return Case(what, f"{TRAIN} --eval-every 0 --steps 1 --verify-deadline {deadline} --rewards mine.py:one", status=status,
                files={"mine.py": f"import os, time\n{head}{body}"}, kept=kept)


FOLDERS = [
    Case("a run of that name is there", TRAIN, make=begun, kept=UNTOUCHED),
    Case("a run of a mistyped name", "resume tyni", make=begun, kept=UNTOUCHED),
    Case("no run yet", RESUME),
    Case("a run that was cut off before it began", RESUME, make=lambda: os.makedirs(RUN)),
    Case("files of yours in the folder, and a setting that is wrong", f"{TRAIN} --template r2",
         make=lambda: (os.makedirs(RUN), Path(RUN, "notes.txt").write_text("mine"))),
    Case("a file where the folder of runs should be", TRAIN, make=lambda: Path("runs").write_text("mine")),
    Case("a folder that is read-only", TRAIN, fault=read_only),
    Case("another process works on the run", RESUME, make=begun, fault=lambda: lock(Path(RUN)), kept=UNTOUCHED),
    Case("another process is just starting one of that name", TRAIN, fault=lambda: lock(Path(RUN)),
         make=lambda: (os.makedirs(f"{RUN}/base"), Path(RUN, "base/config.json").write_text("{}"))),
    Case("ranks for a run whose learner is in one process", f"{RESUME} --ranks 2", make=begun, kept=UNTOUCHED),
    damaged("its settings cut off", lambda: cut_before(f"{RUN}/run.toml", "[meta]"), 2, UNTOUCHED),
    damaged("its settings changed to an unknown one", lambda: Path(RUN, "run.toml").write_text("stepz = 3\n"), 2, UNTOUCHED),
    damaged("its base policy is gone", lambda: shutil.rmtree(f"{RUN}/base"), 2, UNTOUCHED),
    damaged("lines of its record are lost", lambda: cut(f"{RUN}/metrics.jsonl", 100), 2, UNTOUCHED),
]

CHECKPOINTS = [
    damaged("a file of the newest is cut off", lambda: cut(f"{LAST}/optimizer.safetensors", 1000)),
    damaged("a bit of it is flipped", lambda: spoil(f"{LAST}/model/model.safetensors")),
    damaged("a file of it is missing", lambda: Path(LAST, "state.json").unlink()),
    damaged("its manifest is missing", lambda: Path(LAST, "manifest.json").unlink()),
    damaged("all are damaged", all_spoilt, 2, UNTOUCHED),
]

FULL = SafetensorError(f"Error while serializing: I/O error: {os.strerror(errno.ENOSPC)} (os error {errno.ENOSPC})")
DISK = [
    Case("the disk is full before the first step", TRAIN, fault=lambda: at(1, loop, "save_policy", FULL)),
    Case("it is full at a checkpoint", TRAIN, fault=lambda: at(2, learner_checkpoint, "save_file", FULL), kept=EXACT),
    Case("it is full at a line of the record", TRAIN, fault=lambda: at(8, disk, "_line", full()), kept=EXACT),
    Case("it is full at the end", TRAIN, fault=lambda: at(1, loop, "finish", full()), kept=EXACT),
]

STOPS = [
    Case("Ctrl-C", TRAIN, status=130, fault=lambda: signalled(signal.SIGINT), kept=EXACT),
    Case("SIGTERM", TRAIN, status=130, fault=lambda: signalled(signal.SIGTERM), kept=EXACT),
    Case("Ctrl-C twice", TRAIN, status=130, fault=lambda: signalled(signal.SIGINT, signal.SIGINT), kept=EXACT),
]

REWARDS = [
    Case("it raises, always", f"{TRAIN} --rewards digits=mine.py:digits", kept=EXACT, mend=mended,
         files={"mine.py": "def digits(completion, answer):\n    return 1.0 / 0\n"}),
    reward("it raises, at some answers", "    return 1.0 / (len(completion) % 2)\n", 0, GOES_ON),
    reward("it returns NaN, always", "    return float('nan')\n"),
    reward("it returns NaN, at some answers", "    return 1.0 if len(completion) % 2 else float('nan')\n", 0, GOES_ON),
    reward("it returns something else", "    return 'good'\n"),
    reward("it returns a list of a wrong length", "    return [1.0] * 3\n", head="def one(completions, **columns):\n"),
    reward("it asks for a column that is not there", "    return 1.0\n", head="def one(completion, answer, levl):\n"),
    reward("it blocks, always", "    time.sleep(60)\n"),
    reward("it blocks, at some answers", "    if 3 < len(completion) < 6: time.sleep(60)\n    return 1.0\n", 0, WRONG),
    reward("it ends its process, at some answers", "    if 3 < len(completion) < 6: os._exit(3)\n    return 1.0\n", 0, GOES_ON),
]

HOPELESS = """model = "model"
name = "tiny"
task = "run_tasks:hopeless"
method = "dapo"
prompts_per_step = 2
group_size = 2
eval_every = 0
sampling = {max_tokens = 4}
learner = {workers = 1, compute = "modules"}
"""
TRAINING = [
    Case("no group has anything to compare, three steps in a row", "train --config own.toml", files={"own.toml": HOPELESS},
         kept=BEGUN),
    Case("gradients that are not finite, three in a row", f"{TRAIN} --rewards mine.py:one", kept=BEGUN,
         files={"mine.py": f"{ONE}    return 1e300 * len(completion)\n"}),
]
