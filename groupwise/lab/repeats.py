"""The same prompts answered again and again at saved weights: how much the gradient of a batch varies, and what small groups do
to the signs of advantages.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from groupwise.core.keyed import fold, generator
from groupwise.core.rollout import Group, Rollout
from groupwise.learner import checkpoint as learner_checkpoint
from groupwise.objective.batch import Batch, pack
from groupwise.objective.terms import Policy
from groupwise.run.assemble import Job, assemble
from groupwise.run.checkpoint import Checkpoints
from groupwise.run.settings import Run

Gram = Float64[np.ndarray, " r r"]
RESAMPLES = 2000
TINY = 1e-9


def measured(run: Run, folder: Path, repeats: int) -> dict[str, Any]:
    """At the weights that a finished run began with and at its last checkpoint: `variance` and `signs`."""
    kept = Checkpoints(folder, run.keep).latest()
    out = {}
    for name, found in {"base": None, "final": kept}.items():
        job = assemble(run, folder, learner_checkpoint.weights(found[0]) if found else None)
        with job.workers, job.grader:
            if found:  # a critic's head lies beside the weights
                learner_checkpoint.load(job.learner, found[0], found[1]["learner"])
            if found or name == "base":
                out[name] = repeated(job, repeats)
    return out


def repeated(job: Job, repeats: int) -> dict[str, Any]:
    """The prompts of the first step answered `repeats` times, with random numbers of their own that no method changes."""
    sampler = job.sampler
    sampler.method = replace(job.method, refill=None)  # the same prompts each time, whatever is refused
    plans = sampler.draw(0)
    vectors, drawn = [], list[list[Group]]()
    for repeat in range(repeats):
        sampler.tally.drawn.clear()
        again = [replace(plan, visit=fold(job.run.seed, "repeat", repeat, i)) for i, plan in enumerate(plans)]
        vectors.append(gradient(job, sampler.collect(again, 0)))
        drawn.append(list(sampler.tally.drawn))
    return variance(gram(vectors), seed=job.run.seed) | signs(job, drawn) | {
        "repeats": repeats, "prompts": len(plans), "group_size": job.run.group_size}


def gradient(job: Job, groups: Sequence[Group]) -> torch.Tensor:
    """The gradient of a rollout batch at the present weights, as one vector: the mean over the minibatches of the update, each
    weighed by itself, none of them applied. Zeros if there is no group.
    """
    learner, objective = job.learner, job.method.objective
    learner.discard()
    parts = 0
    if groups:
        for minibatch in job.method.update.split(credited(job, groups).written_by(learner.policy_id), 0):
            learner.gradients(objective.weigh(learner.planned(minibatch, objective)), objective)
            parts += 1
    found = [torch.zeros_like(p) if p.grad is None else p.grad / parts for p in learner.parameters.values()]
    learner.discard()
    return torch.cat([g.detach().float().cpu().reshape(-1) for g in found])


def credited(job: Job, groups: Sequence[Group]) -> Batch:
    """The batch of some groups with everything that is scored and credited, as the loop makes it."""
    batch = pack(groups, default=job.method.divides_by, device=str(job.learner.device))
    batch, needed = job.learner.scored(batch, groups, job.method.needs)
    return batch.with_columns(needed, job.method.objective.credit(groups, batch, needed, job.state))


def gram(vectors: Sequence[torch.Tensor]) -> Gram:
    """Inner products of some vectors, summed in float64."""
    return np.array([[float((a.double() * b.double()).sum()) for b in vectors] for a in vectors])


def variance(k: Gram, *, seed: int = 0) -> dict[str, Any]:
    """What repeated gradients g_r say of the estimator, by their inner products `k`.

    signal   mean of g_r . g_s over r != s: unbiased for the squared norm of the mean gradient, may be below 0
    spread   mean of |g_r|^2 less signal: unbiased for the trace of the covariance of one batch's gradient
    noise    spread / signal: batches that it takes for noise and signal of equal size (the simple noise scale of
             McCandlish et al. 2018, arXiv 1812.06162, section 2.2, counted in batches); None where signal is not above 0
    agree    signal / mean |g_r|^2: about the cosine of two batches' gradients
    noise_low, noise_high    95 % percentile interval of noise, repeats drawn anew (pairs of one and the same repeat left out)
    """
    def of(counts: np.ndarray) -> tuple[float, float]:
        pairs = np.outer(counts, counts) * (1.0 - np.eye(len(k)))
        return float((pairs * k).sum() / pairs.sum()), float((counts * np.diag(k)).sum() / counts.sum())

    n = len(k)
    signal, square = of(np.ones(n))
    random, ratios = generator(seed, "noise"), []
    for _ in range(RESAMPLES if n > 2 and square > 0 else 0):
        counts = np.bincount(random.integers(0, n, n), minlength=n).astype(np.float64)
        if (counts > 0).sum() > 1:
            s, q = of(counts)
            ratios.append((q - s) / s if s > 0 else np.inf)
    low, high = np.percentile(ratios, [2.5, 97.5], method="nearest") if ratios else (np.nan, np.nan)
    return {"signal": signal, "spread": square - signal, "noise": (square - signal) / signal if signal > 0 else None,
            "noise_low": float(low), "noise_high": float(high), "agree": signal / square if square > 0 else None}


def signs(job: Job, drawn: Sequence[Sequence[Group]]) -> dict[str, Any]:
    """Signs of advantages in groups as drawn, against those of the same rollouts in one group of all repeats of their prompt.

    flipped  share of rollouts, among those with an advantage in both, whose sign is another one
    lost     share of rollouts with an advantage in the large group that have none in theirs
    empty    share of groups in which no rollout has an advantage
    Nothing, for a method without a policy term. Admission is left out, shaping is not.
    """
    name = next((term.credit for term in job.method.objective.terms if isinstance(term, Policy)), "")
    if not name:
        return {}
    repeats = [[_shaped(job, group) for group in groups if group.own] for groups in drawn]
    small: dict[int, float] = {}
    for groups in repeats:
        small |= _advantages(job, groups, name)
    pooled: dict[str, list[Rollout]] = {}
    for group in (group for groups in repeats for group in groups):
        pooled.setdefault(group.key, []).extend(group.rollouts)
    first = {group.key: group for groups in reversed(repeats) for group in groups}
    large = _advantages(job, [replace(first[key], rollouts=tuple(some)) for key, some in pooled.items()], name)
    pairs = np.array([(small[r], large[r]) for r in small]).reshape(-1, 2)
    has = np.abs(pairs) > TINY
    both = has.all(axis=1)
    empty = [all(abs(small.get(id(r), 0.0)) <= TINY for r in group.own) for groups in repeats for group in groups]
    return {"flipped": _share((pairs.prod(axis=1) < 0)[both]), "lost": _share(~has[has[:, 1], 0]),
            "empty": _share(np.array(empty))}


def _shaped(job: Job, group: Group) -> Group:
    for shape in job.method.shape:
        group = shape(group)
    return group


def _advantages(job: Job, groups: Sequence[Group], name: str) -> dict[int, float]:
    """The mean advantage of every rollout's tokens, by the object's identity; rollouts that only serve others are left out."""
    rows = [r for g in groups for r in g.rollouts if any(t.completion.tokens for t in r.episode.turns)]
    if not rows:
        return {}
    batch = credited(job, groups)
    values, of = batch.column(name).double().cpu().numpy(), batch.layout.ids("token", "episode")
    means = np.bincount(of, values, len(rows)) / np.bincount(of, minlength=len(rows))
    return {id(r): float(x) for r, x in zip(rows, means, strict=True) if not r.episode.aside}


def _share(found: np.ndarray) -> float | None:
    return float(found.mean()) if len(found) else None
