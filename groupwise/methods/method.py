"""A Method: what surrounds an objective. Every field has a neutral default."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from groupwise.core.rollout import Behaviour, Group
from groupwise.core.services import ContextBuilder, MethodState
from groupwise.errors import ConfigError
from groupwise.methods.update import Once, Update
from groupwise.objective.objective import Objective, describe
from groupwise.objective.penalties import LogRatio
from groupwise.objective.terms import Policy
from groupwise.objective.trust import LogProb
from groupwise.sampling.admission import Admission, Refill
from groupwise.sampling.intervention import Intervention
from groupwise.sampling.planner import Planner, Shuffled

Shaping = Callable[[Group], Group]


@dataclass(frozen=True)
class Method:
    """An objective and its surroundings.

    planner     which prompts, how many rollouts
    refill      whether refused groups are replaced by new prompts within the step
    intervene   what happens to rollouts at fixed moments
    admit       which groups may enter, judged on strict correctness, before shaping
    shape       reward shaping, group by group
    update      how a batch is spent: one optimiser step, several, gated
    behaviour   what the ratios divide by, for tokens that do not say: the learner before the update (`old`, or `self` where that
                is the same: one optimiser step), or the engine that sampled (`recorded`: its log-probs are taken as they are)
    state       what is kept across steps
    contexts    named contexts under which tokens may be scored (`teacher:NAME/CONTEXT`)
    """

    objective: Objective
    planner: Callable[[], Planner] = Shuffled
    refill: Refill | None = None
    intervene: tuple[Intervention, ...] = ()
    admit: tuple[Admission, ...] = ()
    shape: tuple[Shaping, ...] = ()
    update: Update = field(default_factory=Once)
    behaviour: Behaviour = "old"
    state: Callable[[], MethodState] = MethodState
    contexts: Mapping[str, ContextBuilder] = field(default_factory=dict)

    def __post_init__(self) -> None:
        held = any(isinstance(t, LogRatio) for t in self.objective.terms)  # pulled back to where the ratio would divide
        plain = [t.name for t in self.objective.terms if isinstance(t, Policy) and isinstance(t.trust, LogProb) and not held]
        if plain and self.update.steps > 1:
            raise ConfigError(f"{self.update.steps} optimiser steps per batch, but the term {plain[0]!r} has no ratio: from the "
                              "second step on its gradient would be off-policy and uncorrected; take one step, or a trust rule "
                              "with a ratio")
        if self.behaviour not in ("old", "recorded"):
            raise ConfigError(f"a method's behaviour is 'old' or 'recorded', got {self.behaviour!r}")
        if self.behaviour == "recorded" and self.objective.correction.active:
            raise ConfigError(f"behaviour 'recorded' divides every ratio by the engine's log-probs; the correction "
                              f"{describe(self.objective.correction)} would count the mismatch between engine and learner twice: "
                              "take Uncorrected(), or behaviour 'old'")

    @property
    def divides_by(self) -> Behaviour:
        """The behaviour of tokens that do not name their own: over one optimiser step, `old` is `self`."""
        return "self" if self.behaviour == "old" and self.update.steps == 1 else self.behaviour

    @property
    def needs(self) -> frozenset[str]:
        """What must be scored between collecting and crediting; several optimiser steps need `old`."""
        return self.objective.scored_before | (frozenset({"old"}) if self.divides_by == "old" else frozenset())
