"""Metrics of a step that need no second model: of the groups drawn, and means over the optimiser steps of a batch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int

from groupwise.core.rollout import Rollout
from groupwise.objective import levels
from groupwise.objective.objective import Objective
from groupwise.run.collect import Tally


def of_step(tally: Tally, stats: Sequence[Mapping[str, float]], objective: Objective,
            factors: Mapping[str, float]) -> dict[str, float]:
    """All metrics of a step; `factors` are what the method's state puts on coefficients of terms, shown as `coef/TERM`."""
    coef = {f"coef/{term.name}": term.coef * factors[term.name] for term in objective.terms if term.name in factors}
    return of_groups(tally) | of_updates(stats) | coef


def of_groups(tally: Tally) -> dict[str, float]:
    """What was drawn, before any refusal: reward, strict accuracy, groups that can teach, lengths, truncation, abstentions."""
    groups = tally.drawn
    counted = [g.own for g in groups]
    rollouts = [r for own in counted for r in own]
    abstained = sum(g.abstained for g in groups)
    out: dict[str, Any] = {"rounds": tally.rounds, "groups": len(groups), "rollouts": len(rollouts) + abstained,
           "abstained": abstained / max(1, len(rollouts) + abstained), "surplus": tally.surplus}
    if tokens := sum(n for _, n in tally.lags):
        out |= {"stale": sum(n for lag, n in tally.lags if lag) / tokens}
    out |= {f"refused/{reason}": n for reason, n in sorted(tally.refused.items())}
    out |= {f"tokens/{purpose}": n for purpose, n in sorted(tally.budget.tokens.items())}
    out |= _components(rollouts, [*rollouts, *tally.lost])
    if not rollouts:
        return {name: float(x) for name, x in out.items()}
    rewards = np.array([r.reward for r in rollouts], dtype=np.float64)
    right = np.array([bool(r.verdict.correct) for r in rollouts])
    sizes = [len(own) for own in counted if own]
    of, n = np.repeat(np.arange(len(sizes)), sizes), len(sizes)
    spread = levels.reduce(rewards, of, n, "max") > levels.reduce(rewards, of, n, "min")
    wins = levels.reduce(right.astype(np.float64), of, n, "mean")
    out |= {"reward": rewards.mean(), "reward_std": rewards.std(), "accuracy": right.mean(), "informative": spread.mean(),
            "groups_all_correct": (wins == 1).sum() / len(groups), "groups_all_wrong": (wins == 0).sum() / len(groups)}
    out |= _lengths(rollouts, right)
    out |= _pay(rewards, right, np.array([r.episode.length for r in rollouts], dtype=np.float64), of)
    turns = [t.completion for r in rollouts for t in r.episode.turns]
    if tally.marks and turns:
        out["run_on"] = sum(c.finish == "length" and not tally.marks.isdisjoint(c.tokens) for c in turns) / len(turns)
    kinds = Counter(r.verdict.kind for r in rollouts)
    out |= {f"verdict/{kind}": n / len(rollouts) for kind, n in sorted(kinds.items())}
    logp = np.fromiter(chain.from_iterable(t.completion.logp for r in rollouts for t in r.episode.turns), dtype=np.float64)
    if len(logp):
        out["surprise"] = -float(np.nanmean(logp))  # the sampled estimate of the entropy, over every token drawn
    return {name: float(x) for name, x in out.items()}


def _components(rollouts: Sequence[Rollout], every: Sequence[Rollout]) -> dict[str, float]:
    """Of each named part of the reward its unweighted mean over the rollouts that count, and the share of all in which it is
    missing.
    """
    out: dict[str, float] = {}
    for name in sorted({c.name for r in every for c in r.components}):
        values = [value for r in rollouts if (value := r.component(name)) is not None]
        out |= {f"reward/{name}": sum(values) / len(values)} if values else {}
        out[f"abstained/{name}"] = sum(r.component(name) is None for r in every) / len(every)
    return out


def _lengths(rollouts: Sequence[Rollout], right: Bool[np.ndarray, " n"]) -> dict[str, float]:
    """Mean, median and 95th percentile by correctness; truncation overall and among right answers."""
    lengths = np.array([r.episode.length for r in rollouts])
    cut = np.array([r.episode.truncated for r in rollouts])
    out = {"length": float(lengths.mean()), "truncated": float(cut.mean())}
    for name, chosen in (("right", right), ("wrong", ~right)):
        if chosen.any():
            some = lengths[chosen]
            out |= {f"length_{name}": float(some.mean()), f"length_{name}_median": float(np.median(some)),
                    f"length_{name}_p95": float(np.percentile(some, 95)), f"truncated_{name}": float(cut[chosen].mean())}
    return out


def _pay(rewards: Float64[np.ndarray, " n"], right: Bool[np.ndarray, " n"], lengths: Float64[np.ndarray, " n"],
         of: Int[np.ndarray, " n"]) -> dict[str, float]:
    """What is paid within groups `of`: right answers less wrong ones (mean over mixed groups), and the correlation of reward with
    length among equally correct answers; each left out where nothing differs.
    """
    out, cell = {}, 2 * of + right  # the wrong and the right answers of each group
    cells = 2 * (int(of.max()) + 1)
    paid, there = levels.reduce(rewards, cell, cells, "mean"), np.bincount(cell, minlength=cells).reshape(-1, 2).all(1)
    if there.any():
        out["reward_gap"] = float((paid[1::2] - paid[::2])[there].mean())
    x, y = lengths - levels.reduce(lengths, cell, cells, "mean")[cell], rewards - paid[cell]
    spread = float(np.sqrt((x * x).sum() * (y * y).sum()))
    if spread > 1e-9:
        out["reward_by_length"] = float((x * y).sum()) / spread
    return out


def of_updates(stats: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the optimiser steps of a batch; counts and extremes keep their sense."""
    names = dict.fromkeys(name for one in stats for name in one)
    out = {}
    for name in names:
        values = [one[name] for one in stats if name in one]
        if name in ("skipped_steps", "lr"):
            out[name] = values[-1]
        elif name.endswith("_max"):
            out[name] = max(values)
        elif name.startswith("dropped_") or name in ("tokens_trained", "vetoed"):
            out[name] = sum(values)
        else:
            out[name] = sum(values) / len(values)
            if name.startswith("weights/") and len(values) > 1:  # each optimiser step has its own
                out |= {f"{name}/least": min(values), f"{name}/most": max(values)}
    return out | {"optimiser_steps": float(len(stats))}
