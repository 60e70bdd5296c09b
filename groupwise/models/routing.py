"""The routers of a mixture of experts: to which experts each position went, and how to send it there again.

A router is a module that answers (logits [n, experts], weights [n, k], chosen experts [n, k]) and chooses by `torch.topk`, as
those of Qwen3-MoE, Mixtral, OLMoE and many others in transformers do. To replay a choice its own forward runs with that choice in
the place of top-k's: logits, and the weights of the chosen experts, are those of the live parameters, normalised as the
architecture does it, so the gradient reaches the router. Rollout Routing Replay (arXiv 2510.11370) and GSPO's Routing Replay
(arXiv 2507.18071, section 5.3) differ in who made the choice.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PretrainedConfig, PreTrainedModel

EXPERTS = "experts"
"""The name of the extras that hold routes [tokens, layers, k], int16: the experts of the position that predicts the token, -1
where nobody knows. Those of a context are the same of its tokens; nothing predicts its first token, so that row is -1."""

Source = Literal["live", "recorded", "old"]
"""Who chooses the experts in training: the live router, the engine's when it sampled, or the learner's before the update."""

_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_PROBE = (3, 1, 4, 1, 5, 9, 2, 6)


@dataclass
class Tally:
    """What routers did with positions, as sums: `load` [layers, experts] positions sent, `mass` [experts] of their probabilities,
    `entropy` in nats, all over `rows` (positions times layers); of `replayed` choices those that the live router `changed`.
    """

    load: np.ndarray
    mass: np.ndarray
    entropy: float
    rows: int
    changed: int
    replayed: int

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def slopes(self) -> np.ndarray:
        """[experts] d(balance)/d(mass), with the load held: the load-balancing loss is linear in the probabilities."""
        return self.load.sum(0) * self.load.shape[1] / self.rows**2

    @property
    def balance(self) -> float:
        """The load-balancing loss E sum_e f_e P_e of Switch Transformers (arXiv 2101.03961, equations 4 to 6), over all layers
        together and with k experts a position, as transformers has it: k where all experts are used alike.
        """
        return float(self.slopes @ self.mass)

    def metrics(self) -> dict[str, float]:
        """The busiest expert of any layer (1: as the mean), experts without work, entropy, balance, and changed choices."""
        busiest = self.load.max(1) / np.maximum(self.load.mean(1), 1e-9)
        out = {"router_load_max": float(busiest.max()), "router_idle": float((self.load == 0).mean()),
               "router_entropy": self.entropy / self.rows, "router_balance": self.balance}
        return out | ({"routing_changed": self.changed / self.replayed} if self.replayed else {})


class Routed:
    """What the routers did in a forward inside `Routing.watch`: per layer logits, the live choice, and the one that was used."""

    def __init__(self, forced: Int[Tensor, "n layers k"] | None) -> None:
        self.forced = forced
        self.layers: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self.kept: Bool[Tensor, " n"] | None = None

    def experts(self) -> Int[Tensor, "n layers k"]:
        """The routes of every position, int16."""
        return torch.stack([used for _, _, used in self._inorder()], 1).to(torch.int16)

    def routes(self, lengths: Sequence[int]) -> list[np.ndarray]:
        """[length, layers, k] of each row of a batch that was padded on its right."""
        whole = self.experts().cpu().numpy()
        whole = whole.reshape(len(lengths), -1, *whole.shape[1:])
        return [row[:n].copy() for row, n in zip(whole, lengths, strict=True)]

    def mass(self, slopes: Float[Tensor, " experts"]) -> Float[Tensor, ""]:
        """sum_e slope_e * (probabilities of expert e over layers and kept positions), differentiable."""
        return torch.stack([(self._probabilities(logits).sum(0) * slopes).sum() for logits, _, _ in self._inorder()]).sum()

    @torch.no_grad()
    def tally(self) -> Tally:
        """The sums over the kept positions."""
        layers = self._inorder()
        experts = layers[0][0].shape[1]
        p = [self._probabilities(logits) for logits, _, _ in layers]
        load = torch.stack([torch.bincount(self._keep(used).flatten(), minlength=experts) for _, _, used in layers])
        entropy = torch.stack([-torch.special.xlogy(x, x).sum(dtype=torch.float64) for x in p]).sum()
        mass = torch.stack([x.sum(0, dtype=torch.float64) for x in p]).sum(0)
        changed, replayed = torch.zeros((), dtype=torch.long), 0
        if self.forced is not None:
            told = self._keep(self.forced)
            live = torch.stack([self._keep(live) for _, live, _ in layers], 1)
            known = told >= 0
            missed = known & ~(told[..., :, None] == live[..., None, :]).any(-1)
            changed, replayed = missed.sum(), int(known.sum())
        return Tally(load.cpu().numpy(), mass.cpu().numpy(), float(entropy), len(layers) * len(p[0]), int(changed), replayed)

    def _inorder(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        return [self.layers[layer] for layer in sorted(self.layers)]

    def _keep(self, x: Tensor) -> Tensor:
        return x if self.kept is None else x[self.kept]

    def _probabilities(self, logits: Float[Tensor, "n experts"]) -> Float[Tensor, "m experts"]:
        return torch.softmax(self._keep(logits).float(), -1)


class Routing:
    """The routers of a model, in their order; made by `find`. They do as they always do outside of `watch`."""

    def __init__(self, routers: Sequence[nn.Module], experts: int, k: int, source: Source = "live") -> None:
        self.experts, self.k, self.layers, self.source = experts, k, len(routers), source
        self._forced: Tensor | None = None
        self._seen: Routed | None = None
        self.last: Routed | None = None
        self.hooks = [router.register_forward_hook(_Hook(self, layer), with_kwargs=True) for layer, router in enumerate(routers)]

    @contextlib.contextmanager
    def watch(self, forced: Int[Tensor, "n layers k"] | None = None) -> Iterator[Routed]:
        """What the routers do in this context; where `forced` is not -1, they do that."""
        seen = Routed(forced)
        self._forced, self._seen = forced, seen
        try:
            yield seen
        finally:
            self._forced = self._seen = None

    def hold(self, hidden: Tensor, forced: Tensor) -> None:
        """Layers that are computed again in the backward of `hidden` (gradient checkpointing) get the same routes."""
        def begin(_: Tensor) -> None:
            self._forced = forced
            torch.autograd.Variable._execution_engine.queue_callback(end)

        def end() -> None:
            self._forced = None

        hidden.register_hook(begin)  # type: ignore[no-untyped-call]

    def take(self) -> Routed | None:
        """What was seen last, once: it holds a graph."""
        seen, self.last = self.last, None
        return seen


class _Hook:
    """Of one router: note what it did, and have it do again with the experts that it is told."""

    def __init__(self, routing: Routing, layer: int) -> None:
        self.routing, self.layer = routing, layer

    def __call__(self, router: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        forced, seen, used = self.routing._forced, self.routing._seen, out
        if forced is not None:
            with _Choice(forced[:, self.layer].long(), self.routing.experts):
                used = router.forward(*args, **kwargs)
        if seen is not None:
            seen.layers[self.layer] = (used[0], out[2], used[2])
        return used


class _Choice(TorchFunctionMode):
    """The top-k over all experts gives these, and their values; where one is -1, its own."""

    def __init__(self, chosen: Int[Tensor, "n k"], experts: int) -> None:
        super().__init__()
        self.chosen, self.experts = chosen, experts

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        """Every function as it is, but for top-k."""
        out = func(*args, **(kwargs or {}))
        if func not in (torch.topk, Tensor.topk) or args[0].shape[-1] != self.experts or out[1].shape != self.chosen.shape:
            return out
        chosen = torch.where(self.chosen >= 0, self.chosen, out[1])
        return torch.return_types.topk((args[0].gather(-1, chosen), chosen))


def experts(config: PretrainedConfig) -> int:
    """How many experts a layer has; 0: the model is no mixture of experts."""
    own = config.get_text_config().to_dict()
    return max((own[name] for name in _COUNTS if isinstance(own.get(name), int)), default=0)


def find(model: PreTrainedModel, source: Source = "live") -> Routing | str:
    """The routers of a model, or why there are none that can be read and replayed. Runs it on a few tokens to see."""
    name, count = type(model).__name__, experts(model.config)
    if count < 2:
        return f"{name} is no mixture of experts"
    found = _probed(model, count)
    if not found or len({id(router) for router, _ in found}) < len(found):
        return (f"{name} has no router module that answers (logits, weights, experts) once a layer, as those of Qwen3-MoE, "
                "Mixtral and OLMoE do")
    routing = Routing([router for router, _ in found], count, found[0][1].shape[1], source)
    others = (torch.stack([chosen for _, chosen in found], 1) + 1) % count
    with routing.watch(others) as seen:
        _run(model)
    if not torch.equal(seen.experts(), others.to(torch.int16)):
        for hook in routing.hooks:
            hook.remove()
        return f"the routers of {name} do not choose by torch.topk over their experts, so no choice can be replayed"
    return routing


def _probed(model: PreTrainedModel, experts: int) -> list[tuple[nn.Module, Tensor]]:
    """Modules that answered as routers do, in the order in which they ran, and what they chose."""
    found: list[tuple[nn.Module, Tensor]] = []

    def look(module: nn.Module, _: Any, out: Any) -> None:
        if not (isinstance(out, tuple) and len(out) == 3 and all(isinstance(x, Tensor) and x.dim() == 2 for x in out)):
            return
        logits, weights, chosen = out
        if logits.shape == (len(_PROBE), experts) and weights.shape == chosen.shape and not chosen.is_floating_point():
            found.append((module, chosen))

    handles = [module.register_forward_hook(look) for module in model.modules()]
    try:
        _run(model)
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.no_grad()
def _run(model: PreTrainedModel) -> None:
    embedding = model.get_input_embeddings().weight
    ids = torch.tensor([_PROBE], device=embedding.device) % len(embedding)
    model(input_ids=ids, use_cache=False)
