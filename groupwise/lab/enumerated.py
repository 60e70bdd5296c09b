"""Policies over a world, as tables: the value of every token of every answer, its gradient by the parameters, and what follows
exactly from them: the policy gradient of the expected reward, and how lengths move along a direction. All in float64.

A row of a table is one token of one answer of one prompt; a batch's token ids are rows. So a method's gradient by the parameters
is its gradient by the table's values, which `Objective.loss` gives, times the table's Jacobian.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from groupwise.core.keyed import generator
from groupwise.errors import ConfigError
from groupwise.lab.worlds import World
from groupwise.models.build import character_tokenizer, random_policy

VALUES = ("logp", "entropy", "sum_p2")
"""What a policy gives for a token, and gradients are taken by."""
POLICIES = ("tabular", "transformer")
FAR = 60.0
"""A step after which every policy is deterministic."""

Rows = Float[Tensor, " r"]
Parameters = Float[Tensor, " n"]


@dataclass(frozen=True)
class Space:
    """The rows of a world: of each its answer, its place in it, the tokens that may stand there, and which of them does."""

    world: World
    answer: Int[Tensor, " r"]
    place: Int[Tensor, " r"]
    tokens: Int[Tensor, "r w"]
    chosen: Int[Tensor, " r"]

    @staticmethod
    def of(world: World) -> "Space":
        """The rows, answer by answer; tokens that a tree lacks are -1."""
        rows: list[tuple[int, int, list[int], int]] = []
        index = 0
        for own in world:
            next_ones: dict[tuple[int, ...], set[int]] = {}
            for a in own.answers:
                for k, token in enumerate(a.tokens):
                    next_ones.setdefault(a.tokens[:k], set()).add(token)
            for a in own.answers:
                for k, token in enumerate(a.tokens):
                    children = sorted(next_ones[a.tokens[:k]])
                    rows.append((index, k, children, children.index(token)))
                index += 1
        width = max(len(children) for _, _, children, _ in rows)
        padded = torch.tensor([children + [-1] * (width - len(children)) for _, _, children, _ in rows])
        answer, place, chosen = (torch.tensor([row[i] for row in rows]) for i in (0, 1, 3))
        return Space(world, answer, place, padded, chosen)

    @cached_property
    def legal(self) -> Bool[Tensor, "r w"]:
        """Which entries of `tokens` are tokens."""
        return self.tokens >= 0

    @cached_property
    def problem(self) -> Int[Tensor, " a"]:
        """The prompt of each answer."""
        return torch.tensor([p for p, own in enumerate(self.world) for _ in own.answers])

    @cached_property
    def first(self) -> list[int]:
        """The first answer of each prompt."""
        return np.cumsum([0, *(len(own.answers) for own in self.world)]).tolist()

    @cached_property
    def rows_of(self) -> list[list[int]]:
        """The rows of each answer."""
        return [torch.nonzero(self.answer == a).flatten().tolist() for a in range(len(self.problem))]

    def column(self, name: str) -> Float[Tensor, " a"]:
        """A field of all answers."""
        return torch.tensor([float(getattr(a, name)) for own in self.world for a in own.answers], dtype=torch.float64)

    @cached_property
    def length(self) -> Float[Tensor, " a"]:
        """The tokens of each answer."""
        return torch.tensor([float(len(rows)) for rows in self.rows_of], dtype=torch.float64)

    def per_problem(self, values: Tensor) -> Tensor:
        """Sums over the answers of each prompt."""
        return values.new_zeros(len(self.world)).index_add(0, self.problem, values)


@dataclass(frozen=True)
class Policy:
    """A policy over a space: its parameters, and logits [r, w] from any parameters."""

    space: Space
    parameters: Parameters
    logits: Callable[[Tensor], Tensor]

    def values(self, parameters: Tensor) -> Float[Tensor, "r 3"]:
        """`VALUES` of every row."""
        space = self.space
        logp = torch.log_softmax(self.logits(parameters).masked_fill(~space.legal, -torch.inf), 1)
        p, held = logp.exp(), logp.masked_fill(~space.legal, 0.0)
        chosen = held.gather(1, space.chosen[:, None])[:, 0]
        return torch.stack([chosen, -(p * held).sum(1), (p * p).sum(1)], 1)

    def at(self, parameters: Parameters) -> "Table":
        """The table at some parameters."""
        leaf = parameters.clone().requires_grad_()
        values = self.values(leaf)
        rows = [torch.autograd.grad(x, leaf, retain_graph=True)[0] for x in values.flatten().unbind()]
        return Table(self, parameters, values.detach(), torch.stack(rows))


@dataclass(frozen=True)
class Table:
    """A policy at some parameters: values [r, 3] and their Jacobian [r * 3, n]."""

    policy: Policy
    parameters: Parameters
    values: Float[Tensor, "r 3"]
    jacobian: Float[Tensor, "k n"]

    @property
    def space(self) -> Space:
        """Its rows."""
        return self.policy.space

    @cached_property
    def chance(self) -> Float[Tensor, " a"]:
        """Of each answer, given its prompt."""
        logp = self.values[:, 0]
        return logp.new_zeros(len(self.space.problem)).index_add(0, self.space.answer, logp).exp()

    @cached_property
    def success(self) -> Float[Tensor, " p"]:
        """Of each prompt."""
        return self.space.per_problem(self.chance * self.space.column("correct"))

    @cached_property
    def worth(self) -> Rows:
        """The expected reward at the state before each token: what a perfect critic says."""
        reward, prefixes = self.space.column("reward"), []
        answers = [(p, a.tokens) for p, own in enumerate(self.space.world) for a in own.answers]
        for row, place in zip(self.space.answer.tolist(), self.space.place.tolist(), strict=True):
            prefixes.append((answers[row][0], answers[row][1][:place]))
        mass: dict[object, list[float]] = {}
        for a, (p, tokens) in enumerate(answers):
            for k in range(len(tokens)):
                own = mass.setdefault((p, tokens[:k]), [0.0, 0.0])
                own[0] += float(self.chance[a])
                own[1] += float(self.chance[a] * reward[a])
        return torch.tensor([mass[p][1] / mass[p][0] for p in prefixes], dtype=torch.float64)

    def pulled(self, weight: Float[Tensor, " a"]) -> Parameters:
        """sum_a weight_a grad log pi(a)."""
        return weight[self.space.answer] @ self.jacobian[0::len(VALUES)]

    @cached_property
    def gradients(self) -> Float[Tensor, "p n"]:
        """The policy gradient of each prompt's expected reward."""
        own = torch.arange(len(self.space.world))[:, None] == self.space.problem
        weight = self.chance * self.space.column("reward")
        return torch.stack([self.pulled(torch.where(mine, weight, 0.0)) for mine in own])

    @cached_property
    def gradient(self) -> Parameters:
        """The policy gradient of the expected reward, mean over prompts."""
        return self.gradients.mean(0)

    def length_slope(self, correct: bool) -> Parameters | None:
        """The gradient of the expected length of right (or wrong) answers, mean over the prompts that have two or more."""
        of = self.space.column("correct") == correct
        mass = self.space.per_problem(torch.where(of, self.chance, 0.0))
        there = self.space.per_problem(of.double()) > 1
        if not bool(there.any()):
            return None
        share = torch.where(of & there[self.space.problem], self.chance / mass[self.space.problem].clamp(min=1e-300), 0.0)
        mean = self.space.per_problem(share * self.space.length)[self.space.problem]
        return self.pulled(share * (self.space.length - mean)) / there.sum()

    def moved(self, distance: float, seed: int) -> "Table":
        """The table of a policy that has gone so far along a noisy gradient that the root mean square of the log-ratio of the
        tokens which this one samples is `distance`. ConfigError if it never gets there.
        """
        if distance == 0:
            return self
        noise = torch.from_numpy(generator(seed, "audit", "moved").normal(size=len(self.parameters)))
        way = self.gradient / self.gradient.norm() + noise / noise.norm()
        often = self.chance[self.space.answer]

        def apart(step: float) -> float:
            gap = self.policy.values(self.parameters + step * way)[:, 0] - self.values[:, 0]
            return float((often * gap**2).sum().div(often.sum()).sqrt())

        low, high = 0.0, 1e-3
        while apart(high) < distance:
            low, high = high, 2 * high
            if high > FAR:
                raise ConfigError(f"off-policy={distance:g}: this policy does not get that far; take a smaller number")
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if apart(middle) < distance else (low, middle)
        return self.policy.at(self.parameters + high * way)


