"""The only place that turns logits into log-probs, shared by the engine and the learner.

A model is split into its trunk (tokens to hidden states) and its head (hidden states to logits), so that the head runs only
where log-probs are wanted, and in chunks: the matrix [positions, vocabulary] never exists as a whole.
"""

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from groupwise.core.services import Sampling
from groupwise.errors import ConfigError

logger = logging.getLogger(__name__)
_TOLERANCE = 1e-4
LOGIT_CHUNK = 2**24
_CACHED = 2**19
_LEAST = -1e30
"""A log-prob below all others that a probability of 0 can still be multiplied with."""


class Trunk:
    """A causal language model as `hidden` (the model without its head) and `logits` (its head).

    `exact_split` says whether the two parts, put together, gave the model's own logits on a few probe tokens. Where they do not
    (an architecture with an unknown step between them), `hidden` returns the model's own logits and `logits` is the identity:
    correct for any model, at the memory of the whole matrix.

    `head_float32` takes the head's product in fp32 under bf16 hidden states or weights (ScaleRL, Khatri et al. 2025, arXiv
    2510.13786). ConfigError: the model cannot be split.
    """

    def __init__(self, model: PreTrainedModel, *, head_float32: bool = False) -> None:
        self.model, self.head_float32 = model, head_float32
        self._base: nn.Module = model.base_model
        self._head: nn.Module | None = model.get_output_embeddings()
        config = model.config.get_text_config().to_dict()
        self.vocabulary = int(config["vocab_size"])
        self._finish = _after_head(config)
        self._takes = {module: inspect.signature(module.forward).parameters for module in (model, self._base)}
        self.exact_split = self._head is not None and self._base is not model and self._proves()
        if not self.exact_split:
            if head_float32:
                raise ConfigError(f"head_float32: {type(model).__name__} cannot be split into trunk and head; leave it off")
            logger.warning("%s cannot be split into trunk and head: log-probs take the whole logits matrix", type(model).__name__)

    def hidden(self, input_ids: Int[Tensor, "b l"], attention_mask: Tensor | Mapping[str, Tensor | None] | None = None,
               position_ids: Int[Tensor, "_ l"] | None = None, past_key_values: Any = None,
               use_cache: bool = False) -> tuple[Float[Tensor, "b l h"], Any]:
        """Last hidden states (after the final norm) and the cache; `attention_mask` as transformers takes it."""
        if self.model.training:
            raise ConfigError("the model is in training mode, where dropout would make log-probs random; call model.eval()")
        module = self._base if self.exact_split else self.model
        given = {"attention_mask": attention_mask, "position_ids": position_ids, "past_key_values": past_key_values}
        # Not every architecture takes, or gives back, each of these.
        given = {name: value for name, value in given.items() if value is not None or name in self._takes[module]}
        out = module(input_ids=input_ids, use_cache=use_cache, **given)
        return (out.last_hidden_state if self.exact_split else out.logits), getattr(out, "past_key_values", None)

    def logits(self, hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n v"]:
        """Logits of hidden states, in the model's dtype (fp32 with `head_float32`), with the final soft-capping or scale of its
        configuration.
        """
        if not self.exact_split or self._head is None:
            return hidden
        out: Tensor = self._finish(_wide(self._head, hidden) if self.head_float32 else self._head(hidden))
        return out

    def _proves(self) -> bool:
        """Whether head(trunk(tokens)) equals the model's logits to 1e-4 of their largest, on a few tokens."""
        assert self._head is not None
        device = self.model.get_input_embeddings().weight.device
        probe = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]], device=device) % self.vocabulary
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad():
            out = self._base(input_ids=probe, use_cache=False)
            whole = self.model(input_ids=probe, use_cache=False).logits.float()
            split = self._finish(self._head(out.last_hidden_state)).float()
        self.model.train(was_training)
        return split.shape == whole.shape and bool((split - whole).abs().max() <= _TOLERANCE * whole.abs().max())


