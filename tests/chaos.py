"""Kill runs with SIGKILL, resume them, and compare what they end with to a run that nobody disturbed.

    python tests/chaos.py --kills 30 --seed 0 --json kills.json

Half of the kills come at a moment drawn uniformly over the time that a run takes, half at a call drawn uniformly over the calls
of a run that change the disk (os.replace, os.fsync and their like), before or after it. Children are forked from one process
that has imported everything; a few kills (`--commands`) go through `python -m groupwise train` and `resume`. Equal means: the
same bytes of metrics, evaluations, held-out prompts, the final model, and the optimiser and state of the last checkpoint. Exit
code 1 if anything differs.
"""

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from run_support import tiny_folder, tiny_run
from safetensors import safe_open

from groupwise.run.config import to_toml
from groupwise.run.loop import SETTINGS, resume, train
from groupwise.run.settings import Run

ROOT, STEPS = Path(__file__).resolve().parent.parent, 6
PATCHED = ("replace", "rename", "fsync", "unlink", "rmdir")
LAST = f"checkpoints/step-{STEPS:06d}"
COMPARED = ("metrics.jsonl", "evaluations.jsonl", "rollouts.jsonl", "heldout.jsonl", "model/model.safetensors",
            f"{LAST}/model/model.safetensors", f"{LAST}/optimizer.safetensors", f"{LAST}/state.json")
ADAPTER = "adapter/adapter_model.safetensors"
PATIENCE = 120.0  # seconds after which a child counts as hung
SCENARIOS = {
    "dr_grpo": {},
    "dapo": {"method": "dapo", "task": "run_tasks:parity", "updates_per_batch": 2},
    "grpo": {"method": "grpo", "method_args": {"kl": 0.1}, "updates_per_batch": 2, "schedule": "cosine"},
    "workers": {"workers": 2},
    "lora": {"lora_rank": 4, "method": "grpo", "method_args": {"kl": 0.1}, "checkpointing": True},
    "ahead": {"max_staleness": 1, "method": "dapo", "task": "run_tasks:parity"},
    "kernels": {"compute": "auto", "threads": 2},  # modules where there is no compiler
    "shards": {"parallel": "fsdp2", "ranks": 2},
}


class HungError(Exception):
    """A child failed, or did not end."""


@dataclass
class Fault:
    """Where to kill: after some seconds, or at a call, before or after it. Nothing set: nowhere."""

    seconds: float | None = None
    call: int | None = None
    after: bool = False

    def __str__(self) -> str:
        when = "after" if self.after else "before"
        return f"{when} call {self.call}" if self.seconds is None else f"at {self.seconds:.3f} s"


@dataclass
class Kill:
    """One kill that hit, and what the run folder looked like."""

    run: str
    how: str
    fault: str
    found: str


@dataclass
class Reference:
    """An undisturbed run: its folder, its seconds, its calls."""

    run: Run
    folder: Path
    seconds: float
    calls: list[str]


def inject(fault: Fault, log: Path) -> None:
    """In the child: count the calls that change the disk, note each in `log`, and die at one of them."""
    count, out = itertools.count(), log.open("w")

    def patched(name, original):
        def call(*args, **options):
            here = next(count) == fault.call
            out.write(f"{name} {args[0] if isinstance(args[0], str | Path) else ''}\n")
            out.flush()
            if here and not fault.after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return original(*args, **options)
            finally:
                if here:
                    os.kill(os.getpid(), signal.SIGKILL)
        return call

    for name in PATCHED:
        setattr(os, name, patched(name, getattr(os, name)))


