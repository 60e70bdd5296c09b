"""Interventions: what may happen to rollouts at fixed moments. The default does nothing.

before(plans)                    rewrite contexts, add rollouts of other roles
after_score(groups, services)    replace or add rollouts (hints, traces, refinements)
before_update(groups)            the last look: drop, copy, weigh
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from groupwise.core.rollout import Group
from groupwise.core.services import Plan, Services

GREEDY = "greedy"
"""The role of rollouts whose most likely token is always taken, made for a baseline."""


class Intervention:
    """Override what you need. Rollouts you make must say under which context they were sampled and are trained."""

    def before(self, plans: Sequence[Plan]) -> list[Plan]:
        """The plans to carry out instead."""
        return list(plans)

    def after_score(self, groups: Sequence[Group], services: Services) -> list[Group]:
        """The groups to go on with; the prompts' history has already seen the unaided ones."""
        return list(groups)

    def before_update(self, groups: Sequence[Group]) -> list[Group]:
        """The groups to train on."""
        return list(groups)


@dataclass(frozen=True)
class GreedyBaseline(Intervention):
    """One more rollout of every group, greedy and not trained on, under the context of the others (ReMax)."""

    def before(self, plans: Sequence[Plan]) -> list[Plan]:
        """The plans, each group's first one followed by that of its greedy rollout."""
        made, seen = [], set()
        for plan in plans:
            made.append(plan)
            if plan.group not in seen and plan.trained:
                seen.add(plan.group)
                made.append(replace(plan, n=1, first=plan.first + plan.n, temperature=0.0, role=GREEDY, trained=False))
        return made