def _after_head(config: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """What follows the head: soft-capping (Gemma), a factor (Cohere, Falcon-H1), a divisor (Granite)."""
    cap = config.get("final_logit_softcapping")
    scale, divisor = config.get("logit_scale") or config.get("lm_head_multiplier") or 1.0, config.get("logits_scaling") or 1.0
    factor = scale / divisor

    def finish(logits: Tensor) -> Tensor:
        if factor != 1.0:
            logits = logits * factor
        return torch.tanh(logits / cap) * cap if cap else logits

    return finish


def _wide(head: nn.Module, hidden: Tensor) -> Tensor:
    """The head's product in fp32 (fp64 stays); a narrow weight is widened for it."""
    rows, own = _upcast(hidden), dict(head.named_parameters())
    with torch.autocast(rows.device.type, enabled=False):
        out: Tensor = functional_call(head, {name: p.to(rows.dtype) for name, p in own.items()}, (rows,))
    return out


@dataclass(frozen=True)
class Want:
    """What is asked for besides the log-prob of each target, and how many logits may exist at a time (at least a row of them);
    `routes` are the experts of every position read; `temperature` one instead of the scorer's own.
    """

    entropy: bool = False
    sum_p2: bool = False
    hidden: bool = False
    routes: bool = False
    logit_chunk: int = LOGIT_CHUNK
    temperature: float | None = None


@dataclass
class Scores:
    """Per position: log-prob of the target, entropy in nats, sum of squared probabilities, last hidden state (if wanted)."""

    logp: Float[Tensor, " n"]
    entropy: Float[Tensor, " n"] | None = None
    sum_p2: Float[Tensor, " n"] | None = None
    hidden: Float[Tensor, "n h"] | None = None


def score(trunk: Trunk, hidden: Float[Tensor, "n h"], targets: Int[Tensor, " n"], *, temperature: float = 1.0,
          want: Want = Want()) -> Scores:
    """Log-probs of targets under softmax(logits / temperature), and what else is wanted; all differentiable.

    At most `want.logit_chunk` logits exist at a time; with gradients each chunk is recomputed in the backward.
    Computed in fp32 (fp64 stays). ConfigError: a temperature that is not positive; hidden states wanted of an unsplit model.
    """
    if not temperature > 0.0:
        raise ConfigError(f"log-probs need a positive temperature, got {temperature}; greedy completions are scored at 1")
    if want.hidden and not trunk.exact_split:
        raise ConfigError(f"hidden states are wanted, but {type(trunk.model).__name__} cannot be split into trunk and head")

    def part(rows: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        scored = _Moments.apply(trunk.logits(rows), target, temperature, want.entropy, want.sum_p2)  # type: ignore[no-untyped-call]
        return scored[0], scored[1] if want.entropy else None, scored[2] if want.sum_p2 else None

    size = max(1, want.logit_chunk // trunk.vocabulary)
    pieces = list(zip(torch.split(hidden, size), torch.split(targets, size), strict=True))
    recompute = torch.is_grad_enabled() and len(pieces) > 1
    done = [checkpoint(part, rows, target, use_reentrant=False, preserve_rng_state=False) if recompute else part(rows, target)
            for rows, target in pieces]
    logp, entropy, sum_p2 = zip(*done, strict=True)
    return Scores(torch.cat(logp), torch.cat(entropy) if want.entropy else None, torch.cat(sum_p2) if want.sum_p2 else None,
                  hidden if want.hidden else None)


class _Moments(torch.autograd.Function):
    """Log-prob of a target, entropy and sum of squared probabilities of softmax(logits / temperature), [n] each.

    With z the logits over the temperature and lse their logsumexp:

        logp = z_t - lse     H = -sum p (z - lse)     s = sum p^2
        d z  = p (2 ds (p - s) - dlogp - dH (z - lse + H)) + onehot_t dlogp

    Composed of torch's own functions it would keep and make about eight matrices of the logits' size; here it is the logits and
    their gradient, and what comes between is made for a few rows at a time.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, temperature: float, entropy: bool, sum_p2: bool) -> tuple[Tensor, ...]:
        out = _upcast(logits.new_empty(0)).new_zeros(4, len(logits))
        for at in _rows(logits):
            z = _upcast(logits[at]) / temperature
            lse = torch.logsumexp(z, -1)
            out[0, at], out[3, at] = z.gather(-1, target[at, None])[:, 0] - lse, lse
            if entropy or sum_p2:
                p = torch.exp(z.sub_(lse[:, None]).clamp_(min=_LEAST))
                out[1, at], out[2, at] = -(p * z).sum(-1), p.square_().sum(-1) if sum_p2 else 0.0
        ctx.save_for_backward(logits, target, out)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return out[0], out[1], out[2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        logits, target, out = ctx.saved_tensors
        slope = torch.empty_like(logits)
        for at in _rows(logits):
            dlogp, dentropy, dsum = (None if given is None else given[at, None] for given in slopes)
            z = (_upcast(logits[at]) / ctx.temperature).sub_(out[3, at, None]).clamp_(min=_LEAST)
            p = z.exp()
            factor = torch.zeros_like(z) if dlogp is None else -dlogp.expand_as(z)
            if dentropy is not None:
                factor = factor - dentropy * z.add_(out[1, at, None])
            if dsum is not None:
                factor = factor + 2.0 * dsum * (p - out[2, at, None])
            p.mul_(factor)
            if dlogp is not None:
                p.scatter_add_(-1, target[at, None], dlogp)
            slope[at] = p.div_(ctx.temperature)
        return slope, None, None, None, None


def _rows(logits: Tensor) -> list[slice]:
    """Some rows at a time on a processor, as many as its cache holds; a GPU is better off with all at once."""
    most = len(logits) if logits.is_cuda else max(1, _CACHED // logits.shape[-1])
    return [slice(at, at + most) for at in range(0, len(logits), max(1, most))]


def sampling_logp(logits: Float[Tensor, "b v"], sampling: Sampling) -> Float[Tensor, "b v"]:
    """Log-probs of the very distribution that is sampled from, in fp32 (fp64 stays); -inf outside its support.

    Temperature, then top-k, top-p and min-p, then renormalised: the order and meaning of transformers' logits processors
    (ties with the k-th logit stay). Greedy (temperature 0) is reported as log_softmax at temperature 1, without truncation.
    """
    logits = _upcast(logits)
    if sampling.temperature == 0.0:
        return torch.log_softmax(logits, dim=-1)
    if sampling.temperature != 1.0:
        logits = logits / sampling.temperature
    if sampling.top_k > 0:
        kth = torch.topk(logits, min(sampling.top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if sampling.top_p < 1.0:
        ascending, order = torch.sort(logits, descending=False, dim=-1)
        drop = ascending.softmax(-1).cumsum(-1) <= 1.0 - sampling.top_p
        drop[:, -1] = False
        logits = logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
    if sampling.min_p > 0.0:
        p = logits.softmax(-1)
        logits = logits.masked_fill(p < sampling.min_p * p.amax(-1, keepdim=True), -torch.inf)
    return torch.log_softmax(logits, dim=-1)


def _upcast(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


class ValueHead(nn.Module):
    """A scalar value per position, linear in the last hidden state; starts at zero."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Float[Tensor, "n h"]) -> Float[Tensor, " n"]:
        """Values [n] of hidden states [n, h]."""
        out: Tensor = self.linear(hidden).squeeze(-1)
        return out
