"""What the tests of the loop share: a tiny random policy and small settings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from groupwise.models.build import character_tokenizer, random_policy
from groupwise.models.load import Policy, policy_of, save
from groupwise.run.learner_settings import LearnerSettings
from groupwise.run.settings import Run, SamplingSettings

REWARDS = Path(__file__).resolve().with_name("run_rewards.py")
REWARD = f"{REWARDS}:digits"


def tiny_policy(seed: int = 0) -> Policy:
    """Two layers of width 32 over characters."""
    tokenizer = character_tokenizer()
    return policy_of(random_policy(tokenizer, hidden=32, layers=2, heads=4, kv_heads=2, mlp=64, seed=seed), tokenizer)


def tiny_folder(folder: Path) -> Path:
    """The tiny policy, saved."""
    save(tiny_policy(), folder)
    return folder


def tiny_run(model: Path, name: str = "tiny", **changes: Any) -> Run:
    """Settings of a run of a second or two; `changes` are fields of Run, or of its learner."""
    learner = {key: changes.pop(key) for key in list(changes) if key in LearnerSettings.__dataclass_fields__}
    given = {"train": 64, "heldout": 16} | ({"kmin": 2, "kmax": 3} if changes.get("task", "reduce") == "reduce" else {})
    run = Run(name=name, task_args=given, method="dr_grpo", rewards=(REWARD,), model=str(model), steps=2, prompts_per_step=4,
              group_size=4, eval_every=0, checkpoint_every=0, sampling=SamplingSettings(max_tokens=8),
              learner=LearnerSettings(lr=3e-3, threads=1, workers=1, device="cpu", compute="modules"), verify_deadline=60.0)
    return replace(run, **changes, learner=replace(run.learner, **learner))
