"""Where the time of one training step goes, and how close the products come to what the processor can multiply.

    python bench/step.py --json bench/results/step.json

Runs the embedded job with kernels and notes the time of every part of a step (medians over steps). The rooflines: floating-point
operations that the matrices of the model need (2 a parameter and token in the forward, 4 in the backward; attention left out)
over the seconds they took, as a share of what the kernels' own product reaches on operands that stay in the cache.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from groupwise.kernels.build import Library, find
from groupwise.kernels.library import Compiled, peak
from groupwise.models.load import load
from groupwise.run import loop
from groupwise.run.collect import Sampler
from groupwise.run.grade import Grader
from groupwise.run.learner_settings import LearnerSettings
from groupwise.run.settings import Run

PARTS = {"sample": (Compiled, "sample"), "forward": (Compiled, "score"), "backward": (Compiled, "backward"),
         "add gradients": (Compiled, "collect"), "pack weights": (Compiled, "load"), "grade": (Grader, "rollouts"),
         "collect": (Sampler, "collect")}


def noted(cls: type, name: str, into: dict[str, float], part: str) -> None:
    """Make a method add the seconds of its calls to `into[part]`."""
    call = getattr(cls, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        out = call(*args, **kwargs)
        into[part] += time.perf_counter() - began
        return out

    setattr(cls, name, timed)


def steps(threads: int, count: int) -> tuple[list[dict[str, float]], list[dict[str, Any]], int]:
    """Seconds of the parts of every step, the record's lines, and the parameters of the model's matrices."""
    now: dict[str, float] = defaultdict(float)
    rows: list[dict[str, float]] = []
    for part, (cls, name) in PARTS.items():
        noted(cls, name, now, part)
    parameters = [0]
    step: Callable[..., None] = loop.Console.log

    def log(self: Any, *args: Any) -> None:
        timing = args[2]
        rows.append({**now, "step": timing["seconds"]})
        now.clear()
        step(self, *args)

    loop.Console.log = log  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        run = Run(name="step", steps=count, eval_every=0, checkpoint_every=0,
                  learner=LearnerSettings(compute="kernels", threads=threads))
        where = loop.train(run, Path(folder))
        lines = [json.loads(line) for line in (where / "metrics.jsonl").read_text().splitlines()]
        parameters[0] = sum(p.numel() for p in load(where / "model").model.parameters() if p.dim() == 2)
    return rows, lines, parameters[0]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    library = find()
    if not isinstance(library, Library):
        raise SystemExit(f"no kernels here: {library}")
    rate = max(peak(library, narrow=library.kind.narrow, threads=args.threads) for _ in range(10))
    rows, lines, parameters = steps(args.threads, args.steps)
    parts = {name: statistics.median(row[name] for row in rows[2:]) for name in (*PARTS, "step")}
    parts["rest of collecting"] = parts["collect"] - parts["sample"] - parts["grade"]
    trained = parts["forward"] + parts["backward"] + parts["add gradients"] + parts["pack weights"]
    parts["rest: batch, credit, objective, optimiser, record"] = parts["step"] - parts["collect"] - trained
    sampled = statistics.median(line["tokens/policy/generate"] for line in lines[2:])
    learnt = statistics.median(line["tokens_trained"] for line in lines[2:])
    report = {"kind": library.kind.name, "threads": args.threads, "seconds": parts, "tokens_sampled": sampled,
              "tokens_trained": learnt, "peak_flops": rate,
              "share_of_peak": {"sampling": 2 * parameters * sampled / parts["sample"] / rate,
                                "training": 6 * parameters * learnt / (parts["forward"] + parts["backward"]) / rate}}
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
