"""TRL's side of `bench/vs_trl.py`, run by an environment that has TRL: GRPOTrainer on given prompts, timed phase by phase.

    python bench/trl_side.py JOB.json RESULT.json

It knows nothing of the package beside it. JOB holds: model (folder), train and heldout (lists of {prompt, answer}; train in the
order of use), steps, prompts, group, max_tokens, lr, betas, grad_clip, weight_decay, seed, threads, eval_every (0: never), check
(how many completions of the untrained policy to show), pause (wait for a line on standard input after every evaluation but the
last: "stop" ends the run). RESULT, written anew at every evaluation, holds per step the seconds of step, generation, reward and
train (forward, backward, clipping, optimiser) and the tokens generated; the held-out accuracy against the training clock, which
stands still in evaluations and pauses; and `at`, what it is doing. Without evaluations it is written anew at every step.
"""

import json
import logging
import os
import re
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

INTEGER = re.compile(r"(?:(?<![\w)\]}])[-−+])?[0-9]+")
"""A minus behind a digit or a bracket is an operator, not a sign."""
EVAL_BATCH = 256


def correct(text: str, answer: int, ended: bool) -> bool:
    """The task's rule: the completion ended by itself and its last integer is the answer."""
    found = INTEGER.findall(text)
    return ended and bool(found) and int(found[-1].replace("−", "-")) == answer