def policy(world: World, kind: str, seed: int) -> Policy:
    """A policy with the world's chances: `tabular`, a logit for each token of each prefix (prompts share nothing), or a small
    `transformer`, whose parameters all prompts share, with fixed offsets on its logits that give these chances.
    """
    if kind not in POLICIES:
        raise ConfigError(f"a policy is one of {', '.join(POLICIES)}; got {kind!r}")
    space = Space.of(world)
    wanted = _logits(space)
    if kind == "tabular":
        state = _states(space)
        index = (state[:, None] * space.tokens.shape[1] + torch.arange(space.tokens.shape[1]))
        used, place = torch.unique(index[space.legal], return_inverse=True)
        entry = torch.zeros_like(index).masked_scatter(space.legal, place)
        start = torch.zeros(len(used), dtype=torch.float64).index_put((entry[space.legal],), wanted[space.legal])
        return Policy(space, start, lambda theta: theta[entry])
    start, logits = _transformer(space, seed)
    offset = torch.where(space.legal, wanted - logits(start).detach(), 0.0)
    return Policy(space, start, lambda theta: logits(theta) + offset)


def _states(space: Space) -> Int[Tensor, " r"]:
    """The number of each row's prefix."""
    known: dict[object, int] = {}
    answers = [(p, a.tokens) for p, own in enumerate(space.world) for a in own.answers]
    keys = [(answers[a][0], answers[a][1][:k]) for a, k in zip(space.answer.tolist(), space.place.tolist(), strict=True)]
    return torch.tensor([known.setdefault(key, len(known)) for key in keys])


