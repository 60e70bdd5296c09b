"""What a step costs in plain transformers, for `bench/gate.py` to measure by where TRL is not: one process, one thread, fp32.

    python bench/versus/plain.py JOB.json RESULT.json

Unmodified modules: `generate` on padded prompts, one padded forward and backward over all completions, AdamW. The advantages
are made up, which costs the same. JOB and RESULT are those of `bench/trl_side.py`.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


def step(model: Any, tokenizer: Any, optimizer: torch.optim.Optimizer, prompts: list[str],
         job: dict[str, Any]) -> dict[str, float]:
    """Sample, train; seconds and tokens."""
    began = time.perf_counter()
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=job["max_tokens"], do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    start = inputs["input_ids"].shape[1]
    ended = (ids[:, start:] == tokenizer.eos_token_id).cumsum(1)
    live = (ended == 0) | ((ended == 1) & (ids[:, start:] == tokenizer.eos_token_id))
    sampled = time.perf_counter()
    mask = torch.cat([inputs["attention_mask"], live.long()], dim=1)
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=ids.shape[1] - start + 1).logits[:, :-1]
    logp = torch.log_softmax(logits, -1).gather(-1, ids[:, start:, None])[..., 0]
    advantage = torch.linspace(-1, 1, len(ids))[:, None]
    (-(logp * advantage * live).sum() / (len(ids) * job["max_tokens"])).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), job["grad_clip"])
    optimizer.step()
    optimizer.zero_grad()
    done = time.perf_counter()
    return {"step": done - began, "generation": sampled - began, "train": done - sampled, "tokens": float(live.sum())}


def main() -> None:
    """Read the job, do the steps, write the result."""
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(job["model"], padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=job["lr"], betas=job["betas"], weight_decay=job["weight_decay"])
    size, steps = job["prompts"], []
    for i in range(job["steps"]):
        prompts = [row["prompt"] for row in job["train"][i * size:(i + 1) * size] for _ in range(job["group"])]
        steps.append(step(model, tokenizer, optimizer, prompts, job))
    Path(sys.argv[2]).write_text(json.dumps({"steps": steps}))


if __name__ == "__main__":
    main()
