"""vLLM as the engine of a run, on this machine: throughput beside the native engine, cost of a sync, kills.

    python bench/vllm_engine.py --json bench/results/vllm.json            (needs `make setup-vllm`; the machine should be quiet)

throughput   completions of a step of the default run (embedded policy, 32 prompts x 8), tokens a second, median of `--repeats`
sync         seconds of giving an engine new weights and proving them, by model: the embedded one, random wider ones
faults       what the proof says where vLLM's faults in taking over weights are left in (tied embeddings; mixtures of experts)
chaos        a run whose engine is killed at random moments, beside the same run undisturbed
"""

import argparse
import json
import logging
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout is enough: nothing has to be installed

import torch  # noqa: E402
from routing import random_mixture  # noqa: E402
from versus.report import machine  # noqa: E402

from groupwise.core.rollout import Context  # noqa: E402
from groupwise.core.services import Request  # noqa: E402
from groupwise.engines.vllm.client import VLLM  # noqa: E402
from groupwise.engines.vllm.settings import EngineSettings  # noqa: E402
from groupwise.models.build import character_tokenizer, random_policy  # noqa: E402
from groupwise.models.load import policy_of, save  # noqa: E402
from groupwise.run import assemble as building  # noqa: E402
from groupwise.run.assemble import Job, assemble  # noqa: E402
from groupwise.run.disk import read_json, read_lines  # noqa: E402
from groupwise.run.learner_settings import LearnerSettings  # noqa: E402
from groupwise.run.loop import train  # noqa: E402
from groupwise.run.settings import Run  # noqa: E402

ENGINES: dict[str, dict[str, Any]] = {
    "native, kernels": {},
    "native, modules": {"learner": LearnerSettings(compute="modules", workers=1)},
    "vllm, float32": {"engine": "vllm", "serving": EngineSettings(engine_dtype="float32")},
    "vllm, bfloat16": {"engine": "vllm", "serving": EngineSettings(engine_dtype="bfloat16")},
}
MODULES = LearnerSettings(compute="modules", dtype="float32", workers=1, threads=1)


@contextmanager
def job_of(run: Run) -> Iterator[Job]:
    """The job of a run, with its engine."""
    with tempfile.TemporaryDirectory() as folder:
        job = assemble(run, Path(folder), serve=True)
        try:
            yield job
        finally:
            for part in (job.engine, job.grader, job.workers):
                part.close()


def throughput(repeats: int) -> list[dict[str, Any]]:
    """Tokens a second of each engine."""
    out = []
    for name, settings in ENGINES.items():
        began = time.perf_counter()
        with job_of(Run(**settings)) as job:
            started = time.perf_counter() - began
            speeds = []
            for i in range(repeats + 1):
                requests = [Request(Context(p.prompt.tokens), tuple(range(8 * n + 1000 * i, 8 * n + 8 + 1000 * i)), job.sampling)
                            for n, p in enumerate(job.sampler.draw(i))]
                job.engine.generate(requests)
                speeds.append(job.engine.stats["tokens"] / job.engine.stats["seconds"])
        out.append({"engine": name, "tokens_per_second": statistics.median(speeds[1:]), "first": speeds[0], "each": speeds[1:],
                    "start_seconds": started})
        print(f"{name:<18} {out[-1]['tokens_per_second']:>9,.0f} tokens/s   (start {started:.0f} s)", flush=True)
    return out


def sync(repeats: int, widths: list[int]) -> list[dict[str, Any]]:
    """The cost of new weights."""
    out = []
    with tempfile.TemporaryDirectory() as place:
        models: list[tuple[str, str]] = [("embedded", "")]
        for width in widths:
            tokenizer = character_tokenizer()
            save(policy_of(random_policy(tokenizer, hidden=width, layers=8, heads=8, kv_heads=4, mlp=4 * width), tokenizer),
                 Path(place, str(width)))
            models.append((f"random {width}", str(Path(place, str(width)))))
        for name, model in models:
            for dtype in ("float32", "bfloat16"):
                run = Run(model=model, engine="vllm", learner=MODULES, serving=EngineSettings(engine_dtype=dtype))
                with job_of(run) as job:
                    rows = [_synced(job, version) for version in range(1, repeats + 2)][1:]
                    assert isinstance(job.engine, VLLM)
                    size = len(job.engine.payload)
                out.append({"model": name, "dtype": dtype, "bytes": size,
                            "parameters": sum(p.numel() for p in job.policy.model.parameters()),
                            **{key: statistics.median(row[key] for row in rows) for key in rows[0]}})
                print(f"{name}, {dtype}: {size / 1e6:.1f} MB, sync {out[-1]['sync']:.3f} s, "
                      f"learner's side {out[-1]['prove']:.3f} s, "
                      f"gap {out[-1]['sync_gap_mean']:.2g} mean {out[-1]['sync_gap_max']:.2g} max", flush=True)
    return out


