"""The native engine and the learner on one GPU, at the size of Qwen2.5-0.5B with its real vocabulary, random weights.

    python bench/gpu.py --json bench/results/gpu.json            on a CUDA device
    python bench/gpu.py --toy                                    the same code at toy size on a processor, to see that it runs

sampling    tokens a second at each batch size, by the native engine (captured step) and by transformers' generate, and the share
            of the memory bandwidth that reading the weights and the cache once for every token would take
training    tokens a second and model FLOPs utilisation of a packed gradient step (6 FLOPs a parameter and token, attention left
            out), and peak memory against a step that makes the whole matrix of logits
recovery    a gradient from a setting that does not fit a limit on this process (`set_per_process_memory_fraction`): the setting
            reached, and how far it is from the gradient of one that fits (a processor has no such limit: nothing is lowered)
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from groupwise.core.keyed import fold
from groupwise.core.rollout import Completion, Context, Episode, Group, Prompt, Rollout, Turn
from groupwise.core.services import Request, Sampling
from groupwise.core.verdict import Component, Verdict
from groupwise.engines.graphs import Graphs
from groupwise.learner.learner import Learner
from groupwise.learner.settings import Settings
from groupwise.methods import METHODS
from groupwise.models.build import character_tokenizer
from groupwise.models.load import Policy, policy_of
from groupwise.objective.batch import Batch, pack
from groupwise.objective.objective import Objective

PEAKS = {"H200": (4.8e12, 989e12), "H100": (3.35e12, 989e12), "A100": (2.0e12, 312e12)}
"""Bytes a second of memory and bf16 operations a second, by the makers' data sheets."""


@dataclass(frozen=True)
class Size:
    """What is measured: the model, and lengths and batches."""

    hidden: int = 896
    layers: int = 24
    heads: int = 14
    kv_heads: int = 2
    mlp: int = 4864
    vocabulary: int = 151936
    prompt: int = 128
    tokens: int = 256
    batches: tuple[int, ...] = (8, 32, 128, 256, 512)
    sequences: int = 64
    repeats: int = 3


MORE = 12 * 2**30
"""Bytes that the recovery may add to what is there: the gradient of the parameters, and a few thousand tokens at a time."""

TOY = Size(hidden=32, layers=2, heads=2, kv_heads=1, mlp=48, vocabulary=512, prompt=6, tokens=5, batches=(2, 8), sequences=4,
           repeats=1)


def policy_at(size: Size, device: str, dtype: torch.dtype) -> Policy:
    """A random Qwen2; no completion ends early."""
    config = Qwen2Config(vocab_size=size.vocabulary, hidden_size=size.hidden, intermediate_size=size.mlp,
                         num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.kv_heads,
                         tie_word_embeddings=True, max_position_embeddings=4096)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").to(device)
    policy = policy_of(model, character_tokenizer())
    policy.eos_ids = ()
    return policy


def median(call: Callable[[], Any], repeats: int, device: str) -> float:
    """Seconds of a call, in the median, after one that is not counted."""
    call()
    seconds = []
    for _ in range(repeats):
        _wait(device)
        began = time.perf_counter()
        call()
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def contexts(size: Size, n: int) -> list[tuple[int, ...]]:
    """Random prompts of one length."""
    return [tuple(3 + fold(i, t) % (size.vocabulary - 3) for t in range(size.prompt)) for i in range(n)]


