"""What a training step costs besides the model: CPU time of this process, phase by phase, with nothing to sample or to train.

    python bench/overhead.py [--prompts 32] [--rollouts 8] [--longer 1] [--micro 4] [--updates 0] [--method dr_grpo] [--json FILE]

The engine replays answers made beforehand and the scorer gives cheap log-probs with a gradient; everything else is the code of
a real step. Time in the engine, the scorer and the optimiser is left out; verdicts come from a worker process, whose own time is
not this process's (`grading_wall` is how long they take). Medians over steps, in milliseconds.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout is enough: nothing has to be installed

from groupwise.core.keyed import fold, generator  # noqa: E402
from groupwise.core.rollout import Completion, Prompt, VersionSpan  # noqa: E402
from groupwise.core.services import Request, Sampling  # noqa: E402
from groupwise.learner.forward import Scorer  # noqa: E402
from groupwise.learner.learner import Learner  # noqa: E402
from groupwise.learner.observe import Meter  # noqa: E402
from groupwise.learner.settings import Settings  # noqa: E402
from groupwise.methods import METHODS  # noqa: E402
from groupwise.models.head import Trunk, Want  # noqa: E402
from groupwise.models.load import load  # noqa: E402
from groupwise.models.template import fill, tokenise  # noqa: E402
from groupwise.objective.batch import Batch, pack  # noqa: E402
from groupwise.objective.objective import Objective  # noqa: E402
from groupwise.objective.terms import Live  # noqa: E402
from groupwise.run import metrics  # noqa: E402
from groupwise.run.assemble import method_of  # noqa: E402
from groupwise.run.collect import Sampler  # noqa: E402
from groupwise.run.grade import Grader  # noqa: E402
from groupwise.run.settings import Run  # noqa: E402
from groupwise.run.track import Console, Record  # noqa: E402
from groupwise.tasks.reduce import demonstrations  # noqa: E402

LEFT_OUT = "left out"
WARM = 3


class Clock:
    """CPU time by phase; a phase within another is not charged to the outer one."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.inside = [LEFT_OUT]
        self.since = time.process_time()

    def _charge(self) -> None:
        now = time.process_time()
        self.spent[self.inside[-1]] += now - self.since
        self.since = now

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge what runs inside to a phase."""
        self._charge()
        self.inside.append(name)
        try:
            yield
        finally:
            self._charge()
            self.inside.pop()

    def watch(self, owner: Any, name: str, phase: str) -> None:
        """Charge every call of a function of an object, class or module to a phase."""
        function = getattr(owner, name)

        @wraps(function)
        def watched(*args: Any, **more: Any) -> Any:
            with self.phase(phase):
                return function(*args, **more)

        setattr(owner, name, watched)


class Replay:
    """An engine whose answers are made beforehand: every other one of a prompt is its own, the rest are other prompts'."""

    def __init__(self, answers: Mapping[tuple[int, ...], Sequence[Completion]]) -> None:
        self.answers, self.version = answers, 0

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """The recorded completions."""
        return [list(self.answers[request.context.tokens]) for request in requests]

    def load(self, weights: Mapping[str, Any], *, version: int) -> None:
        """Nothing to take."""


@dataclass(frozen=True)
class Cheap(Scorer):
    """A scorer that answers at once, near what the engine said, with a gradient."""

    micro: int = 1
    weight: torch.Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))

    def __call__(self, batch: Batch, want: Want) -> Live:
        """Log-probs and entropies of a micro-batch."""
        logp = torch.where(batch.counted, batch.columns["engine_logp"], 0.0) + 1e-3 * torch.sin(batch.tokens.float())
        return Live(logp=logp + self.weight, entropy=0.5 - logp + self.weight if want.entropy else None)

    def plan(self, batch: Batch, chosen: Sequence[int] | np.ndarray, micro_tokens: int) -> list[np.ndarray]:
        """So many micro-batches."""
        return [part for part in np.array_split(np.asarray(chosen), self.micro) if len(part)]


