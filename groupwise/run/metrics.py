"""Metrics of a step that need no second model: of the groups drawn, and means over the optimiser steps of a batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from groupwise.core.rollout import Rollout
from groupwise.run.collect import Tally


def of_groups(tally: Tally) -> dict[str, float]:
    """What was drawn, before any refusal: reward, strict accuracy, groups that can teach, lengths, truncation, abstentions."""
    groups = tally.drawn
    rollouts = [r for g in groups for r in g.rollouts]
    abstained = sum(g.abstained for g in groups)
    out: dict[str, Any] = {"rounds": tally.rounds, "groups": len(groups), "rollouts": len(rollouts) + abstained,
           "abstained": abstained / max(1, len(rollouts) + abstained), "surplus": tally.surplus}
    out |= {f"refused/{reason}": n for reason, n in sorted(tally.refused.items())}
    out |= {f"tokens/{purpose}": n for purpose, n in sorted(tally.budget.tokens.items())}
    if not rollouts:
        return {name: float(x) for name, x in out.items()}
    rewards = np.array([r.reward for r in rollouts], dtype=np.float64)
    spread = [np.ptp(g.rewards) > 0 for g in groups if g.rollouts]
    informative = {"all_correct": 0, "all_wrong": 0}
    for group in groups:
        if group.rollouts and len(set(group.correct.tolist())) == 1:
            informative["all_correct" if group.correct[0] else "all_wrong"] += 1
    out |= {"reward": rewards.mean(), "reward_std": rewards.std(),
            "accuracy": np.mean([bool(r.verdict.correct) for r in rollouts]), "informative": np.mean(spread)}
    out |= {f"groups_{name}": n / len(groups) for name, n in informative.items()}
    out |= _lengths(rollouts)
    out |= {f"verdict/{kind}": n / len(rollouts) for kind, n in sorted(_kinds(rollouts).items())}
    logp = np.array([x for r in rollouts for t in r.episode.turns for x in t.completion.logp])
    if len(logp):
        out["surprise"] = -float(np.nanmean(logp))  # the sampled estimate of the entropy, over every token drawn
    return {name: float(x) for name, x in out.items()}


def _kinds(rollouts: Sequence[Rollout]) -> dict[str, int]:
    kinds: dict[str, int] = {}
    for rollout in rollouts:
        kinds[rollout.verdict.kind] = kinds.get(rollout.verdict.kind, 0) + 1
    return kinds


def _lengths(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Mean, median and 95th percentile by correctness; truncation overall and among right answers."""
    lengths = np.array([r.episode.length for r in rollouts])
    right = np.array([bool(r.verdict.correct) for r in rollouts])
    cut = np.array([r.episode.truncated for r in rollouts])
    out = {"length": float(lengths.mean()), "truncated": float(cut.mean())}
    for name, chosen in (("right", right), ("wrong", ~right)):
        if chosen.any():
            some = lengths[chosen]
            out |= {f"length_{name}": float(some.mean()), f"length_{name}_median": float(np.median(some)),
                    f"length_{name}_p95": float(np.percentile(some, 95)), f"truncated_{name}": float(cut[chosen].mean())}
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
