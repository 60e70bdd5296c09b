"""Interventions: what may happen to rollouts at fixed moments. The default does nothing.

before(plans)                    rewrite contexts, add rollouts of other roles
after_score(groups, services)    replace or add rollouts (hints, traces, refinements)
before_update(groups)            the last look: drop, copy, weigh
"""

from collections.abc import Sequence

from groupwise.core.rollout import Group
from groupwise.core.services import Plan, Services


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