@torch.no_grad()
def _synced(job: Job, version: int, by: float = 1e-3) -> dict[str, float]:
    """New weights, near the old ones, taken over."""
    draw = torch.Generator().manual_seed(version)
    for weight in job.policy.model.parameters():
        weight.add_(by * weight.std() * torch.randn(weight.shape, generator=draw))
    job.learner.scorer.refresh()
    job.engine.load(job.learner.weights(), version=version)
    return {key: x for key, x in job.engine.clocks.items() if key != "sync_missed"}


class Said(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """One more."""
        self.lines.append(record.getMessage())


def faults() -> list[dict[str, Any]]:
    """What is said where a fault is left in, and the gap after the answer to it."""
    out = []
    with tempfile.TemporaryDirectory() as place:
        save(random_mixture(128, 2, 8, 2), Path(place, "experts"))
        for name, model, more in (("tied embeddings, not packed again", "", {"repack": False}),
                                  ("experts, taken over in place", str(Path(place, "experts")), {"reload": "in_place"})):
            said, log = Said(), logging.getLogger("groupwise")
            log.addHandler(said)
            made: Callable[..., VLLM] = building.vllm_of
            building.vllm_of = partial(made, more=more)
            try:
                run = Run(model=model, engine="vllm", learner=MODULES, sampling=replace(Run().sampling, max_tokens=32))
                with job_of(run) as job:
                    after = _synced(job, 1, 1e-2)
                    out.append({"fault": name, "said": said.lines, "in_place": job.engine.in_place,  # type: ignore[attr-defined]
                                "gap_after_new_start": after["sync_gap_mean"], "sync": after["sync"]})
            finally:
                building.vllm_of = made
                log.removeHandler(said)
            print(f"{name}: {' '.join(said.lines)}\n   then {after['sync_gap_mean']:.2g}", flush=True)
    return out


def chaos(steps: int, kills: int, seed: int) -> dict[str, Any]:
    """A run whose engine is killed, beside one that is left alone."""
    run = Run(engine="vllm", name="calm", steps=steps, eval_every=0, prompts_per_step=16,
              serving=EngineSettings(engine_restarts=20))
    with tempfile.TemporaryDirectory() as place:
        calm, calm_seconds = _timed(run, Path(place))
        engines: list[VLLM] = []
        made = building.vllm_of

        def watched(*given: Any, **named: Any) -> VLLM:
            engines.append(made(*given, **named))
            return engines[-1]

        stop, dice, hits = threading.Event(), random.Random(seed), [0]

        def killing() -> None:
            while not stop.wait(dice.uniform(1.0, 2.0 * calm_seconds / (kills + 1))):
                link = engines[-1].kept.link if engines else None
                if link is not None and hits[0] < kills:
                    hits[0] += 1
                    link.child.process.kill()  # type: ignore[attr-defined]

        building.vllm_of = watched
        threading.Thread(target=killing, daemon=True).start()
        try:
            killed, seconds = _timed(replace(run, name="killed"), Path(place))
        finally:
            stop.set()
            building.vllm_of = made
        rows = [read_lines(folder / "metrics.jsonl") for folder in (calm, killed)]
        same = sum(a == b for a, b in zip(*rows, strict=True))
        return {"steps": [len(some) for some in rows], "rollouts": [sum(row["rollouts"] for row in some) for some in rows],
                "tokens": [read_json(folder / "summary.json")["tokens"] for folder in (calm, killed)], "kills": hits[0],
                "restarts": engines[-1].kept.restarts, "steps_with_equal_records": same, "seconds": [calm_seconds, seconds]}


def _timed(run: Run, place: Path) -> tuple[Path, float]:
    began = time.perf_counter()
    return train(run, place), time.perf_counter() - began


def main(argv: list[str] | None = None) -> int:
    """Measure what is asked for, print, write."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("parts", nargs="*", default=["throughput", "sync", "faults", "chaos"])
    reader.add_argument("--repeats", type=int, default=5)
    reader.add_argument("--widths", type=int, nargs="*", default=[512, 1024])
    reader.add_argument("--steps", type=int, default=20)
    reader.add_argument("--kills", type=int, default=5)
    reader.add_argument("--seed", type=int, default=0)
    reader.add_argument("--json", default="")
    given = reader.parse_args(argv)
    work: dict[str, Callable[[], Any]] = {
        "throughput": lambda: throughput(given.repeats), "sync": lambda: sync(given.repeats, given.widths), "faults": faults,
        "chaos": lambda: chaos(given.steps, given.kills, given.seed)}
    file = Path(given.json) if given.json else None
    found: dict[str, Any] = json.loads(file.read_text()) if file is not None and file.is_file() else {}
    for part in given.parts:
        found |= {part: work[part](), "machine": machine()}
        if file is not None:
            file.write_text(json.dumps(found, indent=1) + "\n")
    if "chaos" in found:
        print(json.dumps(found["chaos"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
