"""The learner: who makes gradients. It scores batches, adds up gradients over micro-batches, and takes optimiser steps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from groupwise.core.rollout import Group
from groupwise.errors import ObjectiveError, TrainingError, nearest
from groupwise.learner.budget import LESS, Budget
from groupwise.learner.compiled import KernelScorer
from groupwise.learner.forward import Scorer, deal, lengths
from groupwise.learner.norm import clip, norm
from groupwise.learner.observe import Meter
from groupwise.learner.routes import with_routes, without_routes
from groupwise.learner.settings import Compile, Models, Settings
from groupwise.learner.work import Alone, AnyScorer, Outcome, Pace, Task, Team, assemble, work
from groupwise.models import adapter, bits
from groupwise.models.head import Trunk, ValueHead, Want
from groupwise.models.load import Policy
from groupwise.models.memory import tried
from groupwise.objective.batch import Batch
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Live

PATIENCE = 3
"""Steps with a non-finite gradient in a row after which training stops."""


class Learner:
    """One trained policy. `needs` are the method's: with `values`, the policy gets a value head that is trained along.

    `compile` puts models into compiled kernels; without it their own modules run. `team` shares the work.
    """

    pace = Pace()
    """How the processes that share the work keep in step; by themselves, if each has whole weights."""

    def __init__(self, policy: Policy, settings: Settings, *, needs: frozenset[str] = frozenset(), models: Models | None = None,
                 policy_id: str = "policy", compile: Compile | None = None, team: Team | None = None) -> None:
        self.policy, self.settings, self.policy_id = policy, settings, policy_id
        self.team: Team = team or Alone()
        self.models = models or Models()
        self.budget = Budget(settings.micro_tokens, settings.logit_chunk, settings.fixed_cut)
        if compile is not None:  # kernels have a way of their own with logits
            self.budget.least = settings.logit_chunk
        first = next(policy.model.parameters())
        self.device = first.device
        width, wide = policy.model.config.get_text_config().hidden_size, torch.promote_types(first.dtype, torch.float32)
        self.value_head = ValueHead(width).to(self.device, wide) if "values" in needs else None
        self.scorer = self._scorer(policy, compile, self.value_head)
        self.frozen = {name: self._scorer(p, compile, plain=p is policy) for name, p in self.models.frozen.items()}
        self.parameters = adapter.trained(policy.model)
        parts: list[dict[str, Any]] = [{"params": list(self.parameters.values()), "share": 1.0}]
        if self.value_head is not None:
            head = dict(self.value_head.named_parameters())
            self.parameters |= {f"value_head.{name}": p for name, p in head.items()}
            parts.append({"params": list(head.values()), "share": (settings.value_lr or settings.lr) / settings.lr})
        made = bits.adamw8bit if settings.optimizer == "adamw8bit" else partial(torch.optim.AdamW, fused=True)
        self.optimizer = made(parts, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)
        self.steps, self.bad_steps, self.bad_in_a_row = 0, 0, 0

    def _scorer(self, policy: Policy, compile: Compile | None, value_head: ValueHead | None = None, *,
                plain: bool = False) -> AnyScorer:
        own = self.settings
        if compile is not None:
            return KernelScorer(compile(policy.model), own.temperature, value_head)
        trunk = Trunk(policy.model, head_float32=policy.head_float32)
        routing = None if plain else policy.routing
        return Scorer(trunk, own.temperature, policy.pad_id, value_head, own.precision, routing, plain)

    # ---- scoring -----------------------------------------------------------------------------------------------------

    def logprobs(self, batch: Batch, groups: Sequence[Group], needs: frozenset[str]) -> dict[str, Tensor]:
        """Per-token columns of a packed batch: old_logp, ref_logp, values, entropy, sum_p2, `teacher:NAME/CONTEXT`.

        One pass per (weights, context). Tokens without the context (a builder that answers None) are nan.
        """
        return self.scored(batch, groups, needs)[1]

    @torch.no_grad()
    def logp_at(self, batch: Batch, temperature: float) -> Float[Tensor, " t"]:
        """The policy's log-probs of a packed batch at a temperature of its own."""
        return self._whole("policy", batch, Want(temperature=temperature)).logp

    @torch.no_grad()
    def scored(self, batch: Batch, groups: Sequence[Group], needs: frozenset[str]) -> tuple[Batch, dict[str, Tensor]]:
        """`logprobs`, and the batch to go on with: if the routing of a mixture of experts is "old", it has the routes of the pass
        that takes the old log-probs.
        """
        columns: dict[str, Tensor] = {}
        own = needs & {"old", "values", "entropy", "sum_p2"}
        if own:
            old = "old" in own and self.policy.routing is not None and self.policy.routing.source == "old"
            live, places, routes = self._pass("policy", batch, Want("entropy" in own, "sum_p2" in own, routes=old))
            if old:
                batch = with_routes(batch, places, routes)
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
        return batch, columns

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
        moved = replace(without_routes(batch), contexts=contexts)
        logp = self._whole(name, moved, Want()).logp
        has = torch.from_numpy(there[batch.layout.ids("token", "sequence")]).to(self.device)
        return torch.where(has, logp, torch.nan)

    def _whole(self, model: str, batch: Batch, want: Want) -> Live:
        """The values of a pass over all sequences, put back into the batch's order."""
        return self._pass(model, batch, want)[0]

    def _pass(self, model: str, batch: Batch, want: Want) -> tuple[Live, np.ndarray, list[np.ndarray]]:
        """A pass over all sequences; and the sequences in the order in which they were run, with their routes if wanted."""
        every = np.arange(batch.layout.size("sequence"))

        def scored() -> tuple[Live, np.ndarray, list[np.ndarray]]:
            tasks = self._tasks(batch, every, want, model)
            outcomes = self.team.run(tasks, self.work)
            places = np.concatenate([part for task in tasks for part in task.parts])
            return assemble(batch, tasks, outcomes), places, [route for outcome in outcomes for route in outcome.routes]

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
        idle = objective.idle(batch) & ("micro" not in batch.layout.keys) & (not self.settings.router_aux)
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
        far = objective.reach in ("group", "step")
        first = self.team.run(tasks, self.work) if far or self.settings.router_aux else []
        tasks = [replace(task, balance=self._balance(first)) for task in tasks]
        if far:
            outcomes = self._two_passes(batch, objective, tasks, first, meter)
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

    def _balance(self, first: list[Outcome]) -> Tensor | None:
        """The slopes [experts] of the load-balancing loss: it is a product of two means over the optimiser step, the load (which
        has no gradient, and is taken from a first pass over the whole step) and the probabilities, in which it is then linear.
        """
        meter = Meter()
        for outcome in first:
            meter.merge(outcome.meter)
        if not self.settings.router_aux or meter.routing is None:
            return None
        return torch.from_numpy(meter.routing.slopes * self.settings.router_aux).to(self.device, torch.float32)

    def _two_passes(self, batch: Batch, objective: Objective, tasks: list[Task], first: list[Outcome],
                    meter: Meter) -> list[Outcome]:
        """Losses that reach across micro-batches: log-probs of the whole step without gradient (`first`), dL/dlogp on them, then
        the backward of sum(stopgrad(dL/dlogp) logp) per micro-batch. Exact on any split.
        """
        whole = assemble(batch, tasks, first)
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
        return work(self._scorer_of(task.model), task, self.pace)

    def apply(self) -> dict[str, float]:
        """Clip, step, clear. A non-finite gradient skips the step and is counted; three in a row stop the run.

        TrainingError also where there is no memory for the optimiser's moments.
        """
        length = norm([p.grad for p in self.parameters.values() if p.grad is not None])
        size, rate = float(length), self.settings.rate(self.steps)
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
                clip(self.parameters.values(), self.settings.grad_clip, length)
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
        """The policy's weights by name, as the engine takes them (not copied); with adapters, theirs."""
        model = self.policy.model
        return adapter.trained(model) if adapter.layers(model) else dict(model.state_dict())

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of all trained parameters."""
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take a snapshot back."""
        for name, parameter in self.parameters.items():
            parameter.copy_(snapshot[name])
        self.scorer.refresh()
