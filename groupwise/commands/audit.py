"""The command that compares a method's gradient with the true one: audit. It imports what does the work when it is called."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from groupwise.commands.common import check_report
from groupwise.run.disk import write_json


def audit(words: Sequence[str]) -> None:
    """Say how far METHOD... (none: all) are from the policy gradient, exactly, where answers can be listed; --json FILE."""

    def arguments(methods: tyro.conf.Positional[tuple[str, ...]] = (), group_size: int = 4, prompts_per_step: int = 2,
                  success: tuple[float, ...] = (), off_policy: float = 0.0, sweep: tuple[str, ...] = (),
                  policy: str = "tabular", task: str = "", alphabet: str = "01", tokens: int = 2, prompts: int = 3,
                  listed: int = 4000, drawn: int = 2000, seed: int = 0, workers: int = 0, json: str = "") -> dict[str, Any]:
        """Bias, variance, weight by difficulty and pressure on lengths of methods' gradients.

        Args:
            methods: names of `groupwise methods` or module:function, each with arguments if wanted: grpo,kl=0,clip_high=0.28.
            group_size: answers to a prompt.
            prompts_per_step: prompts of an optimiser step, each drawn by itself.
            success: the prompts' success rates, one for each or one for all (none: as the prompts are).
            off_policy: how far the trained policy is from the one that sampled: root mean square log-ratio of a token, in nats.
            sweep: vary a setting: group-size=2,4,8; success=0.1,0.5,0.9; off-policy=0,0.1; prompts-per-step=1,2; several at once.
            policy: tabular, or transformer: with the same answers and chances, and parameters that prompts share.
            task: module:function that returns a groupwise Task, or prompts with all their answers and rewards.
            alphabet: characters of the answers to a Task.
            tokens: of the longest answer to a Task.
            prompts: of a Task, how many.
            listed: up to how many groups or steps are listed; beyond it steps are drawn.
            drawn: how many steps are drawn then.
            seed: of what is drawn.
            workers: processes at work (0: one for each core).
            json: write everything as data to this file as well.

        """
        return dict(locals())

    given = tyro.cli(arguments, args=list(words), prog="groupwise audit")
    methods, sweep, workers, file = (given.pop(name) for name in ("methods", "sweep", "workers", "json"))
    check_report(file)
    import torch

    from groupwise.lab import audit as lab

    torch.set_num_threads(1)  # tensors of some dozen numbers
    settings = lab.Settings(**given)
    rows: list[dict[str, Any]] = []
    for row in lab.audit(methods, settings, lab.sweeps(sweep), workers):
        if not rows:
            print(lab.header([row]))
        print(lab.line(row), flush=True)
        rows.append(row)
    if file:
        write_json(Path(file), lab.as_json(settings, rows))
