"""The gradient of a learner in shards against that of one process, for every shipped method.

    python bench/ranks.py --json bench/results/ranks.json --page docs/parallel.md

A small random model, ragged groups of several turns (those of `groupwise check`), micro-batches of which some ranks have more
than others, several ranks on this machine (gloo). What is printed is |difference| / |gradient| over all parameters.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from groupwise.core.keyed import fold
from groupwise.lab import samples
from groupwise.lab.subjects import shipped, subject_of
from groupwise.lab.trials import Subject
from groupwise.learner.learner import Learner
from groupwise.learner.parallel import Crew, Sharded
from groupwise.learner.settings import Models, Settings
from groupwise.models import adapter, blocks
from groupwise.models.build import character_tokenizer, random_policy
from groupwise.models.load import Policy, policy_of
from groupwise.objective.batch import Batch, pack
from groupwise.run.ranks import Ranks

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
VARIANTS = {"checkpointing": {"checkpointing": True}, "LoRA": {"lora": 3}, "embeddings not tied": {"tied": False},
            "mixture of experts": {"family": "qwen3_moe"}, "gpt2": {"family": "gpt2"}}
"""Models that one method is taken through beside the usual one."""
BEGIN, END = "<!-- ranks: begin -->", "<!-- ranks: end -->"
VARIED, SINGLE = "grpo", {"family", "lora"}
"""The method, and what some parts of are in single precision whatever the rest is."""


@dataclass(frozen=True)
class Toy:
    """A learner of a small random model with a reference and a value head, as every rank makes its part of it."""

    dtype: str = "float32"
    family: str = "qwen2"
    tied: bool = True
    checkpointing: bool = False
    lora: int = 0
    values: bool = True
    narrow: bool = False

    def alone(self) -> Learner:
        """The learner of one process."""
        policy, models = self._models()
        return Learner(policy, self._settings(), needs=self._needs(), models=models)

    def first(self, ranks: Ranks) -> Sharded:
        """The learner of rank 0, when the others have been told to make theirs."""
        ranks.tell("setup", self)
        made = self.other(ranks)[0]
        ranks.wait()
        return made

    def other(self, crew: Crew) -> tuple[Sharded, None]:
        """A rank's part; objectives come with the work."""
        torch.set_num_threads(1)
        policy, models = self._models()
        return Sharded(policy, self._settings(), crew=crew, needs=self._needs(), models=models), None

    def _settings(self) -> Settings:
        return Settings(lr=1e-3, micro_tokens=48, logit_chunk=320 * 16,
                        precision=torch.bfloat16 if self.narrow else torch.float32)

    def _needs(self) -> frozenset[str]:
        return frozenset({"values"} if self.values else ())

    def _models(self) -> tuple[Policy, Models]:
        policy = self._policy(0)
        if self.lora:
            adapter.add(policy.model, adapter.Lora(self.lora), seed=1)
            with torch.no_grad():  # B starts at 0, where the gradient of A would be 0 as well
                for p in adapter.trained(policy.model).values():
                    p.add_(0.01)
        if self.checkpointing:
            blocks.recompute(policy.model)
        return policy, Models({"ref": policy if self.lora else self._policy(1)})

    def _policy(self, seed: int) -> Policy:
        tokenizer = character_tokenizer()
        model = random_policy(tokenizer, family=self.family, hidden=32, layers=2, mlp=48, vocabulary=320, seed=seed,
                              extra={"tie_word_embeddings": self.tied})
        if self.dtype == "float64":
            model.double()
            for module in model.modules():
                if type(module).__name__.endswith("RMSNorm"):  # the library's go through single precision
                    module.forward = MethodType(_norm, module)
        return policy_of(model, tokenizer)


def _norm(self: Any, x: Tensor) -> Tensor:
    return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def step_of(subject: Subject, learner: Learner, seed: int) -> Batch:
    """An optimiser step of a method's: scored by the learner, with ratios off 1, credited and weighed."""
    method, default = subject.method, "old" if seed % 2 else subject.method.divides_by
    groups = samples.groups(samples.generate(seed, subject.wishes, default))
    state = method.state()
    state.observe(groups)
    batch = pack(groups, default=default, dtype=next(iter(learner.parameters.values())).dtype)
    needs = method.needs | ({"old"} if default == "old" else set())
    batch, needed = learner.scored(batch, groups, frozenset(needs))
    draw = torch.Generator().manual_seed(fold(seed, subject.name) % 2**31)
    for name in ("old_logp", "values"):
        if name in needed:
            needed[name] = needed[name] + 0.2 * torch.randn(len(batch.tokens), generator=draw, dtype=needed[name].dtype)
    batch = batch.with_columns(needed, method.objective.credit(groups, batch, needed, state)).written_by("policy")
    return method.objective.weigh(learner.planned(batch, method.objective))