def work(run: Run, root: Path, fault: Fault, log: Path) -> None:
    """The child: train, or resume what is there."""
    out = os.open(log.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    try:
        inject(fault, log)
        go_on(run, root)
        sys.stdout.flush()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def go_on(run: Run, root: Path) -> Path:
    """Start a run, or resume it if it has begun."""
    return resume(root / run.name) if (root / run.name / SETTINGS).exists() else train(run, root)


def launch(run: Run, root: Path, fault: Fault, log: Path) -> tuple[bool, float]:
    """Fork a child; whether it was killed, and its seconds. HungError with its output if it failed or hung."""
    began, child = time.monotonic(), os.fork()
    if child == 0:
        work(run, root, fault, log)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        passed = time.monotonic() - began
        if done:
            break
        if (fault.seconds is not None and passed >= fault.seconds) or passed > PATIENCE:
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            break
        time.sleep(0.001)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if passed > PATIENCE or (not killed and os.WEXITSTATUS(status)):
        said = log.with_suffix(".txt").read_text()
        raise HungError(f"{root / run.name}: the child failed or hung after {passed:.1f} s:\n{said}")
    return killed, passed


def state(folder: Path) -> str:
    """What lies in a run folder, in a few words."""
    lines = (folder / "metrics.jsonl").read_bytes().count(b"\n") if (folder / "metrics.jsonl").exists() else 0
    whole = [p.name for p in sorted(folder.glob("checkpoints/step-*"))]
    litter = [str(p.relative_to(folder)) for p in sorted(folder.rglob(".*")) if p.name != ".lock"]
    begun = "" if (folder / SETTINGS).exists() else "no settings yet, "
    return f"{begun}{lines} steps logged, checkpoints {whole or 'none'}{f', unfinished {litter}' if litter else ''}"


def content(path: Path) -> object:
    """A file's bytes; of a shard its tensors, which come in any order; of a checkpoint's state all but the size of the clocks'
    file.
    """
    if path.parent.name == "optimizer" and path.suffix == ".safetensors":
        with safe_open(path, "np") as file:
            return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118 (no dict)
    if path.name != "state.json":
        return path.read_bytes()
    found = json.loads(path.read_text())
    del found["record"]["timing"]
    return found


def differences(folder: Path, reference: Path) -> list[str]:
    """The files that differ from the undisturbed run's, and what should not be there."""
    whole = (reference / LAST / "model").is_dir()
    compared = COMPARED if whole else [name.replace("model/model.safetensors", ADAPTER) for name in COMPARED]
    if shards := sorted(str(file.relative_to(reference)) for file in (reference / LAST / "optimizer").glob("*")):
        compared = [*(name for name in compared if not name.endswith("optimizer.safetensors")), *shards]
    wrong = [name for name in compared if content(folder / name) != content(reference / name)]
    names = [{str(p.relative_to(f)) for p in f.rglob("*")} for f in (folder, reference)]
    return wrong + [f"only in one of the two: {name}" for name in sorted(names[0] ^ names[1])]


def drawn(draw: random.Random, reference: Reference, by_call: bool) -> Fault:
    """A fault somewhere in an undisturbed run."""
    if by_call:
        return Fault(call=draw.randrange(len(reference.calls)), after=draw.random() < 0.5)
    return Fault(seconds=draw.uniform(0.0, reference.seconds))


class Chaos:
    """All trials of one driver: kills so far, and runs that came out equal or not."""

    def __init__(self, place: Path, seed: int, scenarios: list[str]) -> None:
        self.place, self.draw, self.kills = place, random.Random(seed), list[Kill]()
        self.equal, self.problems = 0, list[str]()
        self.trials = itertools.count(1)
        self.references = [self.reference(name) for name in scenarios]

    def reference(self, name: str) -> Reference:
        """Run a scenario undisturbed."""
        run = tiny_run(self.place / "model", name, steps=STEPS, eval_every=3, checkpoint_every=2, preflight="off",
                       **SCENARIOS[name])
        (root := self.place / "reference").mkdir(exist_ok=True)
        log = self.place / f"{name}.log"
        _, seconds = launch(run, root, Fault(), log)
        print(f"{name}: {seconds:.2f} s, {len(calls := log.read_text().splitlines())} calls that change the disk", flush=True)
        return Reference(run, root / name, seconds, calls)

    def trial(self, most: int, modes: list[bool]) -> None:
        """One run, killed up to `most` times at faults of the given kinds (by call or by time), then left to end."""
        number = next(self.trials)
        reference = self.references[number % len(self.references)]
        root, log, before = self.place / f"trial-{number}", self.place / f"trial-{number}.log", len(self.kills)
        root.mkdir()
        for by_call in modes[:most]:
            fault = drawn(self.draw, reference, by_call)
            killed, _ = launch(reference.run, root, fault, log)
            if not killed:
                break
            where = f"{fault}: {log.read_text().splitlines()[-1]}" if by_call else str(fault)
            self.note(reference, "call" if by_call else "time", where, root)
        else:
            launch(reference.run, root, Fault(), log)
        self.judge(reference, root, len(self.kills) - before)

    def commands(self, kills: int) -> None:
        """One run through the command line, killed at moments drawn uniformly after it has taken its lock."""
        reference, root = self.references[-1], self.place / "commands"
        name, before = reference.run.name, len(self.kills)
        (root / "runs").mkdir(parents=True)
        (root / "settings.toml").write_text(to_toml(reference.run))
        for n in range(kills + 1):
            begun = (root / "runs" / name / SETTINGS).exists()
            words = ["resume", name] if begun else ["train", "--config", "settings.toml", "--run", name]
            moment = self.draw.uniform(0.0, reference.seconds) if n < kills else None
            if self.command(root, name, words, moment):
                self.note(reference, words[0], f"{moment:.3f} s after its lock", root / "runs")
        self.judge(reference, root / "runs", len(self.kills) - before)

    def command(self, root: Path, name: str, words: list[str], moment: float | None) -> bool:
        """Run a command; kill it `moment` seconds after it holds the run's lock. Whether it was killed."""
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        lock = root / "runs" / name / ".lock"
        with (root / "output.txt").open("w") as out:
            child = subprocess.Popen([sys.executable, "-m", "groupwise", *words], cwd=root, stdout=out, stderr=out,
                                     env={**os.environ, "PYTHONPATH": path})
            while moment is not None and child.poll() is None:
                if lock.exists() and f'"pid": {child.pid},' in lock.read_text():
                    time.sleep(moment)
                    child.kill()
                    break
                time.sleep(0.002)
            code = child.wait(PATIENCE)
        if code not in (0, -signal.SIGKILL):
            raise HungError(f"groupwise {' '.join(words)} ended with {code}:\n{(root / 'output.txt').read_text()}")
        return code != 0

    def note(self, reference: Reference, how: str, fault: str, root: Path) -> None:
        """Write down a kill."""
        folder = root / reference.run.name
        kill = Kill(reference.run.name, how, fault.replace(f"{folder}/", ""), state(folder))
        self.kills.append(kill)
        print(f"kill {len(self.kills):3d}  {kill.run:8s} {kill.how:6s} {kill.fault}  ({kill.found})", flush=True)

    def judge(self, reference: Reference, root: Path, kills: int) -> None:
        """Compare a finished run with the undisturbed one."""
        wrong = differences(root / reference.run.name, reference.folder)
        self.problems += [f"{root / reference.run.name}: {one}" for one in wrong]
        self.equal += 0 if wrong else kills
        verdict = f"DIFFERS in {', '.join(wrong)}" if wrong else "equal"
        print(f"          {reference.run.name} after {kills} kills: {verdict}", flush=True)


def main() -> int:
    """The driver."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--commands", type=int, default=2, help="how many of them through the command line")
    parser.add_argument("--per-run", type=int, default=4, help="at most so many in one run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=list(SCENARIOS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as place:
        tiny_folder(Path(place) / "model")
        chaos = Chaos(Path(place), given.seed, given.scenarios)
        try:
            if given.commands:
                chaos.commands(min(given.commands, given.kills))
            while (left := given.kills - len(chaos.kills)) > 0:
                # By call and by time in turn, whatever missed before.
                calls = sum(kill.how == "call" for kill in chaos.kills)
                first = 2 * calls <= len(chaos.kills)
                chaos.trial(min(left, chaos.draw.randint(1, given.per_run)), [first ^ bool(i % 2) for i in range(given.per_run)])
        except HungError as error:
            chaos.problems.append(str(error))
    for problem in chaos.problems:
        print(problem)
    print(f"{len(chaos.kills)} kills, {chaos.equal} equal ({time.monotonic() - began:.0f} s)")
    if given.json:
        given.json.write_text(json.dumps({"kills": [asdict(kill) for kill in chaos.kills], "equal": chaos.equal,
                                          "problems": chaos.problems, "seed": given.seed}, indent=1) + "\n")
    return 1 if chaos.problems or chaos.equal < len(chaos.kills) else 0


if __name__ == "__main__":
    sys.exit(main())
