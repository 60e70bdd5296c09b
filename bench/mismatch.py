"""What each treatment of the mismatch between a bfloat16 engine and a float32 learner does to the gradient of a batch.

    python bench/mismatch.py --json bench/results/mismatch.json --markdown docs/vllm.md      (needs `make setup-vllm`)
    python bench/mismatch.py --engine native                                    (the package's own engine, in bfloat16)

One batch of rollouts is sampled from the embedded policy by the engine, and each method's gradient is taken on it at the very
weights that sampled, so a ratio that is not 1 is mismatch and nothing else. `stopped`: what the trust rule stops (tokens;
sequences for gspo). `norm` and `cosine` compare with the gradient of behaviour `old` without a correction, which is that of an
engine without mismatch.
"""

import argparse
import copy
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout is enough: nothing has to be installed

import torch  # noqa: E402
from versus.report import machine  # noqa: E402

from groupwise.core.rollout import Group  # noqa: E402
from groupwise.engines.native import Native  # noqa: E402
from groupwise.engines.vllm.settings import EngineSettings  # noqa: E402
from groupwise.objective.batch import pack  # noqa: E402
from groupwise.run.assemble import Job, assemble  # noqa: E402
from groupwise.run.compose import method_of  # noqa: E402
from groupwise.run.learner_settings import LearnerSettings  # noqa: E402
from groupwise.run.settings import Run  # noqa: E402

METHODS = {"grpo": "token", "dapo": "token", "cispo": "token", "gspo": "sequence", "gmpo": "sequence", "vespo": "sequence"}
"""Methods and the unit of their ratio."""
ARGUMENTS = {"grpo": {"kl": 0.0}}
"""No pull towards a reference: it is the same under every treatment."""
TREATMENTS: dict[str, dict[str, Any]] = {
    "old": {},
    "recorded": {"behaviour": "recorded"},
    "truncated, token": {"correction": "truncated"},
    "truncated, sequence": {"correction": "truncated", "correction_args": {"unit": "sequence"}},
    "masked, token": {"correction": "masked"},
    "rejected, geometric mean": {"correction": "rejected"},
    "rejected, worst token": {"correction": "rejected", "correction_args": {"statistic": "k3", "over": "max", "low": "none",
                                                                          "high": 0.01}},
    "normalised": {"correction": "normalised"},
}
SHOWN = ("grpo", "gspo", "vespo")
"""Methods in the table; the file has all of them."""
COLUMNS = ("stopped", "ess", "correction_mean", "norm", "cosine")


def run_of(engine: str, prompts: int) -> Run:
    """The settings: float32 modules that train, bfloat16 that samples."""
    learner = LearnerSettings(compute="modules", dtype="float32", workers=1, threads=1, device="cpu")
    own = EngineSettings(engine_dtype="bfloat16") if engine == "vllm" else EngineSettings()
    return Run(learner=learner, engine="vllm" if engine == "vllm" else "native", serving=own, prompts_per_step=prompts)


def rollouts(job: Job, engine: str) -> list[Group]:
    """Groups that a bfloat16 engine sampled."""
    if engine == "native":
        narrow = replace(job.policy, model=copy.deepcopy(job.policy.model).to(torch.bfloat16))
        job.sampler.engine = Native(narrow)
    return job.sampler.collect(job.sampler.draw(0), 0)


def gradient(job: Job, groups: list[Group], run: Run) -> tuple[torch.Tensor, dict[str, float]]:
    """The gradient of a method on the groups, as one vector, and what was seen on the way."""
    method, learner = method_of(run, job.sampling.max_tokens), job.learner
    batch = pack(groups, default=method.divides_by)
    batch, needed = learner.scored(batch, groups, method.needs)
    batch = method.objective.weigh(batch.with_columns(needed, method.objective.credit(groups, batch, needed)))
    learner.discard()
    stats = learner.gradients(batch, method.objective)
    vector = torch.cat([p.grad.flatten().double() for p in learner.parameters.values() if p.grad is not None])
    learner.discard()
    return vector, stats


def measure(engine: str, prompts: int) -> dict[str, Any]:
    """All methods under all treatments, on one batch."""
    run = run_of(engine, prompts)
    with tempfile.TemporaryDirectory() as folder:
        job = assemble(run, Path(folder), serve=engine == "vllm")
        try:
            groups = rollouts(job, engine)
            rows, gap = [], {}
            for method, unit in METHODS.items():
                plain: torch.Tensor | None = None
                for name, settings in TREATMENTS.items():
                    own = replace(run, method=method, method_args=ARGUMENTS.get(method, {}), **settings)
                    vector, stats = gradient(job, groups, own)
                    plain = vector if plain is None else plain
                    gap = gap or {key: x for key, x in stats.items() if key.startswith("mismatch")}
                    norm = float(vector.norm() / plain.norm())
                    rows.append({"method": method, "unit": unit, "treatment": name, "norm": norm,
                                 "stopped": stats.get("clip_low", 0.0) + stats.get("clip_high", 0.0), "ess": stats.get("ess"),
                                 "correction_mean": stats.get("correction_mean"),
                                 "cosine": float(vector @ plain / (vector.norm() * plain.norm())) if norm > 0 else None})
        finally:
            job.engine.close()
            job.grader.close()
            job.workers.close()
    return {"engine": engine, "rollouts": sum(len(g.rollouts) for g in groups), "mismatch": gap, "rows": rows,
            "machine": machine()}


def table(found: dict[str, Any]) -> str:
    """The rows, as markdown."""
    head = "| method | ratio | treatment | " + " | ".join(COLUMNS) + " |\n| --- | --- | --- |" + " ---: |" * len(COLUMNS)
    lines = [f"| `{r['method']}` | {r['unit']} | {r['treatment']} | "
             + " | ".join("-" if r[c] is None else f"{r[c]:.3g}" for c in COLUMNS) + " |"
             for r in found["rows"] if r["method"] in SHOWN]
    gap = found["mismatch"]
    first = (f"{found['rollouts']} rollouts; mismatch of a token {gap['mismatch_mean']:.2g} nats in the mean and "
             f"{gap['mismatch_max']:.2g} at most, of a sequence {gap['mismatch_sequence']:.2g}, per token of a sequence "
             f"{gap['mismatch_sequence_rate']:.2g}.")
    return "\n".join([first, "", head, *lines])


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--engine", choices=("vllm", "native"), default="vllm")
    reader.add_argument("--prompts", type=int, default=32)
    reader.add_argument("--json", default="")
    reader.add_argument("--markdown", default="", help="page with marks <!-- mismatch: begin --> and end")
    given = reader.parse_args(argv)
    torch.set_num_threads(1)
    found = measure(given.engine, given.prompts)
    print(table(found))
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=1) + "\n")
    if given.markdown:
        page, (begin, end) = Path(given.markdown), (f"<!-- mismatch: {mark} -->" for mark in ("begin", "end"))
        before, _, rest = page.read_text().partition(begin)
        page.write_text(f"{before}{begin}\n{table(found)}\n{end}{rest.partition(end)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