def job(args: argparse.Namespace) -> tuple[Sampler, Learner]:
    """A sampler and a learner of the embedded task that need no model."""
    policy = load(ROOT / "groupwise" / "tasks" / "policies" / "reduce")
    texts = dict(itertools.islice(demonstrations(0, kmin=5, kmax=7, direct=0.0), args.prompts))
    worked = list(texts.values())
    prompts = fill([Prompt(f"reduce/{i}", text, worked[i].rpartition("=")[2]) for i, text in enumerate(texts)], policy.tokenizer,
                   "none", 10**6)
    draw, answers = generator(0, "overhead"), {}
    for i, prompt in enumerate(prompts):
        said = [worked[(i + 1 + k if k % 2 else i) % len(worked)] for k in range(args.rollouts)]
        tokens = [(*tokenise(policy.tokenizer, "=".join([text] * args.longer)), policy.eos_ids[0]) for text in said]
        answers[prompt.tokens] = [Completion(t, tuple((-draw.exponential(0.3, len(t))).tolist()), "stop",
                                             (VersionSpan(0, len(t), 0),)) for t in tokens]
    method = method_of(Run(method=args.method, updates_per_batch=args.updates), 64 * args.longer)
    learner = Learner(policy, Settings())
    learner.scorer = learner.frozen["ref"] = Cheap(Trunk(policy.model), 1.0, policy.pad_id, micro=args.micro)
    learner.apply = lambda: {"grad_norm": 1.0, "lr": 1e-5, "skipped_steps": 0.0}  # type: ignore[method-assign]
    sampler = Sampler(method, Replay(answers), Grader("last_integer"), policy, prompts, Sampling(max_tokens=64 * args.longer),
                      prompts_per_step=args.prompts, group_size=args.rollouts, seed=0, learner=learner)
    return sampler, learner


def step(clock: Clock, at: int, sampler: Sampler, learner: Learner, console: Console, record: Record) -> None:
    """One step of `groupwise.run.loop.loop`."""
    method = sampler.method
    objective, state = method.objective, method.state()
    with clock.phase("draw"):
        plans = sampler.draw(at)
    with clock.phase("collect/rest"):
        groups = sampler.collect(plans, at)
    with clock.phase("state.observe"):
        state.observe(groups)
    with clock.phase("pack"):
        batch = pack(groups, default="old" if method.update.steps > 1 else "self", device=str(learner.device))
    with clock.phase("logprobs"):
        needed = learner.logprobs(batch, groups, method.needs)
    with clock.phase("credit"):
        credit = objective.credit(groups, batch, needed, state)
        batch = batch.with_columns(needed, credit).written_by(learner.policy_id)
    stats = []
    with clock.phase("split"):
        minibatches = list(method.update.split(batch, fold(0, "update", at)))
    for minibatch in minibatches:
        with clock.phase("weigh"):
            weighed = objective.weigh(minibatch)
        with clock.phase("gradients/rest"):
            stats.append(method.update.step(learner, weighed, objective))
    with clock.phase("metrics"):
        seen = metrics.of_groups(sampler.tally) | metrics.of_updates(stats)
        timing = {"seconds": 0.1, "generate": 0.05, "verify": 0.01, "train": 0.05, "tokens_per_second": 1e5}
    with clock.phase("console.log"):
        console.log(at + 1, seen, timing)
    with clock.phase("record.log"):
        record.log(at + 1, seen, timing)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Medians by phase."""
    sampler, learner = job(args)
    clock, record = Clock(), Record(folder)
    for owner, name, phase in (
            (sampler.engine, "generate", LEFT_OUT), (Cheap, "__call__", LEFT_OUT), (sampler, "episodes", "collect/episodes"),
            (sampler.grader, "rollouts", "collect/grade"), (sampler.history, "observe", "collect/history"),
            (Batch, "take", "gradients/take"), (Objective, "idle", "gradients/idle"), (Objective, "loss", "gradients/loss"),
            (torch.Tensor, "backward", "gradients/backward"), (Meter, "add", "gradients/meter"),
            (Meter, "result", "gradients/meter")):
        clock.watch(owner, name, phase)
    rows, graded = [], []
    with sampler.grader, Console(10**6) as console:
        for at in range(args.steps + WARM):
            clock.spent.clear()
            step(clock, at, sampler, learner, console, record)
            rows.append(dict(clock.spent))
            graded.append(sampler.tally.seconds["verify"])
    record.close()
    rows = [{name: 1000.0 * x for name, x in row.items() if name != LEFT_OUT} for row in rows[WARM:]]
    whole = [sum(row.values()) for row in rows]
    return {**{name: value for name, value in vars(args).items() if name != "json"},
            "tokens": sampler.tally.budget.tokens["policy/generate"], "milliseconds": round(statistics.median(whole), 2),
            "grading_wall": round(1000.0 * statistics.median(graded[WARM:]), 2),
            "phases": {name: round(statistics.median(row[name] for row in rows), 3) for name in rows[0]}}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("prompts", 32), ("rollouts", 8), ("longer", 1), ("micro", 4), ("updates", 0), ("steps", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--method", default="dr_grpo", choices=METHODS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        report = measure(args, Path(folder))
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
