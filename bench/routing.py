"""How far the log-probs of an engine and of a learner are apart on a mixture of experts, with live routes and with recorded ones.

    python bench/routing.py --json bench/results/routing.json

Same weights on both sides, one of them in bfloat16. The model is a small Qwen3-MoE, first random, then warmed up here on the
embedded task. `changed` is the share of the engine's choices of experts that the learner's router would not make, `over_2x` the
share of tokens whose probabilities are more than a factor of two apart, `after_update` the share of its own choices that the
learner's router would not make again after one optimiser step.
"""

import argparse
import copy
import json
import math
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout is enough: nothing has to be installed

import torch  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402
from versus.report import machine  # noqa: E402

from groupwise.core.rollout import Context, Episode, Group, Rollout, Turn  # noqa: E402
from groupwise.core.services import Request, Sampling  # noqa: E402
from groupwise.core.verdict import Component, Verdict  # noqa: E402
from groupwise.engines.native import Native  # noqa: E402
from groupwise.learner.learner import Learner  # noqa: E402
from groupwise.learner.settings import Settings  # noqa: E402
from groupwise.methods import METHODS  # noqa: E402
from groupwise.models import routing  # noqa: E402
from groupwise.models.build import character_tokenizer  # noqa: E402
from groupwise.models.load import Policy, load, policy_of, save  # noqa: E402
from groupwise.models.template import fill  # noqa: E402
from groupwise.objective.batch import pack  # noqa: E402
from groupwise.tasks import make  # noqa: E402

OLD = frozenset({"old"})


def random_mixture(hidden: int, layers: int, experts: int, k: int) -> Policy:
    """A random Qwen3-MoE over characters, its matrices with a standard deviation of 0.05."""
    tokenizer = character_tokenizer()
    config = AutoConfig.for_model(
        "qwen3_moe", vocab_size=32, hidden_size=hidden, intermediate_size=hidden, moe_intermediate_size=hidden // 2,
        num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2, head_dim=hidden // 4, num_experts=experts,
        num_experts_per_tok=k, norm_topk_prob=True, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=1,
        eos_token_id=2, pad_token_id=0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0.0, 0.05, generator=draw)
    return policy_of(model, tokenizer)


def rollouts(policy: Policy, prompts: int, dtype: torch.dtype) -> list[Group]:
    """Groups of eight that an engine with weights of this dtype samples, with its routes."""
    engine_policy = Policy(copy.deepcopy(policy.model).to(dtype), policy.tokenizer, policy.eos_ids, policy.pad_id)
    found = routing.find(engine_policy.model, "recorded")
    assert isinstance(found, routing.Routing), found
    engine_policy.routing = found
    asked = fill(make("reduce", {}).train[:prompts], policy.tokenizer, "none", 400)
    requests = [Request(Context(p.tokens), tuple(range(8 * i, 8 * i + 8)), Sampling(64)) for i, p in enumerate(asked)]
    out = []
    for prompt, done in zip(asked, Native(engine_policy).generate(requests), strict=True):
        made = tuple(Rollout(Episode(prompt, (Turn(Context(prompt.tokens), one),)), Verdict(True), (Component("r", i % 2),))
                     for i, one in enumerate(done))
        out.append(Group(prompt.id, prompt, made))
    return out


def learner_of(policy: Policy, source: routing.Source, precision: torch.dtype) -> Learner:
    """A learner on a copy of the policy."""
    own = replace(policy, model=copy.deepcopy(policy.model))
    found = routing.find(own.model, source)
    assert isinstance(found, routing.Routing), found
    own.routing = found
    return Learner(own, Settings(lr=3e-4, precision=precision))


def apart(policy: Policy, groups: list[Group], source: routing.Source, precision: torch.dtype) -> dict[str, float]:
    """How far the learner's log-probs are from the engine's."""
    learner, batch = learner_of(policy, source, precision), pack(groups)
    gap = (learner.logprobs(batch, groups, OLD)["old_logp"] - batch.columns["engine_logp"]).double()
    return {"tokens": len(gap), "mean_abs": float(gap.abs().mean()), "p99_abs": float(gap.abs().quantile(0.99)),
            "max_abs": float(gap.abs().max()), "k3": float((torch.expm1(gap) - gap).mean()),
            "over_2x": float((gap.abs() > math.log(2.0)).double().mean())}


def changed(policy: Policy, groups: list[Group], precision: torch.dtype) -> dict[str, float]:
    """The share of the engine's choices that the learner's router would not make; and of its own, after one optimiser step."""
    objective, out = METHODS["grpo"](kl=0.0).objective, {}
    for source, name in (("recorded", "changed"), ("old", "after_update")):
        learner = learner_of(policy, source, precision)
        batch, _ = learner.scored(pack(groups), groups, OLD)
        batch = objective.weigh(batch.with_columns({}, objective.credit(groups, batch, {})))
        stats = learner.gradients(batch, objective)
        if source == "old":
            learner.apply()
            stats = learner.gradients(batch, objective)
        out[name] = stats["routing_changed"]
    return out


def measure(policy: Policy, prompts: int) -> dict[str, Any]:
    """Both ways of having one side in bfloat16, and neither."""
    wide, narrow = torch.float32, torch.bfloat16
    out: dict[str, Any] = {}
    for name, engine, precision in (("both float32", wide, wide), ("engine bfloat16", narrow, wide),
                                    ("learner bfloat16", wide, narrow)):
        groups = rollouts(policy, prompts, engine)
        out[name] = {"live": apart(policy, groups, "live", precision), "recorded": apart(policy, groups, "recorded", precision),
                     **changed(policy, groups, precision)}
    return out


def table(report: dict[str, Any]) -> str:
    """The rows of docs/models.md."""
    lines = ["| model | number formats | routes | mean gap | largest gap | k3 | choices changed | after one update |",
             "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |"]
    for model in ("random", "warmed up"):
        for formats, found in report.get(model, {}).items():
            for routes in ("live", "recorded"):
                x = found[routes]
                lines.append(f"| {model} | {formats} | {routes} | {x['mean_abs']:.1e} | {x['max_abs']:.1e} | {x['k3']:.1e} | "
                             f"{found['changed']:.2%} | {found['after_update']:.1%} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--warmup", type=int, default=300, help="optimiser steps of the warm-up; 0: the random model only")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    policy = random_mixture(args.hidden, args.layers, args.experts, args.k)
    report: dict[str, Any] = {"machine": machine(), "settings": {k: v for k, v in vars(args).items() if k != "json"},
                              "random": measure(policy, args.prompts)}
    if args.warmup:
        with tempfile.TemporaryDirectory() as place:
            save(policy, Path(place, "random"))
            subprocess.run([sys.executable, "-m", "groupwise", "warmup", "--start", f"{place}/random", "--out", f"{place}/warm",
                            "--steps", str(args.warmup)], check=True, cwd=ROOT)
            report["warmed up"] = measure(load(Path(place, "warm")), args.prompts)
    print(table(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
