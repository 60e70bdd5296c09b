"""From a run's settings to its learner: with the models that its method needs, its routing and its learning rates."""

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor

from groupwise.errors import ConfigError
from groupwise.learner.learner import Learner
from groupwise.learner.parallel import Crew, Sharded
from groupwise.learner.settings import Compile, Models, Settings
from groupwise.methods.method import Method
from groupwise.models import routing
from groupwise.models.load import Policy
from groupwise.objective.objective import Objective
from groupwise.run.compose import method_of
from groupwise.run.policy import policy_for, reference_for
from groupwise.run.ranks import Ranks
from groupwise.run.settings import Run
from groupwise.run.workers import Setup, Workers


def learner_of(run: Run, policy: Policy, method: Method, base: str | Path, compile: Compile | None = None,
               workers: Workers | None = None) -> Learner:
    """The learner of a method, with the reference model if it needs one."""
    models = _models(run, policy, method, base, run.learner.device)
    return Learner(policy, settings_of(run, method), needs=method.needs, models=models, compile=compile, team=workers)


def shared_learner(opening: contextlib.ExitStack, run: Run, policy: Policy, method: Method, base: str | Path,
                   weights: Path | None, compile: Compile | None) -> tuple[Learner, Workers | Ranks]:
    """The learner, and the processes that share its work, which get ready while the rest is made; `opening` closes them."""
    own, place = run.learner, str(weights) if weights else None
    if own.parallel == "fsdp2":
        ranks = opening.enter_context(Ranks(own.ranks, own.threads, own.device))
        return Share(run, str(base), place).first(ranks, method, policy), ranks
    workers = opening.enter_context(Workers(own.workers, own.threads))
    learner = learner_of(run, policy, method, base, compile, workers)
    workers.join(learner, Setup(run, str(base), place), method.objective)
    return learner, workers


def _models(run: Run, policy: Policy, method: Method, base: str | Path, device: str) -> Models:
    """The frozen models of a method, on a device; the policy gets its routing."""
    policy.routing = routing_of(run, policy, method)
    frozen = {"ref": reference_for(run.learner, policy, base, device=device)} if "ref" in method.needs else {}
    return Models(frozen, method.contexts)


@dataclass(frozen=True)
class Share:
    """What each rank makes its part of a learner from: resolved settings, where the base policy and (others than its) weights
    lie. Models are read by every rank and put into shards block by block, so that no GPU holds a whole one for it.
    """

    run: Run
    base: str
    weights: str | None = None

    def first(self, ranks: Ranks, method: Method, whole: Policy) -> Learner:
        """The learner of rank 0, which samples from the policy `whole`, when the others have been told to make theirs."""
        whole.routing = routing_of(self.run, whole, method)
        ranks.begin(self, method.objective)
        with ranks.guarded():
            return self._learner(ranks, method, whole)

    def other(self, crew: Crew) -> tuple[Sharded, Objective]:
        """That of another rank, and the method's objective."""
        torch.set_num_threads(self.run.learner.threads)
        transformers.utils.logging.disable_progress_bar()
        method = method_of(self.run, self.run.sampling.max_tokens)
        return self._learner(crew, method), method.objective

    def _learner(self, crew: Crew, method: Method, whole: Policy | None = None) -> Sharded:
        policy = policy_for(self.run.learner, self.base, self.weights, seed=self.run.seed)
        models = _models(self.run, policy, method, self.base, "cpu")
        return Sharded(policy, settings_of(self.run, method), crew=crew, whole=whole, needs=method.needs, models=models)


def routing_of(run: Run, policy: Policy, method: Method) -> routing.Routing | None:
    """The routing of a mixture of experts; ConfigError if it is asked for where it cannot be."""
    own = run.learner
    found = routing.find(policy.model, own.routing)
    asked = f"routing={own.routing}" if own.routing != "live" else f"router_aux={own.router_aux}" if own.router_aux else ""
    if isinstance(found, str):
        if asked:
            raise ConfigError(f"{asked} cannot be: {found}; leave it at the default")
        return None
    if own.routing == "old" and method.update.steps > 1 and "old" not in method.needs:
        raise ConfigError("routing=old replays the routes of the pass that takes the old log-probs, and the method "
                          f"{run.method!r} takes none (its ratios divide by the engine's): take routing=recorded")
    return found


def settings_of(run: Run, method: Method) -> Settings:
    """The learner's settings; a schedule spans all optimiser steps of the run."""
    own = run.learner
    return Settings(lr=own.lr, value_lr=own.value_lr, schedule=own.schedule, warmup_steps=own.warmup_steps,
                    total_steps=run.steps * method.update.steps, weight_decay=own.weight_decay, betas=own.betas,
                    grad_clip=own.grad_clip, micro_tokens=own.micro_tokens, logit_chunk=own.logit_chunk,
                    fixed_cut=method.objective.depends_on_microbatches, temperature=run.sampling.temperature,
                    precision=torch.float32 if own.dtype == own.weights else getattr(torch, own.dtype), router_aux=own.router_aux,
                    optimizer=own.optimizer)


def rates(run: Run, method: Method) -> list[float]:
    """The learning rates of all optimiser steps of a run, the first 100,000 of them."""
    settings = settings_of(run, method)
    return [settings.rate(step) for step in range(min(settings.total_steps, 100_000))]


def scale_of(weights: Iterable[Tensor]) -> float:
    """The root mean square of weights."""
    parts = [(float(w.detach().float().square().sum()), w.numel()) for w in weights]
    return math.sqrt(sum(square for square, _ in parts) / max(1, sum(n for _, n in parts)))
