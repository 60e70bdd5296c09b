"""Protocols between the floors: what an engine, a task, a planner, an intervention, a method's state may ask and answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from groupwise.core.rollout import Completion, Context, Episode, Group, Prompt, Rollout
from groupwise.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Sampling:
    """The distribution that completions are sampled from; it is part of a log-prob's definition.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 are off. `max_tokens` counts new tokens of one turn.
    """

    max_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ConfigError(f"sampling.max_tokens must be at least 1, got {self.max_tokens}")
        if not 0.0 <= self.temperature <= 100.0:
            raise ConfigError(f"sampling.temperature must lie in [0, 100] (0 is greedy), got {self.temperature}")
        if self.top_k < 0 or not 0.0 < self.top_p <= 1.0 or not 0.0 <= self.min_p < 1.0:
            raise ConfigError("sampling: need top_k >= 0, 0 < top_p <= 1, 0 <= min_p < 1; got "
                              f"{self.top_k}, {self.top_p}, {self.min_p}")
        if any(not text for text in self.stop):
            raise ConfigError("sampling.stop holds an empty string, which would stop everything at once")

    @property
    def truncates(self) -> bool:
        """Whether the support of the distribution is cut (top-k, top-p, min-p)."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0

    def greedy(self) -> "Sampling":
        """The same, with the most likely token always taken."""
        return replace(self, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0)


@dataclass(frozen=True, slots=True)
class Plan:
    """A wish for rollouts: a prompt, how many, under which context and limits.

    `visit` makes the random numbers of this visit its own; `group` is the group's key within the step. `first` is the index of
    the first sample (so that an extension of a group draws new numbers). `context` is what to sample under, `train_context` what
    to train under (None: the same). `trained` False: made for the credit of others, at any temperature; its tokens have behaviour
    `none` and it is in no statistic.
    """

    prompt: Prompt
    n: int
    visit: int
    group: str
    context: Context | None = None
    train_context: Context | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    first: int = 0
    role: str = "policy"
    trained: bool = True

    def __post_init__(self) -> None:
        if not self.trained and self.role == "policy":
            raise ConfigError(f"a plan for rollouts that are not trained on (prompt {self.prompt.id!r}) needs a role of its own, "
                              "such as 'greedy': the role 'policy' is what statistics count")

    @property
    def sampled_under(self) -> Context:
        """The context to sample under: the prompt's own unless the plan says otherwise."""
        return self.context or Context(self.prompt.tokens)


@dataclass(frozen=True, slots=True)
class Request:
    """What an engine is asked: n completions of a context, with the random stream of each (one word per sample)."""

    context: Context
    streams: tuple[int, ...]
    sampling: Sampling


@runtime_checkable
class Engine(Protocol):
    """Who makes tokens."""

    version: int

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """For each request one completion per stream, in order."""
        ...

    def load(self, weights: Mapping[str, Any], *, version: int) -> None:
        """Take over the learner's weights; later completions carry this version."""
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """What an environment answers to a turn.

    `text` is appended after the completion; `rewritten`, if given, replaces the whole conversation so far (a template that
    rewrites history). `done` ends the episode; `reward` is the turn's own; `state` hashes the state after the turn.
    """

    text: str = ""
    done: bool = True
    reward: float | None = None
    state: str | None = None
    rewritten: str | None = None


@runtime_checkable
class Environment(Protocol):
    """The other side of a multi-turn task; pure: everything it needs comes with the call, so episodes can be replayed."""

    max_turns: int

    def reply(self, prompt: Prompt, turns: Sequence[str]) -> Reply:
        """The answer to the last of the policy's turns (texts, oldest first)."""
        ...


@runtime_checkable
class Services(Protocol):
    """What interventions and method states may ask for; every call is charged to the step's budget."""

    def generate(self, plans: Sequence[Plan]) -> list[Group]:
        """Generate and verify."""
        ...

    def score(self, prompt: Prompt, episodes: Sequence[Episode]) -> list[Rollout]:
        """Verify episodes made elsewhere."""
        ...

    def logprobs(self, groups: Sequence[Group], need: str) -> dict[str, list[np.ndarray]]:
        """Per group key, per rollout: the named log-probs of its trained tokens (`old`, `ref`, `teacher:NAME/CONTEXT`)."""
        ...

    def store(self, name: str) -> dict[str, Any]:
        """A named JSON-able table that is part of every checkpoint."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """Anything whose state belongs to a checkpoint; the state is a tree of JSON values."""

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state back."""
        ...


class MethodState:
    """What a method keeps across steps; the default keeps nothing.

    `observe` sees the groups that enter the batch, before credit; then `coefficients` is asked, once; `after_update` comes after
    the engine has the new weights.
    """

    def observe(self, groups: Sequence[Group]) -> None:
        """See the groups of a step."""

    def coefficients(self) -> Mapping[str, float]:
        """Factors on the coefficients of terms, by the terms' names, in the step that was observed last."""
        return {}

    def after_update(self, services: Services) -> None:
        """Act between steps."""

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state back."""


ContextBuilder = Callable[[Rollout, Group], Context | None]
"""Another context for a rollout's tokens (an answer, a hint, a sibling); None: this rollout has none."""


@dataclass
class Budget:
    """Tokens of a step, charged by author and purpose."""

    tokens: dict[str, int] = field(default_factory=dict)

    def charge(self, purpose: str, tokens: int) -> None:
        """Add tokens to a purpose, such as `policy/generate` or `ref/score`."""
        self.tokens[purpose] = self.tokens.get(purpose, 0) + tokens
