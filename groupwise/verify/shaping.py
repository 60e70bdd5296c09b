"""Reward shaping that acts on graded groups: what a completion's length costs.

Source: DAPO (Yu et al. 2025, arXiv 2503.14476), Eq. 13 (soft overlong punishment) and section 3.4 (overlong filtering).
"""

from dataclasses import dataclass, replace

from groupwise.core.rollout import Component, Group, Rollout
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

    `limit` and `cache` None are set by `bind`. An abstention stays one.
    """

    limit: int | None = None
    cache: int | None = None

    def bind(self, max_tokens: int) -> "SoftOverlong":
        """A copy with its limit set: `max_tokens`, and a fifth of the limit as cache (the paper's 4096 of 20480)."""
        limit = max_tokens if self.limit is None else self.limit
        return SoftOverlong(limit, limit // 5 if self.cache is None else self.cache)

    def __call__(self, group: Group) -> Group:
        """The group with the component; `ConfigError` if the limits are not set or contradict each other."""
        if self.limit is None or self.cache is None:
            raise ConfigError("SoftOverlong has no limit yet; call bind(max_tokens), or give limit and cache")
        if not 0 <= self.cache <= self.limit:
            raise ConfigError(f"SoftOverlong needs 0 <= cache <= limit, got cache={self.cache}, limit={self.limit}")
        return replace(group, rollouts=tuple(self._shaped(r, self.limit, self.cache) for r in group.rollouts))

    def _shaped(self, rollout: Rollout, limit: int, cache: int) -> Rollout:
        if rollout.reward is None:
            return rollout
        value = soft_overlong(rollout.episode.length, limit, cache)
        return replace(rollout, components=(*rollout.components, Component("overlong", value)))


@dataclass(frozen=True)
class OverlongFilter:
    """Masks truncated rollouts: they stay in the group's statistics and leave the gradient's numerator."""

    def __call__(self, group: Group) -> Group:
        """The group with its truncated rollouts masked."""
        rollouts = tuple(replace(r, masked=r.masked or r.episode.truncated) for r in group.rollouts)
        return replace(group, rollouts=rollouts)
