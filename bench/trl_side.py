"""TRL's side of `bench/vs_trl.py`, run by an environment that has TRL: GRPOTrainer on given prompts, timed phase by phase.

    python bench/trl_side.py JOB.json RESULT.json

JOB holds: model (folder), train and heldout (lists of {prompt, answer}), steps, prompts, group, max_tokens, lr, seed, threads,
eval_every (0: never), stop_at (held-out accuracy that ends the run), seconds (training time that ends it), loss, dtype.
Prompts are taken in the given order. RESULT holds seconds of every step and phase, tokens, the accuracy curve against the
training clock (evaluations excluded) and the largest resident memory.
"""

import json
import logging
import re
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

LAST_INTEGER = re.compile(r"-?\d+(?!.*\d)", re.DOTALL)


def correct(text: str, answer: int, ended: bool) -> bool:
    """The task's rule: the completion ended by itself and its last integer is the answer."""
    found = LAST_INTEGER.search(text)
    return ended and found is not None and int(found.group()) == answer


class Timed(GRPOTrainer):
    """GRPOTrainer that notes how long its phases take."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.now: dict[str, float] = {}
        super().__init__(*args, **kwargs)

    def _timed(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        out = call(*args, **kwargs)
        self.now[name] = self.now.get(name, 0.0) + time.perf_counter() - began
        return out

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        return self._timed("generation", super()._generate_single_turn, *args, **kwargs)

    def _prepare_inputs(self, *args: Any, **kwargs: Any) -> Any:
        return self._timed("inputs", super()._prepare_inputs, *args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Inputs, forward and backward of one step."""
        return self._timed("training_step", super().training_step, *args, **kwargs)

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        """The prompts as they come, each `group` times in a row (the data set repeats them)."""
        return SequentialSampler(self.train_dataset)


class Watch(TrainerCallback):
    """Notes steps, evaluates, and ends the run."""

    def __init__(self, job: dict, tokenizer: PreTrainedTokenizerFast) -> None:
        self.job, self.tokenizer = job, tokenizer
        self.steps: list[dict] = []
        self.curve: list[dict] = []
        self.clock = 0.0
        self.trainer: Timed | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Evaluate the base policy."""
        if self.job["eval_every"]:
            self.evaluate(model, 0)
        self.began = time.perf_counter()

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The optimiser's clock starts (gradients are clipped already)."""
        self.optimizer = time.perf_counter()

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """And stops."""
        self.optimizer = time.perf_counter() - self.optimizer

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> Any:
        """One line for the step; an evaluation if it is due."""
        seconds, now = time.perf_counter() - self.began, self.trainer.now
        self.clock += seconds
        self.steps.append({"step": seconds, "generation": now["generation"],
                           "train": now["training_step"] - now["inputs"] + self.optimizer, "tokens": now["tokens"],
                           "reward": now["reward"]})
        self.trainer.now = {}
        done = self.clock > self.job["seconds"]
        if self.job["eval_every"] and (state.global_step % self.job["eval_every"] == 0 or done):
            done |= self.evaluate(model, state.global_step) >= self.job["stop_at"]
        control.should_training_stop |= done
        self.began = time.perf_counter()
        return control

    @torch.no_grad()
    def evaluate(self, model: Any, step: int) -> float:
        """Greedy accuracy on the held-out prompts, in batches of 256."""
        model.eval()
        right = tokens = 0
        rows, eos = self.job["heldout"], self.tokenizer.eos_token_id
        for i in range(0, len(rows), 256):
            some = rows[i:i + 256]
            inputs = self.tokenizer([r["prompt"] for r in some], return_tensors="pt", padding=True, padding_side="left",
                                    add_special_tokens=False, return_token_type_ids=False)
            made = model.generate(**inputs, max_new_tokens=self.job["max_tokens"], do_sample=False)
            for row, ids in zip(some, made[:, inputs["input_ids"].shape[1]:].tolist(), strict=True):
                ended = eos in ids
                ids = ids[:ids.index(eos)] if ended else ids
                tokens += len(ids)
                right += correct(self.tokenizer.decode(ids), row["answer"], ended)
        model.train()
        self.curve.append({"step": step, "seconds": self.clock, "value": right / len(rows), "n": len(rows),
                           "length": tokens / len(rows)})
        print(json.dumps(self.curve[-1]), flush=True)
        return right / len(rows)


def main() -> None:
    """Read the job, train, write the result."""
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(job["threads"])
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(job["model"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    size = job["prompts"] * job["group"]
    rows = [row for row in job["train"] for _ in range(job["group"])]
    watch = Watch(job, tokenizer)

    def reward(answer: list[int], completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        eos = tokenizer.eos_token_id
        watch.trainer.now["tokens"] = sum(map(len, completion_ids))
        found = [correct(tokenizer.decode([t for t in ids if t != eos]), gold, eos in ids)
                 for ids, gold in zip(completion_ids, answer, strict=True)]
        watch.trainer.now["reward"] = sum(found) / len(found)
        return [float(x) for x in found]

    config = GRPOConfig(
        output_dir=str(Path(sys.argv[2]).with_suffix(".trl")), loss_type=job["loss"],
        scale_rewards="none" if job["loss"] == "dr_grpo" else "group", beta=0.0, num_generations=job["group"],
        per_device_train_batch_size=size, gradient_accumulation_steps=1, steps_per_generation=1, num_iterations=1,
        max_completion_length=job["max_tokens"], temperature=1.0, top_k=0, top_p=1.0, learning_rate=job["lr"],
        lr_scheduler_type="constant", warmup_steps=0, adam_beta1=0.9, adam_beta2=0.999, weight_decay=0.0, max_grad_norm=1.0,
        max_steps=job["steps"], use_cpu=True, bf16=job["dtype"] == "bfloat16", fp16=False, gradient_checkpointing=False,
        report_to=[], logging_steps=1, save_strategy="no", disable_tqdm=True, seed=job["seed"], dataloader_pin_memory=False,
        shuffle_dataset=False, mask_truncated_completions=False)
    trainer = Timed(model=model, reward_funcs=reward, args=config, processing_class=tokenizer, callbacks=[watch],
                    train_dataset=Dataset.from_list(rows))
    watch.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    Path(sys.argv[2]).write_text(json.dumps({"steps": watch.steps, "curve": watch.curve, "memory_mb": peak,
                                             "torch": torch.__version__}))


if __name__ == "__main__":
    main()
