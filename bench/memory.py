"""The real vocabulary in little memory: a gradient step at 151,936 words and 1,024-token completions, against the naive way.

    python bench/memory.py --json bench/results/memory.json

Every row is a process of its own, on a random Qwen2 (width 256, 4 layers, 42 million parameters), which takes two gradients of
`dr_grpo`, each with an AdamW step. Ours cuts the batch into micro-batches and the logits into chunks; the naive one pads all
rows at once and makes the whole matrix of logits in fp32, as plain transformers and `log_softmax` do. `peak_mb` is the peak of
resident memory of the process, `before_mb` what it held before the steps. Under the ceiling (RLIMIT_AS) the same is done again:
who needs more ends with an error. `recovery` starts with a setting that does not fit into the address space that the process has
and `more_mb`, and says what was reached and how far the gradient is from that of a process without a limit.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

VOCABULARY, PROMPT, TOKENS, ROWS = 151936, 64, 1024, 2
CEILING = 3072
"""MiB of address space, of which the libraries take about 700 before anything is done."""
STEPS = 2
"""The first gives the optimiser its moments."""
SIDES = ("naive", "modules", "kernels")

RECOVERIES = (("modules", 2, 1500), ("kernels", 8, 280))
"""Who, completions, MiB that may be added: kernels take so little that it needs more completions to run short."""


def policy_of(vocabulary: int, context: int, width: int = 256) -> Any:
    """A random policy with so many words."""
    import torch

    from groupwise.models import linear
    from groupwise.models.build import character_tokenizer, random_policy
    from groupwise.models.load import policy_of as made

    tokenizer = character_tokenizer()
    torch.manual_seed(0)  # of the new rows
    model = random_policy(tokenizer, hidden=width, layers=4, heads=4, kv_heads=2, mlp=2 * width, context=context)
    model.resize_token_embeddings(vocabulary, mean_resizing=False)
    if linear.pays():
        linear.speed_up(model)
    return made(model, tokenizer)


def batch_of(rows: int, prompt: int, tokens: int, vocabulary: int) -> Any:
    """Groups of two random completions, one of them right; credited and weighed, with their objective."""
    from groupwise.core.keyed import fold
    from groupwise.core.rollout import Completion, Context, Episode, Group, Prompt, Rollout, Turn
    from groupwise.core.verdict import Component, Verdict
    from groupwise.methods import METHODS
    from groupwise.objective.batch import pack

    groups = []
    for g in range(rows // 2):
        asked = Prompt(f"p{g}", "", 1, tokens=tuple(fold(g, t) % vocabulary for t in range(prompt)))
        rollouts = []
        for i in range(2):
            made = Completion(tuple(fold(g, i, t) % vocabulary for t in range(tokens)), (-1.0,) * tokens)
            episode = Episode(asked, (Turn(Context(asked.tokens), made),))
            rollouts.append(Rollout(episode, Verdict(i == 1), (Component("r", float(i)),)))
        groups.append(Group(asked.id, asked, tuple(rollouts)))
    objective = METHODS["dr_grpo"](max_tokens=tokens).objective
    batch = pack(groups)
    return objective.weigh(batch.with_columns({}, objective.credit(groups, batch, {}))), objective


def naive_steps(policy: Any, batch: Any) -> None:
    """All rows padded at once, the whole matrix of logits in fp32, AdamW."""
    import torch

    starts = batch.layout.first_token("sequence")
    rows = [[*context, *batch.tokens[starts[i]:starts[i + 1]].tolist()] for i, context in enumerate(batch.contexts)]
    ids, optimiser = torch.tensor(rows), torch.optim.AdamW(policy.model.parameters(), lr=1e-6)
    sign = torch.tensor([-0.5, 0.5] * (len(rows) // 2))[:, None]  # the group's mean off the rewards 0 and 1
    for _ in range(STEPS):
        logits = policy.model(input_ids=ids).logits[:, :-1].float()
        logp = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0][:, len(batch.contexts[0]) - 1:]
        (-(sign * logp).sum() / logp.numel()).backward()
        del logits
        optimiser.step()
        optimiser.zero_grad()


def learner_of(policy: Any, side: str, micro_tokens: int, chunk: int) -> Any:
    """The learner by the model's modules or by kernels, one thread."""
    from groupwise.learner.learner import Learner
    from groupwise.learner.settings import Settings
    from groupwise.run.compute import compiler, kernels_of

    compile = compiler(kernels_of("kernels", policy, "cpu"), 1, "auto") if side == "kernels" else None
    return Learner(policy, Settings(lr=1e-6, micro_tokens=micro_tokens, logit_chunk=chunk), compile=compile)