def compared(subject: Subject, one: Learner, other: Sharded, seeds: int = 2) -> dict[str, float]:
    """The largest relative difference of gradients, and of log-probs (absolute), over some steps."""
    worst = {"gradient": 0.0, "norm": 0.0, "logprob": 0.0}
    for seed in range(seeds):
        batch = step_of(subject, one, seed)
        logps = [learner.logprobs(batch, (), frozenset({"old", "ref"})) for learner in (one, other)]
        worst["logprob"] = max(worst["logprob"], *(float((logps[0][name] - logps[1][name]).abs().max()) for name in logps[0]))
        for learner in (one, other):
            learner.discard()
            learner.gradients(batch, subject.objective)
        found = {name: p.grad for name, p in one.parameters.items() if p.grad is not None}
        gathered = other.gathered()
        square = sum(float(g.double().square().sum()) for g in found.values())
        away = sum(float((found.get(name, 0.0) - g).double().square().sum()) for name, g in gathered.items())
        away += sum(float(g.double().square().sum()) for name, g in found.items() if name not in gathered)
        sizes = [learner.apply()["grad_norm"] for learner in (one, other)]
        one.restore(other.snapshot())  # the next step begins at the same weights: Adam's first steps enlarge roundings
        worst["gradient"] = max(worst["gradient"], (away / max(square, 1e-300)) ** 0.5)
        worst["norm"] = max(worst["norm"], abs(sizes[0] - sizes[1]) / max(sizes[0], 1e-300))
    return worst


def measured(team: Ranks, toy: Toy, subjects: list[Subject]) -> dict[str, dict[str, float]]:
    """Every subject on new weights of one toy."""
    found = {}
    for subject in subjects:
        other = toy.first(team)
        found[subject.name] = compared(subject, toy.alone(), other)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The largest figures as Markdown, by number of ranks and format."""
    lines = ["| ranks | format | gradient | its norm | log-probs (absolute) | methods |",
             "| ---: | --- | ---: | ---: | ---: | ---: |"]
    for size, dtype in sorted({(row["ranks"], row["dtype"]) for row in rows}):
        own = [row for row in rows if (row["ranks"], row["dtype"]) == (size, dtype)]
        worst = " | ".join(f"{max(row[name] for row in own):.1e}" for name in ("gradient", "norm", "logprob"))
        lines.append(f"| {size} | {dtype} | {worst} | {len({row['method'] for row in own})} |")
    return "\n".join(lines)


def main() -> int:
    """Print and write the figures; 1 if one is above its tolerance."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--methods", nargs="*", default=[])
    parser.add_argument("--json", default="")
    parser.add_argument("--page", default="", help="write the table between the marks of this page")
    given = parser.parse_args()
    torch.set_num_threads(1)
    subjects = [subject_of(name) for name in given.methods] or shipped()
    rows, began = [], time.perf_counter()
    for size in given.ranks:
        with Ranks(size) as team:
            for dtype, most in TOLERANCE.items():
                tables = {"": (Toy(dtype), subjects)}
                if not given.methods:
                    tables |= {name: (Toy(dtype, **{"values": False, **more}), [subject_of(VARIED)])
                               for name, more in VARIANTS.items() if dtype == "float32" or not more.keys() & SINGLE}
                for variant, (toy, some) in tables.items():
                    for name, errors in measured(team, toy, some).items():
                        rows.append({"ranks": size, "dtype": dtype, "method": name, "model": variant or toy.family, **errors,
                                     "ok": errors["gradient"] <= most})
                        print(f"{size} ranks  {dtype}  {name:<24}{variant:<22}{errors['gradient']:.1e}"
                              f"{'' if rows[-1]['ok'] else '  ABOVE ' + format(most, 'g')}", flush=True)
    result = {"tolerance": TOLERANCE, "seconds": round(time.perf_counter() - began, 1), "torch": torch.__version__,
              "worst": {dtype: max(row["gradient"] for row in rows if row["dtype"] == dtype) for dtype in TOLERANCE},
              "rows": rows}
    print("worst:", result["worst"])
    if given.json:
        Path(given.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if given.page:
        before, rest = Path(given.page).read_text(encoding="utf-8").split(BEGIN)
        Path(given.page).write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    import ranks  # under its own name, by which other processes find what is sent to them

    sys.exit(ranks.main())
