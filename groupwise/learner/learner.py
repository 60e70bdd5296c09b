"""The learner: who makes gradients. It scores batches, adds up gradients over micro-batches, and takes optimiser steps."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from groupwise.core.rollout import Group
from groupwise.core.services import ContextBuilder
from groupwise.errors import ObjectiveError, TrainingError, nearest
from groupwise.kernels.library import Compiled
from groupwise.learner.budget import LESS, Budget
from groupwise.learner.compiled import KernelScorer
from groupwise.learner.forward import Scorer, deal, lengths
from groupwise.learner.observe import Meter
from groupwise.learner.work import Alone, AnyScorer, Outcome, Task, Team, assemble, work
from groupwise.models.head import LOGIT_CHUNK, Trunk, ValueHead, Want
from groupwise.models.load import Policy
from groupwise.models.memory import tried
from groupwise.objective.batch import Batch
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Live

PATIENCE = 3
"""Steps with a non-finite gradient in a row after which training stops."""


@dataclass(frozen=True)
class Settings:
    """How gradients are taken and applied. `total_steps` is the number of optimiser steps that a schedule spans,
    `floor` the share of the rate that it never falls below; `value_lr` is the rate of a value head (0: `lr`), on the same
    schedule. `fixed_cut`: the objective depends on the micro-batches, so they may not be made smaller where memory runs out.
    """

    lr: float = 6e-5
    value_lr: float = 0.0
    schedule: str = "constant"
    warmup_steps: int = 0
    total_steps: int = 1
    floor: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    grad_clip: float = 1.0
    micro_tokens: int = 8192
    logit_chunk: int = LOGIT_CHUNK
    fixed_cut: bool = False
    temperature: float = 1.0
    precision: torch.dtype = torch.float32

    def rate(self, step: int) -> float:
        """The learning rate of the optimiser step with this index."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        left = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[self.schedule]
        return self.lr * max(self.floor, left)


@dataclass
class Models:
    """Frozen models that may be asked for log-probs: the reference and named teachers, and contexts to score under."""

    frozen: Mapping[str, Policy] = field(default_factory=dict)
    contexts: Mapping[str, ContextBuilder] = field(default_factory=dict)


Compile = Callable[[PreTrainedModel], Compiled]


