"""What both sides are given: settings, policy, prompts in the order of use, and the rule that judges a completion."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupwise.core.rollout import Prompt
from groupwise.models.load import load
from groupwise.models.template import decode, fill, template
from groupwise.run.assemble import base_of
from groupwise.run.config import from_words
from groupwise.run.settings import Run
from groupwise.sampling.history import History
from groupwise.sampling.planner import Shuffled
from groupwise.tasks import make
from groupwise.verify.text import last_integer

WHOLE = f"{Path(__file__).with_name('methods.py')}:whole"
"""The default method with no groups skipped (`versus/methods.py`)."""


@dataclass(frozen=True)
class Setting:
    """Words of `groupwise train`, the settings that they mean, and the prompts as TRL gets them."""

    words: tuple[str, ...]
    run: Run
    model: Path
    train: list[dict[str, Any]]
    heldout: list[dict[str, Any]]
    prompts: list[Prompt]
    """The held-out ones, with their tokens."""

    def job(self, **more: Any) -> dict[str, Any]:
        """What TRL's side reads: see `bench/trl_side.py`."""
        run, own = self.run, self.run.learner
        return {"model": str(self.model), "train": self.train, "heldout": self.heldout, "prompts": run.prompts_per_step,
                "group": run.group_size, "max_tokens": run.sampling.max_tokens, "lr": own.lr, "betas": own.betas,
                "grad_clip": own.grad_clip, "weight_decay": own.weight_decay, "seed": run.seed} | more


def setting(words: Sequence[str], steps: int) -> Setting:
    """The setting that words of `groupwise train` describe, with prompts for so many steps.

    ValueError if TRL's side could not do the same.
    """
    run = from_words(words, Run())
    own = run.learner
    if run.method != "dr_grpo" or run.method_args or run.updates_per_batch > 1 or run.rewards or run.task != "reduce":
        raise ValueError("the comparison is made on task reduce by dr_grpo with one update per batch and no further rewards")
    if own.schedule != "constant" or own.warmup_steps or not own.grad_clip:
        raise ValueError("the comparison is made at a constant learning rate, with clipping of gradients")
    if run.sampling.temperature != 1.0 or run.sampling.stop:
        raise ValueError("the comparison is made at temperature 1, without stop strings")
    task = make(run.task, run.task_args)
    if not run.sampling.max_tokens:
        raise ValueError("give --max-tokens, so that both sides have the same limit")
    policy, form = load(base_of(run)), template(run.template or task.template)
    train, heldout = (fill(some, policy.tokenizer, run.template or task.template, 2**31) for some in (task.train, task.heldout))
    planner = Shuffled()
    planner.begin(train, run.seed)
    visited = [plan.prompt for plan in planner.draw(steps * run.prompts_per_step, run.group_size, History())]
    rows = [[{"prompt": form.render(policy.tokenizer, p.text), "answer": p.answer} for p in some] for some in (visited, heldout)]
    return Setting(tuple(words), run, Path(base_of(run)), rows[0], rows[1][:run.eval_prompts], heldout[:run.eval_prompts])


def agreement(found: Setting, shown: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How often TRL's side and ours differ on completions that the former made: in the prompts' tokens, and in the reward."""
    policy, known = load(found.model), {p.text: p for p in found.prompts}
    read, judged = 0, []
    for one in shown:
        read += tuple(one["prompt_ids"]) != known[one["prompt"]].tokens
        finish = "stop" if one["ids"][-1] in policy.eos_ids else "length"
        verdict = last_integer(decode(policy.tokenizer, one["ids"], policy.eos_ids), one["answer"], {"finish": finish})
        judged.append(bool(verdict.correct))
    return {"completions": len(judged), "right": sum(judged), "prompts_read_otherwise": read,
            "tokens": sum(len(one["ids"]) for one in shown) / max(1, len(shown)),
            "disagreements": sum(mine != one["correct"] for mine, one in zip(judged, shown, strict=True))}
