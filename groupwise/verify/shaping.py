"""Reward shaping that acts on graded groups: what a completion's length costs.

Source: DAPO (Yu et al. 2025, arXiv 2503.14476), Eq. 13 (soft overlong punishment) and section 3.4 (overlong filtering).
"""

from dataclasses import dataclass, replace

from groupwise.core.rollout import Group, Rollout
from groupwise.core.verdict import Component
from groupwise.errors import ConfigError


def soft_overlong(length: int, limit: int, cache: int) -> float:
    """0 up to `limit - cache` tokens, then linearly down to -1 at `limit`, and -1 beyond (DAPO Eq. 13).

    >>> soft_overlong(18432, limit=20480, cache=4096)
    -0.5
    """
    if length <= limit - cache:
        return 0.0
    return (limit - cache - length) / cache if length <= limit else -1.0


@dataclass(frozen=True)
class SoftOverlong:
    """Adds a component "overlong" to every rollout that has a reward: `soft_overlong` of its trained tokens.

    `limit` is L_max and `cache` L_cache, in tokens (the paper's 20480 and 4096). An abstention stays one.
    """

    limit: int
    cache: int

    def __post_init__(self) -> None:
        if not 0 <= self.cache <= self.limit:
            raise ConfigError(f"SoftOverlong needs 0 <= cache <= limit, got cache={self.cache}, limit={self.limit}")

    def __call__(self, group: Group) -> Group:
        """The group with the component."""
        return replace(group, rollouts=tuple(self._shaped(r) for r in group.rollouts))

    def _shaped(self, rollout: Rollout) -> Rollout:
        if rollout.reward is None:
            return rollout
        value = soft_overlong(rollout.episode.length, self.limit, self.cache)
        return replace(rollout, components=(*rollout.components, Component("overlong", value)))


@dataclass(frozen=True)
class OverlongFilter:
    """Masks truncated rollouts: they stay in the group's statistics and leave the gradient's numerator."""

    def __call__(self, group: Group) -> Group:
        """The group with its truncated rollouts masked."""
        rollouts = tuple(replace(r, masked=r.masked or r.episode.truncated) for r in group.rollouts)
        return replace(group, rollouts=rollouts)
