"""Supervised steps on traces: from texts to batches, their order, and the loss on traces held out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from groupwise.core.keyed import generator
from groupwise.core.rollout import Completion, Context, Episode, Group, Prompt, Rollout, Span, Turn
from groupwise.core.verdict import Verdict
from groupwise.errors import DataError
from groupwise.learner.learner import Learner
from groupwise.models.load import Policy
from groupwise.models.template import Template
from groupwise.models.worked import encode_trace
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.batch import pack
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Supervised
from groupwise.tasks.traces import Trace

OBJECTIVE = Objective(credit_by=Advantage(), terms=(Supervised(aggregate=TokenMean()),))
"""The mean of -log pi over the completions' tokens of an optimiser step; prompts are read, not learnt."""
HELDOUT_TOKENS = 16_384
"""Tokens of held-out traces that are scored at a time."""


@dataclass(frozen=True)
class Example:
    """A trace as tokens: what is read and what is learnt, the end included."""

    context: tuple[int, ...]
    tokens: tuple[int, ...]

    @property
    def size(self) -> int:
        """Tokens of both."""
        return len(self.context) + len(self.tokens)


def encoded(policy: Policy, form: Template, traces: Sequence[Trace], end: int, limit: int) -> tuple[list[Example], int]:
    """The traces of at most `limit` tokens, and how many are longer (none is ever cut). DataError names the line at fault."""
    out = []
    for trace in traces:
        try:
            one = Example(*encode_trace(policy, form, trace.asked, trace.completion, end))
        except DataError as error:
            raise DataError(f"{trace.where}: {error}") from error
        if not one.context:
            raise DataError(f"{trace.where}: the prompt has no tokens; a completion needs at least one to follow")
        if one.size <= limit:
            out.append(one)
    return out, len(traces) - len(out)


def batches(examples: Sequence[Example], tokens: int, epochs: float, steps: int, seed: int) -> list[list[int]]:
    """Which examples every step takes, until a number of steps, or of epochs where `steps` is 0.

    Each epoch is shuffled anew by the seed; a step takes examples until they have `tokens` tokens.
    """
    left = round(epochs * len(examples))
    out: list[list[int]] = []
    filled = tokens
    for i in _order(len(examples), seed):
        if filled >= tokens:
            if (len(out) == steps) if steps else left <= 0:
                return out
            out.append([])
            filled = 0
        elif not steps and left <= 0:
            return out
        out[-1].append(i)
        filled += examples[i].size
        left -= 1
    return out


def _order(n: int, seed: int) -> Iterator[int]:
    epoch = 0
    while n:
        yield from generator(seed, "traces", epoch).permutation(n).tolist()
        epoch += 1


def group_of(example: Example, index: int) -> Group:
    """One trace as a group of one rollout that a teacher wrote."""
    prompt = Prompt(id=f"demonstration/{index}", text="", answer=None, tokens=example.context)
    n = len(example.tokens)
    turn = Turn(Context(example.context), Completion(example.tokens, (float("nan"),) * n),
                (Span(0, n, "teacher", "unknown"),))
    return Group(prompt.id, prompt, (Rollout(Episode(prompt, (turn,)), Verdict(correct=True)),))


def step(learner: Learner, groups: Sequence[Group]) -> dict[str, float]:
    """One optimiser step on traces; its statistics."""
    batch = pack(groups, default="unknown", device=str(learner.device))
    return learner.gradients(OBJECTIVE.weigh(batch), OBJECTIVE) | learner.apply()


@torch.no_grad()
def loss(learner: Learner, examples: Sequence[Example]) -> float:
    """The mean of -log pi, in nats, over the tokens of all completions."""
    total, count = 0.0, 0
    for part in batches(examples, HELDOUT_TOKENS, 1, 0, 0):
        groups = [group_of(examples[i], i) for i in part]
        batch = pack(groups, default="unknown", device=str(learner.device))
        logp = learner.logprobs(batch, groups, frozenset({"old"}))["old_logp"]
        total, count = total - float(logp.double().sum()), count + len(logp)
    return total / max(1, count)
