"""A learner in shards: each rank (a process) holds a part of every weight, its gradient and its moments (PyTorch's FSDP2).

A block is gathered whole for its forward and again for its backward; gradients are added over ranks, never averaged, as every
weight of the loss was fixed before (ADR 0001). All ranks must run the model equally often, so what rank 0 does is told to the
others first (`Crew`), and a rank without sequences runs a blank one (`Pace`).
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from groupwise.core.layout import Layout
from groupwise.core.rollout import BEHAVIOURS
from groupwise.learner.forward import Scorer
from groupwise.learner.learner import Learner
from groupwise.learner.settings import Compile, Models, Settings
from groupwise.learner.shards import like, read, write
from groupwise.learner.work import AnyScorer, Outcome, Pace, Task, Team, work
from groupwise.models import adapter
from groupwise.models.blocks import blocks
from groupwise.models.head import ValueHead, Want
from groupwise.models.load import Policy
from groupwise.models.routing import Routed
from groupwise.objective.batch import Batch
from groupwise.objective.terms import Live


@runtime_checkable
class Crew(Team, Protocol):
    """The ranks, as one of them sees them. On rank 0 `tell` has the others do what it is about to do, and `together` the same
    around what it does, with what went wrong in words; on the others, which do as they are told, both do nothing.
    """

    def mesh(self) -> DeviceMesh:
        """Where the shards lie."""
        ...

    def tell(self, name: str, *given: Any) -> None:
        """Have the others call their learner's method of this name."""
        ...

    def together(self, name: str, *given: Any) -> AbstractContextManager[None]:
        """The same, and this rank does its part inside."""
        ...


class Root(nn.Module):
    """A policy's scorer (and value head) as one module: what its blocks do not hold is gathered for the whole of a forward."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.model, self.value_head, self.scorer = scorer.trunk.model, scorer.value_head, scorer

    def forward(self, batch: Batch, want: Want, plain: bool) -> dict[str, Tensor]:
        """The values [t] by name: in a dictionary, where FSDP finds what a backward will come back through."""
        live = replace(self.scorer, plain=True, routing=None)(batch, want) if plain else self.scorer(batch, want)
        return {name: x for name, x in vars(live).items() if x is not None}


def sharded(scorer: Scorer, mesh: DeviceMesh, precision: torch.dtype) -> Root:
    """Put a scorer's model into shards: every block by itself, a value head, and the rest together.

    In bfloat16 the ranks gather and multiply weights in bfloat16, and add gradients, keep the weights and step in float32.
    """
    narrow = precision == torch.bfloat16
    # What goes in is a batch, whose numbers are not to be cast.
    gathered, added = (torch.bfloat16, torch.float32) if narrow else (None, None)
    policy = MixedPrecisionPolicy(gathered, added, cast_forward_inputs=False)
    root = Root(replace(scorer, precision=torch.float32))  # the policy takes the place of autocast
    for block in blocks(scorer.trunk.model).values():
        fully_shard(block, mesh=mesh, mp_policy=policy)
    if scorer.value_head is not None:
        fully_shard(scorer.value_head.linear, mesh=mesh)
    fully_shard(root, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return root


@dataclass(frozen=True)
class ShardedScorer:
    """Per-token values from a model in shards, on all ranks at once; `plain` leaves its adapters off."""

    root: Root
    plain: bool = False

    def __call__(self, batch: Batch, want: Want) -> Live:
        """[t] of a micro-batch, with gradient where grad is enabled; entries that are not trained on are 0."""
        return Live(**self.root(batch, want, self.plain))

    def plan(self, batch: Batch, chosen: Sequence[int] | np.ndarray, micro_tokens: int) -> list[np.ndarray]:
        """Micro-batches of the chosen sequences."""
        return self.root.scorer.plan(batch, chosen, micro_tokens)

    def routed(self) -> Routed | None:
        """What the routers of a mixture of experts did in the last forward; asked once."""
        return None if self.plain else self.root.scorer.routed()

    def finish(self) -> None:
        """The last gradient of a minibatch has been taken."""

    def rest(self) -> None:
        """Let go of the whole weights: after a forward without a backward the root's are still there, and would grow old."""
        self.root.reshard()  # type: ignore[operator]

    def refresh(self) -> None:
        """The parameters have changed: the next forward gathers them anew."""


