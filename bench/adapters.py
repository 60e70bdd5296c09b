"""What the ways to train cost and keep: full fine-tuning, LoRA and quantised bases, on the embedded policy or another one.

    python bench/adapters.py [--model FOLDER] [--task reduce] [--steps 5] [--json FILE]

Every row is a short run of `groupwise train` on the model's own modules. Trained: parameters. Weights, moments: MiB of the policy
and of the optimiser's state. Kept: MiB that one micro-batch of 64 rollouts keeps for its backward. Mismatch: mean difference
of log-probs between the engine that sampled and the learner. Exported: mean difference between the policy that was trained and
its `model` folder, read by `load` in fp32. On base: the same with its `adapter` on the unquantised base.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout is enough: nothing has to be installed

from groupwise.learner.learner import Learner  # noqa: E402
from groupwise.models.bits import Quantised  # noqa: E402
from groupwise.models.load import Policy, load  # noqa: E402
from groupwise.objective.batch import Batch, pack  # noqa: E402
from groupwise.run.assemble import Job, assemble  # noqa: E402
from groupwise.run.learner_settings import LearnerSettings  # noqa: E402
from groupwise.run.learning import settings_of  # noqa: E402
from groupwise.run.loop import train  # noqa: E402
from groupwise.run.policy import policy_for  # noqa: E402
from groupwise.run.settings import Run  # noqa: E402

MIB = 2**20
LORA: dict[str, Any] = {"lora_rank": 8, "lr": 6e-4}
NARROW = LORA | {"weights": "bfloat16"}
ROWS: dict[str, dict[str, Any]] = {
    "full": {}, "full, checkpointing": {"checkpointing": True}, "full, adamw8bit": {"optimizer": "adamw8bit"},
    "full, bf16 products": {"dtype": "bfloat16"}, "full, bf16 products, fp32 head": {"dtype": "bfloat16", "head_float32": True},
    "LoRA": LORA, "LoRA, checkpointing": LORA | {"checkpointing": True}, "LoRA, bf16": NARROW,
    "LoRA, bf16, fp32 head": NARROW | {"head_float32": True}, "LoRA, int8": LORA | {"quantise": "int8"},
    "LoRA, nf4": LORA | {"quantise": "nf4"}, "LoRA, bf16, nf4, fp32 head": NARROW | {"quantise": "nf4", "head_float32": True}}
COLUMNS = ("trained", "weights", "moments", "kept", "mismatch", "exported", "on_base")


def run_of(args: argparse.Namespace, settings: dict[str, Any]) -> Run:
    """A short run on modules, in one process."""
    learner = LearnerSettings(**{"device": "cpu", "compute": "modules", "workers": 1, "threads": 1, "dtype": "auto",
                                 "micro_tokens": 4096} | settings)
    return Run(name="run", task=args.task, model=args.model, method="grpo", method_args={"kl": 0.0}, steps=args.steps,
               prompts_per_step=8, group_size=8, eval_every=0, checkpoint_every=0, learner=learner)


def bytes_of(policy: Policy) -> int:
    """Memory of the weights; the scales of quantised ones are left out (0.02 bytes a weight)."""
    codes = sum(m.codes.nbytes for m in policy.model.modules() if isinstance(m, Quantised))
    return codes + sum(p.nbytes for p in policy.model.parameters())


def kept_by(job: Job, batch: Batch, groups: Any) -> int:
    """Bytes that the backward of a batch keeps, the parameters themselves left out."""
    own = {p.data_ptr() for p in job.policy.model.parameters()}
    seen: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            seen[tensor.data_ptr()] = tensor.nbytes
        return tensor

    objective = job.method.objective
    weighed = objective.weigh(batch.with_columns({}, objective.credit(groups, batch, {})))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        job.learner.gradients(weighed, objective)
    return sum(seen.values())


def row_of(args: argparse.Namespace, settings: dict[str, Any], place: Path) -> dict[str, float]:
    """One line of the table."""
    folder = train(run_of(args, settings), place)
    last = next(folder.glob("checkpoints/step-*"))
    weights = next(path for path in (last / "adapter", last / "model") if path.is_dir())
    job = assemble(run_of(args, settings), folder, weights)
    with job.workers, job.grader:
        groups = job.sampler.collect(job.sampler.draw(args.steps), args.steps)
        batch = pack(groups)
        logp = job.learner.logprobs(batch, groups, frozenset({"old"}))["old_logp"]
        size = (last / "optimizer.safetensors").stat().st_size
        found = {"trained": sum(p.numel() for p in job.learner.parameters.values()), "weights": bytes_of(job.policy) / MIB,
                 "moments": size / MIB, "kept": kept_by(job, batch, groups) / MIB,
                 "mismatch": float((logp - batch.columns["engine_logp"]).abs().mean())}
        plain = replace(settings_of(job.run, job.method), precision=torch.float32, optimizer="adamw")

        def apart(policy: Policy) -> float:
            other = Learner(policy, plain).logprobs(batch, groups, frozenset({"old"}))["old_logp"]
            return float((other - logp).abs().mean())

        found["exported"] = apart(load(folder / "model"))
        if job.run.learner.lora_rank:
            whole = replace(job.run.learner, quantise="none", weights="float32", head_float32=False)
            found["on_base"] = apart(policy_for(whole, folder / "base", weights))
        return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="")
    parser.add_argument("--task", default="reduce")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--json", type=Path)
    args, table = parser.parse_args(), {}
    for name in args.rows:
        with tempfile.TemporaryDirectory() as place:
            table[name] = row_of(args, ROWS[name], Path(place))
    print("| training | " + " | ".join(COLUMNS) + " |\n| --- |" + " ---: |" * len(COLUMNS))
    for name, row in table.items():
        cells = [f"{row[c]:,.0f}" if c == "trained" else f"{row[c]:.1f}" if c in ("weights", "moments", "kept")
                 else f"{row[c]:.1e}" if c in row else "-" for c in COLUMNS]
        print(f"| {name} | " + " | ".join(cells) + " |")
    if args.json:
        args.json.write_text(json.dumps({"steps": args.steps, "model": args.model, "rows": table}, indent=1))


if __name__ == "__main__":
    main()
