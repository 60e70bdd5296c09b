"""How time and memory grow with the length of completions, the size of groups, the vocabulary and the model.

    python bench/scaling.py --json bench/results/scaling.json --plot docs/scaling.png

Every point is a process of its own: a random policy samples completions of a fixed length and takes one gradient step on them
(medians of a few repeats). The slope between the last points, in doublings of time for a doubling of size, says how it grows.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BASE = {"hidden": 256, "layers": 4, "vocabulary": 32, "prompts": 8, "group": 8, "context": 32, "tokens": 64}
SWEEPS: dict[str, tuple[str, list[dict[str, int]]]] = {
    "length": ("tokens of a completion", [{"tokens": n} for n in (32, 64, 128, 256, 512, 1024)]),
    "group": ("completions of a prompt", [{"group": n} for n in (2, 4, 8, 16, 32, 64)]),
    "context": ("tokens of a prompt", [{"context": n} for n in (16, 64, 256, 1024)]),
    "vocabulary": ("words", [{"vocabulary": n} for n in (32, 512, 8192, 32768, 131072)]),
    "model": ("width", [{"hidden": n} for n in (64, 128, 256, 512, 1024)]),
}
REPEATS = 3
MEMORY = (250, 500, 1000, 2000, 4000, 8000)


def median(call: Callable[[], Any]) -> float:
    """Seconds of a call, in the median, after one that is not counted."""
    call()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def measure(point: dict[str, Any]) -> dict[str, float]:
    """One point, in this process."""
    from groupwise.core.keyed import fold
    from groupwise.core.rollout import Context, Episode, Group, Prompt, Rollout, Turn
    from groupwise.core.services import Request, Sampling
    from groupwise.core.verdict import Component, Verdict
    from groupwise.learner.compiled import KernelScorer
    from groupwise.learner.learner import Learner
    from groupwise.learner.settings import Settings
    from groupwise.methods import METHODS
    from groupwise.models.build import character_tokenizer, random_policy
    from groupwise.models.load import policy_of
    from groupwise.objective.batch import pack
    from groupwise.run.compute import compiler, engine_of, kernels_of

    tokenizer, size = character_tokenizer(), point["hidden"]
    model = random_policy(tokenizer, hidden=size, layers=point["layers"], heads=max(1, size // 64), kv_heads=max(1, size // 128),
                          mlp=2 * size, context=point["context"] + point["tokens"] + 1)
    model.resize_token_embeddings(point["vocabulary"], mean_resizing=False)
    policy = policy_of(model, tokenizer)
    policy.eos_ids = ()  # every completion is as long as it may be
    library = kernels_of(point["compute"], policy, "cpu")
    learner = Learner(policy, Settings(micro_tokens=1024 if isinstance(library, str) else 2048),
                      compile=compiler(library, point["threads"], "auto"))
    engine = engine_of(policy, learner.scorer.compiled if isinstance(learner.scorer, KernelScorer) else None)
    contexts = [tuple(3 + fold(i, t) % 20 for t in range(point["context"])) for i in range(point["prompts"])]
    sampling = Sampling(max_tokens=point["tokens"])
    requests = [Request(Context(c), tuple(fold(7, i, j) for j in range(point["group"])), sampling)
                for i, c in enumerate(contexts)]
    generate = median(lambda: engine.generate(requests))
    groups = []
    for i, (context, some) in enumerate(zip(contexts, engine.generate(requests), strict=True)):
        prompt = Prompt(f"p{i}", "", 1, tokens=context)
        episodes = [Episode(prompt, (Turn(Context(context), c),)) for c in some]
        rollouts = tuple(Rollout(e, Verdict(j % 2 == 0), (Component("r", float(j % 2)),)) for j, e in enumerate(episodes))
        groups.append(Group(f"g{i}", prompt, rollouts))
    objective = METHODS["dr_grpo"](max_tokens=point["tokens"]).objective
    batch = pack(groups)
    batch = objective.weigh(batch.with_columns({}, objective.credit(groups, batch, {})))

    def train() -> None:
        learner.gradients(batch, objective)
        learner.apply()

    return {"generate": generate, "train": median(train), "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def sweep(name: str, compute: str, threads: int) -> list[dict[str, float]]:
    """The points of one sweep, each in a process of its own."""
    rows = []
    for change in SWEEPS[name][1]:
        point = {**BASE, **change, "compute": compute, "threads": threads}
        done = subprocess.run([sys.executable, __file__, "--point", json.dumps(point)], capture_output=True, text=True,
                              timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode != 0:
            raise SystemExit(f"{name} {change} failed:\n{done.stderr[-2000:]}")
        rows.append({"size": next(iter(change.values())), **json.loads(done.stdout.splitlines()[-1])})
        print(name, rows[-1], flush=True)
    return rows


def slope(rows: list[dict[str, float]], what: str) -> float:
    """Growth between the last two points: 1 is linear, 2 quadratic."""
    a, b = rows[-2:]
    return math.log(b[what] / a[what]) / math.log(b["size"] / a["size"])


def draw(report: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Time and memory against size, both axes logarithmic, with the linear slope for the eye."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(report), figsize=(3.4 * len(report), 6), constrained_layout=True)
    for (name, rows), (top, bottom) in zip(report.items(), axes.T, strict=True):
        sizes = [row["size"] for row in rows]
        for what, colour in (("generate", "#3b6fb6"), ("train", "#c2573a")):
            top.loglog(sizes, [row[what] for row in rows], "o-", color=colour, label=what)
        last = rows[-1]
        top.loglog(sizes, [last["train"] * s / last["size"] for s in sizes], ":", color="0.6", label="linear")
        bottom.loglog(sizes, [row["memory_mb"] for row in rows], "o-", color="0.3")
        top.set(title=name, ylabel="seconds" if name == next(iter(report)) else "")
        bottom.set(xlabel=SWEEPS[name][0], ylabel="peak memory, MB" if name == next(iter(report)) else "", ylim=(200, 8000))
        for axis in (top, bottom):
            axis.minorticks_off()
            axis.set_xticks(sizes, [f"{n // 1024}k" if n >= 4096 else str(n) for n in map(int, sizes)], fontsize=8)
            axis.grid(True, alpha=0.2)
        bottom.set_yticks(MEMORY, [str(n) for n in MEMORY])
    axes[0][0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SWEEPS, default=list(SWEEPS))
    parser.add_argument("--compute", default="auto", choices=("auto", "kernels", "modules"))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        import torch
        torch.set_num_threads(1)
        print(json.dumps(measure(args.point)))
        return
    found = {name: sweep(name, args.compute, args.threads) for name in args.only}
    report = {"base": BASE, "compute": args.compute, "threads": args.threads, "sweeps": found,
              "slopes": {name: {what: round(slope(rows, what), 2) for what in ("generate", "train", "memory_mb")}
                         for name, rows in found.items()}}
    print(json.dumps(report["slopes"], indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.plot:
        draw(found, args.plot)


if __name__ == "__main__":
    main()
