"""The entropy bonus of a method: at a fixed coefficient, or held at a target (Skywork-OR1, arXiv 2505.22312, section 4)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from groupwise.core.rollout import Group
from groupwise.core.services import MethodState
from groupwise.errors import ConfigError
from groupwise.objective.penalties import Entropy


@dataclass
class AdaptiveEntropy(MethodState):
    """Coefficient c_k of the entropy bonus: applied in steps whose entropy e_k is at most the target, else 0; then c_k is raised
    by `delta` where e_k is below the target and lowered where it is above, never below 0.

    e_k is minus the mean log-prob of the tokens sampled in the step that are trained on, which estimates the entropy of the
    policy that sampled them without another pass.
    """

    target: float
    start: float = 0.0
    delta: float = 0.005
    current: float = field(init=False)
    used: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.current = self.start

    def observe(self, groups: Sequence[Group]) -> None:
        """Settle this step's coefficient from its entropy, and the next one's."""
        entropy = sampled_entropy(groups)
        if entropy is None:
            self.used = 0.0
            return
        self.used = self.current if entropy <= self.target else 0.0
        self.current = max(0.0, self.current + (self.delta if entropy < self.target else -self.delta))

    def coefficients(self) -> Mapping[str, float]:
        """What the bonus is multiplied by in this step."""
        return {"entropy": self.used}

    def state_dict(self) -> dict[str, Any]:
        """The coefficients."""
        return {"current": self.current, "used": self.used}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self.current, self.used = float(state["current"]), float(state["used"])


def sampled_entropy(groups: Sequence[Group]) -> float | None:
    """Minus the mean log-prob of the sampled tokens that are trained on, nats a token; None if there are none."""
    logp = [turn.completion.logp[span.start:span.end] for group in groups for rollout in group.rollouts
            for turn in rollout.episode.turns for span in turn.tiles if span.behaviour != "none" and span.author == "policy"]
    known = np.concatenate([np.asarray(part, dtype=np.float64) for part in logp] or [np.zeros(0)])
    known = known[np.isfinite(known)]
    return -float(known.mean()) if len(known) else None


def bonus(coef: float, target: float) -> tuple[Entropy, ...]:
    """The terms of a bonus: none without a coefficient or a target; with a target the state has the coefficient."""
    if coef < 0 or target < 0:
        raise ConfigError(f"entropy and entropy_target must not be negative, got {coef} and {target}")
    return (Entropy(coef=1.0 if target else coef),) if coef or target else ()


def state(coef: float, target: float) -> Callable[[], MethodState]:
    """What makes the state of a method with such a bonus; `coef` is where an adaptive coefficient starts."""
    return partial(AdaptiveEntropy, target, coef) if target else MethodState