class Learner:
    """One trained policy. `needs` are the method's: with `values`, the policy gets a value head that is trained along.

    `compile` puts models into compiled kernels; without it their own modules run. `team` shares the work.
    """

    def __init__(self, policy: Policy, settings: Settings, *, needs: frozenset[str] = frozenset(), models: Models | None = None,
                 policy_id: str = "policy", compile: Compile | None = None, team: Team | None = None) -> None:
        self.policy, self.settings, self.policy_id = policy, settings, policy_id
        self.team: Team = team or Alone()
        self.models = models or Models()
        self.budget = Budget(settings.micro_tokens, settings.logit_chunk, settings.fixed_cut)
        if compile is not None:  # kernels have a way of their own with logits
            self.budget.least = settings.logit_chunk
        self.device = next(policy.model.parameters()).device
        width = policy.model.config.get_text_config().hidden_size
        self.value_head = ValueHead(width).to(self.device) if "values" in needs else None
        self.scorer = self._scorer(policy, compile, self.value_head)
        self.frozen = {name: self._scorer(p, compile) for name, p in self.models.frozen.items()}
        self.parameters: dict[str, Tensor] = dict(policy.model.named_parameters())
        parts: list[dict[str, Any]] = [{"params": list(self.parameters.values()), "share": 1.0}]
        if self.value_head is not None:
            head = dict(self.value_head.named_parameters())
            self.parameters |= {f"value_head.{name}": p for name, p in head.items()}
            parts.append({"params": list(head.values()), "share": (settings.value_lr or settings.lr) / settings.lr})
        self.optimizer = torch.optim.AdamW(parts, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay,
                                           fused=True)
        self.steps, self.bad_steps, self.bad_in_a_row = 0, 0, 0

    def _scorer(self, policy: Policy, compile: Compile | None, value_head: ValueHead | None = None) -> AnyScorer:
        own = self.settings
        if compile is not None:
            return KernelScorer(compile(policy.model), own.temperature, value_head)
        return Scorer(Trunk(policy.model), own.temperature, policy.pad_id, value_head, own.precision)

    # ---- scoring -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def logprobs(self, batch: Batch, groups: Sequence[Group], needs: frozenset[str]) -> dict[str, Tensor]:
        """Per-token columns of a packed batch: old_logp, ref_logp, values, entropy, sum_p2, `teacher:NAME/CONTEXT`.

        One pass per (weights, context). Tokens without the context (a builder that answers None) are nan.
        """
        columns: dict[str, Tensor] = {}
        own = needs & {"old", "values", "entropy", "sum_p2"}
        if own:
            live = self._whole("policy", batch, Want(entropy="entropy" in own, sum_p2="sum_p2" in own))
            found = {"old": ("old_logp", live.logp), "values": ("values", live.values), "entropy": ("entropy", live.entropy),
                     "sum_p2": ("sum_p2", live.sum_p2)}
            columns |= {name: x for need in own for name, x in [found[need]] if x is not None}
        if "ref" in needs:
            columns["ref_logp"] = self._whole("ref", batch, Want()).logp
        for need in sorted(n for n in needs if n.startswith("teacher:")):
            columns[need] = self._teacher(need, batch, groups)
        known = ("old", "values", "entropy", "sum_p2", "ref")
        if unknown := {n for n in needs if n not in known and not n.startswith("teacher:")}:
            raise ObjectiveError(f"nothing here scores {sorted(unknown)}; {nearest(min(unknown), known)}, teacher:NAME/CONTEXT")
        return columns

    def _scorer_of(self, name: str) -> AnyScorer:
        if name == "policy":
            return self.scorer
        if name not in self.frozen:
            raise ObjectiveError(f"the method needs log-probs of a model {name!r} that was not loaded; "
                                 f"{nearest(name, self.frozen)}")
        return self.frozen[name]

    def _teacher(self, need: str, batch: Batch, groups: Sequence[Group]) -> Float[Tensor, " t"]:
        """Log-probs of the same tokens under another context (`plain`: the same context)."""
        name, _, where = need.removeprefix("teacher:").partition("/")
        if where in ("", "plain"):
            return self._whole(name, batch, Want()).logp
        if where not in self.models.contexts:
            raise ObjectiveError(f"{need!r} names no context of the method; {nearest(where, self.models.contexts)}")
        if batch.layout.size("sequence") != batch.layout.size("episode"):
            raise ObjectiveError(f"{need!r}: an episode of several sequences cannot be put under one other context")
        build = self.models.contexts[where]
        made = [build(r, g) for g in groups for r in g.rollouts if any(t.completion.tokens for t in r.episode.turns)]
        there = np.array([c is not None for c in made])
        contexts = tuple(c.tokens if c is not None else old for c, old in zip(made, batch.contexts, strict=True))
        moved = replace(batch, contexts=contexts)
        logp = self._whole(name, moved, Want()).logp
        has = torch.from_numpy(there[batch.layout.ids("token", "sequence")]).to(self.device)
        return torch.where(has, logp, torch.nan)

    def _whole(self, model: str, batch: Batch, want: Want) -> Live:
        """A pass over all sequences, put back into the batch's order."""
        every = np.arange(batch.layout.size("sequence"))

        def scored() -> Live:
            tasks = self._tasks(batch, every, want, model)
            return assemble(batch, tasks, self.team.run(tasks, self.work))

        return self.budget.within(scored, self._rest, f"log-probs of the model {model!r}", lengths(batch))

    def _rest(self) -> None:
        """Give back the scorers' working memory."""
        for scorer in (self.scorer, *self.frozen.values()):
            scorer.rest()

    # ---- gradients ---------------------------------------------------------------------------------------------------

    def gradients(self, batch: Batch, objective: Objective) -> dict[str, float]:
        """Add the gradient of a weighed minibatch to the parameters'; sequences that cannot have one are not run.

        Where memory runs out it is made again with less at a time (`Budget`). TrainingError: one sequence alone does not fit.
        """
        idle = objective.idle(batch) & ("micro" not in batch.layout.keys)
        chosen, size = np.flatnonzero(~idle), lengths(batch)
        earlier = {name: p.grad.clone() for name, p in self.parameters.items() if p.grad is not None}

        def undo() -> None:
            self._rest()
            self.discard()
            for name, gradient in earlier.items():
                self.parameters[name].grad = gradient.clone()

        self.budget.fixed |= objective.depends_on_microbatches
        stats = self.budget.within(lambda: self._taken(batch, objective, chosen), undo, "the gradient", size[chosen])
        stats["idle_share"] = float(idle.mean())
        return stats | {f"weights/{name}": float(w.values.double().sum()) for name, w in batch.weights.items()}

    def _taken(self, batch: Batch, objective: Objective, chosen: np.ndarray) -> dict[str, float]:
        """Add the gradient of the chosen sequences to the parameters'."""
        want = Want(entropy=True, sum_p2="sum_p2" in objective.needs, hidden="hidden:last" in objective.needs)
        tasks, meter = self._tasks(batch, chosen, want), Meter()
        if objective.reach in ("group", "step"):
            outcomes = self._two_passes(batch, objective, tasks, meter)
        else:
            outcomes = self.team.run([replace(task, objective=objective) for task in tasks], self.work)
        for outcome in outcomes:
            meter.merge(outcome.meter)
        self.scorer.finish()
        return meter.result() | {"dropped_sequences": float(sum(outcome.lost for outcome in outcomes))}

    def planned(self, batch: Batch, objective: Objective) -> Batch:
        """The minibatch as it is to be weighed: with its micro-batches, if the objective depends on them."""
        if not objective.depends_on_microbatches:
            return batch
        tasks = self._tasks(batch, range(batch.layout.size("sequence")), Want())
        return batch.with_parts([part for task in tasks for part in task.parts])

    def _two_passes(self, batch: Batch, objective: Objective, tasks: list[Task], meter: Meter) -> list[Outcome]:
        """Losses that reach across micro-batches: log-probs of the whole step without gradient, dL/dlogp on them, then the
        backward of sum(stopgrad(dL/dlogp) logp) per micro-batch. Exact on any split.
        """
        whole = assemble(batch, tasks, self.team.run(tasks, self.work))
        leaves = {name: x.detach().requires_grad_() for name, x in vars(whole).items() if x is not None}
        loss = objective.loss(Live(**leaves), batch)
        found = torch.autograd.grad(loss.value, list(leaves.values()), allow_unused=True)
        meter.add(loss, whole, batch)
        slopes = {name: slope for name, slope in zip(leaves, found, strict=True) if slope is not None}
        return self.team.run([replace(task, slopes=slopes) for task in tasks], self.work)

    def _tasks(self, batch: Batch, chosen: Sequence[int] | np.ndarray, want: Want, model: str = "policy") -> list[Task]:
        """The chosen sequences, dealt to the processes of the team and cut into micro-batches."""
        scorer, most = self._scorer_of(model), self.budget.micro_tokens
        want = replace(want, logit_chunk=self.budget.logit_chunk)
        return [Task(batch, tuple(scorer.plan(batch, some, most)), want, model=model)
                for some in deal(batch, chosen, self.team.size)]

    def work(self, task: Task) -> Outcome:
        """Do a task in this process (`learner.work`)."""
        return work(self._scorer_of(task.model), task)

    def apply(self) -> dict[str, float]:
        """Clip, step, clear. A non-finite gradient skips the step and is counted; three in a row stop the run.

        TrainingError also where there is no memory for the optimiser's moments.
        """
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters.values() if p.grad is not None])
        size, rate = float(norm), self.settings.rate(self.steps)
        if not math.isfinite(size):
            self.discard()
            self.bad_steps += 1
            self.bad_in_a_row += 1
            if self.bad_in_a_row >= PATIENCE:
                raise TrainingError(f"the gradient was not finite {PATIENCE} optimiser steps in a row: lower the learning rate "
                                    f"(now {rate:g}), or look at the last rollouts of the run for broken log-probs")
        else:
            self.bad_in_a_row = 0
            if self.settings.grad_clip:
                torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), self.settings.grad_clip, norm)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["share"]
            _, said = tried(self.optimizer.step)
            if said:
                raise TrainingError(f"out of memory in the optimiser step ({said}): AdamW keeps two moments of every trained "
                                    f"parameter, of which there are {sum(p.numel() for p in self.parameters.values()):,}; {LESS}")
            self.scorer.refresh()
            self.discard()
        self.steps += 1
        return {"grad_norm": size, "lr": rate, "skipped_steps": float(self.bad_steps)}

    def discard(self) -> None:
        """Clear the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    # ---- weights and state -------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """The policy's weights by name, as the engine takes them (not copied)."""
        return dict(self.policy.model.state_dict())

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of all trained parameters."""
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take a snapshot back."""
        for name, parameter in self.parameters.items():
            parameter.copy_(snapshot[name])
        self.scorer.refresh()