def _logits(space: Space) -> Float[Tensor, "r w"]:
    """Log of the chance of passing through each token that may stand at a row: logits of the world's chances."""
    mass: dict[object, float] = {}
    answers = [(p, a.tokens) for p, own in enumerate(space.world) for a in own.answers]
    for (p, tokens), chance in zip(answers, space.column("chance").tolist(), strict=True):
        for k in range(1, len(tokens) + 1):
            mass[p, tokens[:k]] = mass.get((p, tokens[:k]), 0.0) + chance
    out = torch.zeros(space.tokens.shape, dtype=torch.float64)
    for r, (a, k) in enumerate(zip(space.answer.tolist(), space.place.tolist(), strict=True)):
        p, tokens = answers[a]
        for w, token in enumerate(space.tokens[r].tolist()):
            if token >= 0:
                out[r, w] = np.log(mass[p, (*tokens[:k], token)])
    return out


def _transformer(space: Space, seed: int) -> tuple[Parameters, Callable[[Tensor], Tensor]]:
    """The parameters of a one-layer transformer, in one vector, and its logits of the tokens that may stand at each row."""
    top = int(space.tokens.max()) + 1
    model = random_policy(character_tokenizer(), family="gpt2", hidden=8, layers=1, heads=2, kv_heads=2, mlp=16, std=0.3,
                          seed=seed, vocabulary=top + len(space.world)).double()
    named = dict(model.named_parameters())
    answers = [(p, a.tokens) for p, own in enumerate(space.world) for a in own.answers]
    longest = max(len(tokens) for _, tokens in answers)
    ids = torch.tensor([[top + p, *tokens[:-1], *[0] * (longest - len(tokens))] for p, tokens in answers])

    def logits(theta: Tensor) -> Tensor:
        parts = torch.split(theta, [x.numel() for x in named.values()])
        weights = {name: part.view_as(x) for (name, x), part in zip(named.items(), parts, strict=True)}
        also = {"attention_mask": torch.ones_like(ids), "use_cache": False}
        whole = torch.func.functional_call(model, weights, (ids,), also).logits
        return whole[space.answer, space.place].gather(1, space.tokens.clamp(min=0))

    return torch.cat([x.detach().flatten() for x in named.values()]), logits