class Sharded(Learner):
    """A learner on one of several ranks. On rank 0, which is asked for gradients and steps, `whole` is the policy that is sampled
    from: `weights` gathers into it.
    """

    def __init__(self, policy: Policy, settings: Settings, *, crew: Crew, whole: Policy | None = None,
                 needs: frozenset[str] = frozenset(), models: Models | None = None) -> None:
        self.mesh, self.crew, self.roots = crew.mesh(), crew, dict[int, Root]()
        super().__init__(policy, settings, needs=needs, models=models, team=crew)
        self.device = torch.device(self.mesh.device_type)
        self.trained, self.whole, self.policy = policy, whole, whole or policy
        dtype = next(iter(self.parameters.values())).dtype
        nothing = blank(policy.eos_ids[0], dtype, self.device)
        self.pace = Pace(nothing, self._any)
        # The first forward settles which gathered weights have gradients, for good: it must see the adapters switched on.
        for root in self.roots.values():
            ShardedScorer(root)(nothing, Want())
            root.reshard()  # type: ignore[operator]

    def _scorer(self, policy: Policy, compile: Compile | None, value_head: ValueHead | None = None, *,
                plain: bool = False) -> AnyScorer:
        if not plain:
            whole = super()._scorer(policy, None, value_head)
            assert isinstance(whole, Scorer)
            self.roots[id(policy)] = sharded(whole, self.mesh, self.settings.precision)
        return ShardedScorer(self.roots[id(policy)], plain)

    def _any(self, here: bool) -> bool:
        """Whether it is so on any rank."""
        found = torch.tensor([float(here)], device=self.device)
        dist.all_reduce(found, group=self.mesh.get_group())
        return bool(found.item())

    def work(self, task: Task) -> Outcome:
        """This rank's part of a task, in step with the others'."""
        try:
            return work(self._scorer_of(task.model), task, self.pace)
        finally:
            self._scorer_of(task.model).rest()

    def apply(self) -> dict[str, float]:
        """Clip by the norm over all ranks, step, clear (`Learner.apply`)."""
        with self.crew.together("apply"):
            return super().apply()

    def discard(self) -> None:
        """Clear the gradients."""
        self.crew.tell("discard")
        super().discard()

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """The whole weights by name, on rank 0, as the engine takes them: gathered one by one into the policy it samples from."""
        with self.crew.together("weights"):
            into = dict(self.whole.model.named_parameters()) if self.whole is not None else {}
            for name, parameter in adapter.trained(self.trained.model).items():
                whole = _whole(parameter)
                if name in into:
                    into[name].copy_(whole)
        return super().weights()

    def gathered(self) -> dict[str, Tensor]:
        """The gradients, whole, of the parameters that have one."""
        with self.crew.together("gathered"):
            return {name: _whole(p.grad) for name, p in self.parameters.items() if p.grad is not None}

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of all trained parameters, whole."""
        with self.crew.together("snapshot"):
            return {name: _whole(p.detach()).clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take a snapshot back."""
        with self.crew.together("restore", snapshot):
            for name, parameter in self.parameters.items():
                parameter.copy_(like(parameter, snapshot[name]))

    def write(self, folder: Path) -> None:
        """Write the optimiser's state into a new folder, every rank its part (`shards.write`)."""
        with self.crew.together("write", folder):
            write(self, folder)

    def read(self, place: Path, counters: dict[str, Any]) -> None:
        """Take back the state and the counters of a checkpoint (`shards.read`)."""
        with self.crew.together("read", place, counters):
            read(self, place, counters)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def blank(token: int, dtype: torch.dtype, device: torch.device) -> Batch:
    """A batch of one token after another, for a rank that has nothing to do."""
    one, none = np.zeros(1, dtype=np.int64), torch.zeros(1, dtype=torch.int64, device=device)
    yes = torch.ones(1, dtype=torch.bool, device=device)
    return Batch(Layout(one, one, one, one, 1), ((token,),), tokens=none + token, counted=yes, loss_mask=yes,
                 behaviour=none + BEHAVIOURS.index("self"), version=none,
                 columns={"engine_logp": torch.zeros(1, dtype=dtype, device=device)}, policy=("policy",))