def limit(mb: int) -> None:
    """Hold this process to so many MiB of address space (0: no limit)."""
    import resource

    if mb:
        resource.setrlimit(resource.RLIMIT_AS, (mb << 20, resource.RLIM_INFINITY))


def row(case: dict[str, Any]) -> dict[str, Any]:
    """One case, in this process: memory before and at its peak, or why it ended."""
    import torch

    from groupwise.models.memory import forget_peak, out_of_memory, peak, used

    torch.set_num_threads(1)
    policy, (batch, objective) = policy_of(VOCABULARY, PROMPT + TOKENS), batch_of(case["rows"], PROMPT, TOKENS, VOCABULARY)
    learner = None if case["side"] == "naive" else learner_of(policy, case["side"], case["micro_tokens"], case["logit_chunk"])
    before = used()
    forget_peak()
    limit(case["ceiling_mb"])
    try:
        if learner is None:
            naive_steps(policy, batch)
        else:
            for _ in range(STEPS):
                learner.gradients(batch, objective)
                learner.apply()
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return {**case, "error": str(error).splitlines()[0]}
    return {**case, "before_mb": before / 2**20, "peak_mb": peak() / 2**20,
            "lowered": learner.budget.lowered() if learner else {}}


def recovery(case: dict[str, Any]) -> dict[str, Any]:
    """The gradient without a limit, then under one from a setting that does not fit it."""
    import resource

    import torch

    from groupwise.models.memory import field

    torch.set_num_threads(1)
    batch, objective = batch_of(case["rows"], PROMPT, TOKENS, VOCABULARY)
    found = []
    for more in (0, case["more_mb"]):
        learner = learner_of(policy_of(VOCABULARY, PROMPT + TOKENS), case["side"], case["micro_tokens"], case["logit_chunk"])
        limit(more and more + (field("/proc/self/status", "VmSize") >> 20))
        learner.gradients(batch, objective)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        found.append([p.grad.clone() for p in learner.parameters.values()])
        set_to, reached = learner.budget.set, (learner.budget.micro_tokens, learner.budget.logit_chunk)
        del learner
    gap = sum(float((a - b).square().sum()) for a, b in zip(*found, strict=True)) ** 0.5
    norm = sum(float(a.square().sum()) for a in found[0]) ** 0.5
    return {**case, "set": set_to, "reached": reached, "gradient_difference": gap / norm}


def alone(kind: str, case: dict[str, Any]) -> dict[str, Any]:
    """A case in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--one", kind, json.dumps(case)], capture_output=True, text=True,
                          timeout=900, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode != 0:
        raise SystemExit(f"{case} failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    print(found, flush=True)
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "CASE"), help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=ROWS, help="completions")
    parser.add_argument("--ceiling", type=int, default=CEILING, help="MiB of address space")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.one:
        kind, case = args.one
        print(json.dumps({"row": row, "recovery": recovery}[kind](json.loads(case))))
        return
    usual = {"rows": args.rows, "micro_tokens": 1280, "logit_chunk": 2**24}
    ways = [alone("row", {**usual, "side": side, "ceiling_mb": ceiling}) for ceiling in (0, args.ceiling) for side in SIDES]
    found = [alone("recovery", {"side": side, "rows": rows, "micro_tokens": 2**16, "logit_chunk": 2**28, "more_mb": more})
             for side, rows, more in RECOVERIES]
    report = {"vocabulary": VOCABULARY, "prompt": PROMPT, "tokens": TOKENS, "rows": ways, "recovery": found}
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