def sampling(size: Size, device: str, dtype: torch.dtype) -> list[dict[str, float]]:
    """Tokens a second of the engine and of `generate`, groups of eight where the batch has as many."""
    policy = policy_at(size, device, dtype)
    model, rows = policy.model, []
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    per_position = 2 * size.layers * size.kv_heads * (size.hidden // size.heads) * torch.finfo(dtype).bits // 8
    for batch in size.batches:
        group = min(8, batch)
        chosen = Sampling(max_tokens=size.tokens)
        requests = [Request(Context(c), tuple(fold(i, j) for j in range(group)), chosen)
                    for i, c in enumerate(contexts(size, batch // group))]
        engine = Graphs(policy, max_rows=batch)
        ours = median(lambda e=engine, r=requests: e.generate(r), size.repeats, device)
        ids = torch.tensor([r.context.tokens for r in requests for _ in r.streams], device=device)
        theirs = median(lambda ids=ids: model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=size.tokens, min_new_tokens=size.tokens,
            do_sample=True, top_k=0, pad_token_id=0), size.repeats, device)
        tokens = batch * size.tokens
        read = size.tokens * (weights + batch * per_position * (size.prompt + size.tokens / 2))
        rows.append({"batch": batch, "ours_tokens_per_second": tokens / ours, "generate_tokens_per_second": tokens / theirs,
                     "ratio": theirs / ours, "bytes_per_second": read / ours} | _share("bandwidth", read / ours, device))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def batch_of(size: Size, device: str) -> tuple[Batch, Objective]:
    """Groups of eight random completions with random rewards, credited and weighed."""
    groups = []
    for g, context in enumerate(contexts(size, max(1, size.sequences // 8))):
        prompt = Prompt(f"p{g}", "", 1, tokens=context)
        rollouts = []
        for i in range(8):
            tokens = tuple(3 + fold(g, i, t) % (size.vocabulary - 3) for t in range(size.tokens))
            turn = Turn(Context(context), Completion(tokens, (-1.0,) * len(tokens)))
            rollouts.append(Rollout(Episode(prompt, (turn,)), Verdict(i % 2 == 0), (Component("r", float(i % 2)),)))
        groups.append(Group(f"g{g}", prompt, tuple(rollouts)))
    objective = METHODS["dr_grpo"](max_tokens=size.tokens).objective
    batch = pack(groups, device=device)
    return objective.weigh(batch.with_columns({}, objective.credit(groups, batch, {}))), objective


def training(size: Size, device: str) -> dict[str, float]:
    """A gradient step with bf16 products, and its memory; then the memory of a step with all logits at once."""
    policy = policy_at(size, device, torch.float32)
    learner = Learner(policy, Settings(micro_tokens=16384 if device == "cuda" else 256, precision=torch.bfloat16))
    batch, objective = batch_of(size, device)
    _forget(device)
    seconds = median(lambda: (learner.gradients(batch, objective), learner.discard()), size.repeats, device)
    ours = _peak(device)
    sequences = batch.layout.size("sequence")
    positions = sequences * (size.prompt + size.tokens - 1)
    parameters = sum(p.numel() for p in policy.model.parameters())
    _forget(device)
    ids = torch.tensor([batch.contexts[s] + tuple(range(3, 3 + size.tokens)) for s in range(min(sequences, 16))], device=device)
    with torch.autocast(device, torch.bfloat16):
        logits = policy.model(input_ids=ids).logits.float()
    torch.log_softmax(logits, -1).gather(-1, ids[..., None]).sum().backward()
    whole = _peak(device)
    return {"seconds": seconds, "positions": positions, "positions_per_second": positions / seconds, "memory_mb": ours,
            "memory_of_whole_logits_mb": whole, "sequences_of_whole_logits": len(ids)} | _share(
                "flops", 6.0 * parameters * positions / seconds, device)


def recovery(size: Size, device: str) -> dict[str, Any]:
    """The gradient at a setting that fits, and from one far above what the limit leaves."""
    batch, objective = batch_of(size, device)
    found: list[torch.Tensor] = []
    for micro_tokens, chunk, limited in ((4096, 2**24, False), (2**20, 2**30, True)):
        policy = policy_at(size, device, torch.float32)
        learner = Learner(policy, Settings(micro_tokens=micro_tokens, logit_chunk=chunk, precision=torch.bfloat16))
        if device == "cuda" and limited:
            torch.cuda.empty_cache()
            most = torch.cuda.memory_allocated() + MORE
            torch.cuda.set_per_process_memory_fraction(most / torch.cuda.get_device_properties(0).total_memory)
        learner.gradients(batch, objective)
        found.append(torch.cat([p.grad.flatten().cpu() for p in policy.model.parameters() if p.grad is not None]))
        learner.discard()
    if device == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0)
    return {"set": list(learner.budget.set), "reached": [learner.budget.micro_tokens, learner.budget.logit_chunk],
            "gradient_difference": float((found[1] - found[0]).norm() / found[0].norm())}


def _forget(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak(device: str) -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0


def _share(what: str, rate: float, device: str) -> dict[str, float]:
    """The share of the device's peak, where it is known."""
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    known = next((peaks for part, peaks in PEAKS.items() if part in name), None)
    return {f"{what}_share": rate / known[0 if what == "bandwidth" else 1]} if known else {}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not args.toy and not torch.cuda.is_available():
        raise SystemExit("no CUDA device was found: take --toy to see that the code runs")
    size, device = (TOY, "cpu") if args.toy else (Size(), "cuda")
    report = {"device": torch.cuda.get_device_name() if device == "cuda" else "processor", "torch": torch.__version__,
              "size": vars(size), "sampling": sampling(size, device, torch.bfloat16 if device == "cuda" else torch.float32),
              "training": training(size, device), "recovery": recovery(size, device)}
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