class Policy:
    """Model and tokenizer, with what the reward and the evaluation need: verdicts of tokens, and completions."""

    def __init__(self, folder: str, max_tokens: int) -> None:
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.max_tokens = max_tokens

    def verdict(self, tokens: list[int], answer: int) -> bool:
        """Whether a completion, with its end token if it has one, is right."""
        eos = self.tokenizer.eos_token_id
        text = self.tokenizer.decode([t for t in tokens if t != eos], skip_special_tokens=True)
        return correct(text, answer, eos in tokens)

    @torch.no_grad()
    def complete(self, prompts: list[str], **sampling: Any) -> tuple[list[list[int]], list[list[int]]]:
        """The tokens of the prompts, and completions up to and with their end token."""
        eos, ids, made = self.tokenizer.eos_token_id, [], []
        for i in range(0, len(prompts), EVAL_BATCH):
            inputs = self.tokenizer(prompts[i:i + EVAL_BATCH], return_tensors="pt", padding=True, return_token_type_ids=False)
            out = self.model.generate(**inputs, max_new_tokens=self.max_tokens, **sampling)
            ids += [row[mask.bool()].tolist() for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
            for row in out[:, inputs["input_ids"].shape[1]:].tolist():
                made.append(row[:row.index(eos) + 1] if eos in row else row)
        return ids, made


class Timed(GRPOTrainer):
    """GRPOTrainer that notes when its phases begin and end."""

    seconds: dict[str, float]
    ready = 0.0

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        out = super()._generate_single_turn(*args, **kwargs)
        self.seconds["generation"] = time.perf_counter() - began
        return out

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        out = super()._calculate_rewards(*args, **kwargs)
        self.seconds["reward"] = time.perf_counter() - began
        return out

    def _prepare_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """All of generation and reward happens in here; what follows is training."""
        out = super()._prepare_inputs(*args, **kwargs)
        self.ready = time.perf_counter()
        return out


class Watch(TrainerCallback):
    """Notes steps, evaluates, pauses, and ends the run."""

    def __init__(self, job: dict[str, Any], policy: Policy, out: Path) -> None:
        self.job, self.policy, self.out = job, policy, out
        self.result: dict[str, Any] = {"steps": [], "curve": [], "torch": torch.__version__, "threads": torch.get_num_threads()}
        self.clock = 0.0
        self.trainer: Timed | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate the base policy."""
        assert self.trainer is not None
        if self.job["eval_every"]:
            self.evaluate(0)
        self.trainer.seconds = {}
        self.began = time.perf_counter()

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The end of training, of which clipping and the optimiser are part."""
        assert self.trainer is not None
        self.trainer.seconds["train"] = time.perf_counter() - self.trainer.ready

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """One row for the step; an evaluation if it is due."""
        assert self.trainer is not None
        seconds = time.perf_counter() - self.began
        self.clock += seconds
        self.result["steps"].append({"step": seconds, **self.trainer.seconds})
        self.trainer.seconds = {}
        last, every = state.global_step == self.job["steps"], self.job["eval_every"]
        if every and (last or state.global_step % every == 0):
            self.evaluate(state.global_step)
            if self.job["pause"] and not last:
                self.write(f"paused after {state.global_step}")
                control.should_training_stop |= sys.stdin.readline().strip() == "stop"
                self.write("running")
        if not every:
            self.write("running")
        self.began = time.perf_counter()
        return control

    def evaluate(self, step: int) -> None:
        """Greedy accuracy on the held-out prompts."""
        began, rows, model = time.perf_counter(), self.job["heldout"], self.policy.model
        model.eval()
        _, made = self.policy.complete([row["prompt"] for row in rows], do_sample=False)
        model.train()
        right = sum(self.policy.verdict(tokens, row["answer"]) for tokens, row in zip(made, rows, strict=True))
        self.result["curve"].append({"step": step, "seconds": self.clock, "value": right / len(rows), "n": len(rows),
                                     "length": sum(map(len, made)) / len(made), "evaluate": time.perf_counter() - began})
        self.write("running")

    def reward(self, prompts: list[str], answer: list[int], completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        """1 or 0 for each completion. RuntimeError if the prompts are not those of this step."""
        assert self.trainer is not None
        made, size, group = len(self.result["steps"]), self.job["prompts"], self.job["group"]
        if prompts != [row["prompt"] for row in self.job["train"][made * size:(made + 1) * size] for _ in range(group)]:
            raise RuntimeError(f"the prompts of step {made + 1} are not those that were given for it")
        self.trainer.seconds["tokens"] = float(sum(map(len, completion_ids)))
        return [float(self.policy.verdict(tokens, gold)) for tokens, gold in zip(completion_ids, answer, strict=True)]

    def write(self, at: str) -> None:
        """The result so far, whole or not at all."""
        self.result["at"] = at
        made = self.out.with_suffix(".part")
        made.write_text(json.dumps(self.result))
        os.replace(made, self.out)


def config(job: dict[str, Any], folder: Path) -> GRPOConfig:
    """Dr. GRPO on a processor in fp32, one optimiser step a batch; nothing is logged or saved."""
    size = job["prompts"] * job["group"]
    return GRPOConfig(
        output_dir=str(folder), loss_type="dr_grpo", scale_rewards="none", beta=0.0, num_generations=job["group"],
        per_device_train_batch_size=size, gradient_accumulation_steps=1, steps_per_generation=1, num_iterations=1,
        max_completion_length=job["max_tokens"], temperature=1.0, top_k=0, top_p=1.0, learning_rate=job["lr"],
        lr_scheduler_type="constant", warmup_steps=0, adam_beta1=job["betas"][0], adam_beta2=job["betas"][1],
        weight_decay=job["weight_decay"], max_grad_norm=job["grad_clip"], max_steps=job["steps"], use_cpu=True, bf16=False,
        fp16=False, gradient_checkpointing=False, report_to=[], logging_strategy="no", save_strategy="no", disable_tqdm=True,
        seed=job["seed"], dataloader_pin_memory=False, shuffle_dataset=False, mask_truncated_completions=False)


def check(policy: Policy, rows: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """Completions of the untrained policy at temperature 1 with this side's verdicts, for the other side to compare."""
    chosen = [rows[i % len(rows)] for i in range(n)]
    ids, made = policy.complete([row["prompt"] for row in chosen], do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    return [{"prompt": row["prompt"], "answer": row["answer"], "prompt_ids": given, "ids": tokens,
             "correct": policy.verdict(tokens, row["answer"])}
            for row, given, tokens in zip(chosen, ids, made, strict=True)]


def main() -> None:
    """Read the job, train, write the result."""
    job, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    policy = Policy(job["model"], job["max_tokens"])
    watch = Watch(job, policy, out)
    if job["check"]:
        watch.result["check"] = check(policy, job["heldout"], job["check"])
    trainer = Timed(model=policy.model, reward_funcs=watch.reward, args=config(job, out.with_suffix(".trl")),
                    processing_class=policy.tokenizer, callbacks=[watch], train_dataset=Dataset.from_list(job["train"]))
    watch.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    watch.write("done")


if __name__ == "__main__":
    main()
