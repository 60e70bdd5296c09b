"""The compiled model: a Hugging Face model's parameters, run by the kernels.

Shapes and pointers are checked here; the kernels trust what they are given.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from groupwise.errors import ConfigError
from groupwise.kernels.binding import Place, Sequences, Shape, Wishes, declare, flattened, pointers_to, values_of
from groupwise.kernels.build import Library

ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "MistralForCausalLM")
ROTATIONS = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings whose frequencies do not depend on the length of the sequence."""
CHUNK_ROWS = 320
"""Rows that a thread runs at a time: enough to spread the cost of reading the weights, few enough to stay in its cache."""

_OUTER = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
_INNER = ("input_layernorm.weight", "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
          "self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias", "self_attn.q_norm.weight",
          "self_attn.k_norm.weight", "self_attn.o_proj.weight", "post_attention_layernorm.weight", "mlp.gate_proj.weight",
          "mlp.up_proj.weight", "mlp.down_proj.weight")


def unsupported(model: PreTrainedModel) -> str | None:
    """Why the kernels cannot run a model; None if they can."""
    config = model.config
    if type(model).__name__ not in ARCHITECTURES:
        return f"{type(model).__name__} is none of {', '.join(ARCHITECTURES)}"
    rotation = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    windows = any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ())
    if config.model_type == "mistral" and config.sliding_window is not None:
        windows = True
    if windows or config.hidden_act != "silu" or rotation not in ROTATIONS:
        return f"attention windows, activation {config.hidden_act!r} or rotary embedding {rotation!r} are not covered"
    names = set(dict(model.named_parameters()))
    if odd := names - set(_names(config.num_hidden_layers)):
        return f"it has parameters of its own, such as {min(odd)!r}"
    if wrong := [name for name, p in model.named_parameters()
                 if p.dtype != torch.float32 or p.device.type != "cpu" or not p.is_contiguous()]:
        return f"its parameters must be contiguous fp32 in main memory ({wrong[0]!r} is not)"
    if _head_size(model) % 2:
        return "the size of its heads is odd"
    return None


def _names(layers: int) -> list[str]:
    return [*_OUTER, *(f"model.layers.{i}.{name}" for i in range(layers) for name in _INNER)]


def _head_size(model: PreTrainedModel) -> int:
    return int(model.model.layers[0].self_attn.head_dim)


@dataclass
class Batch:
    """Sequences to score, as flat arrays (int32): sequence i is tokens[begin[i]:end[i]] after contexts[context[i]].

    Those of one context stand together. Results are wanted for tokens that are `counted` [t].
    """

    contexts: Sequence[Sequence[int]]
    context: np.ndarray
    tokens: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    counted: np.ndarray


class Compiled:
    """A model run by the kernels, in fp32 or (`narrow`) with bf16 products and fp32 sums. `threads` and `chunk_rows` decide the
    order of sums, so equal ones give equal bits.

    The model's parameters stay the master copy: `load` takes them over after each change. ConfigError: an unsupported model.
    """

    def __init__(self, model: PreTrainedModel, library: Library, *, threads: int = 1, narrow: bool | None = None,
                 chunk_rows: int = CHUNK_ROWS) -> None:
        if reason := unsupported(model):
            raise ConfigError(f"the kernels cannot run this model: {reason}; take compute=modules")
        self.model, self.library, self.threads = model, library, threads
        self.narrow = library.kind.narrow if narrow is None else narrow
        self.hidden, self.vocabulary = int(model.config.hidden_size), int(model.config.vocab_size)
        own = dict(model.named_parameters())
        self.parameters = [own.get(name) for name in _names(model.config.num_hidden_layers)]
        self._lib = library.handle
        declare(self._lib)
        rotary = model.model.rotary_emb
        frequencies = rotary.inv_freq.detach().float().contiguous()
        config = model.config
        shape = Shape(self.vocabulary, self.hidden, config.num_hidden_layers, config.num_attention_heads,
                       config.num_key_value_heads, _head_size(model), config.intermediate_size,
                       int("model.layers.0.self_attn.q_proj.bias" in own), int("model.layers.0.self_attn.q_norm.weight" in own),
                       int("lm_head.weight" not in own), config.rms_norm_eps)
        self._sums: Tensor | None = None  # [threads, n] gradients
        self._views: list[Tensor | None] = []
        self._given = False  # whether the parameters have been given what the first thread's sums hold
        self._engine = self._made(self._lib.gw_create(
            ctypes.byref(shape), ctypes.c_void_p(frequencies.data_ptr()), ctypes.c_float(rotary.attention_scaling),
            int(self.narrow), threads, chunk_rows))
        self.load()

    def __del__(self) -> None:
        if "_engine" in self.__dict__:
            self._lib.gw_destroy(self._engine)

    @property
    def name(self) -> str:
        """What decides the bits of a result: the kind of processor, the number format, the threads."""
        return f"{self.library.kind.name}-{'bf16' if self.narrow else 'fp32'}-{self.threads}"

    def load(self) -> None:
        """Take over the parameters as they are now."""
        self._done(self._lib.gw_load(self._engine, pointers_to(self.parameters)))

    # ---- scoring -----------------------------------------------------------------------------------------------------

    def score(self, batch: Batch, *, temperature: float = 1.0, entropy: bool = False, sum_p2: bool = False, hidden: bool = False,
              keep: bool = False) -> tuple[dict[str, Float[Tensor, "..."]], int | None]:
        """Log-probs [t] of the counted tokens (others 0), what else is wanted, and with `keep` a ticket for `backward`."""
        n = len(batch.tokens)
        out = {"logp": torch.zeros(n)}
        out |= {name: torch.zeros(n) for name, wanted in (("entropy", entropy), ("sum_p2", sum_p2)) if wanted}
        out |= {"hidden": torch.zeros(n, self.hidden)} if hidden else {}
        flat, starts = flattened(batch.contexts)
        whole = (batch.context, batch.tokens, batch.begin, batch.end)
        arrays = [flat, starts, *(np.ascontiguousarray(a, dtype=np.int32) for a in whole),
                  np.ascontiguousarray(batch.counted, dtype=np.uint8)]
        self._check(flat, np.diff(starts), arrays[3])
        given = Sequences(len(batch.contexts), len(batch.begin), *(a.ctypes.data for a in arrays))
        ticket = self._made(self._lib.gw_score(self._engine, ctypes.byref(given), ctypes.c_float(temperature),
                                               ctypes.byref(values_of(out)), int(keep)))
        return out, ticket if keep else None

    def backward(self, ticket: int, slopes: dict[str, Tensor]) -> None:
        """Add the gradient of sum(slopes * values) to the threads' sums; `slopes` by the names of the values, logp among them."""
        sums = self._begin()
        self._done(self._lib.gw_backward(self._engine, ticket, ctypes.byref(values_of(slopes)), sums.data_ptr()))

    def drop(self, ticket: int) -> None:
        """Give back what a ticket keeps."""
        self._done(self._lib.gw_drop(self._engine, ticket))

    def collect(self) -> None:
        """Add the threads' sums to the parameters' `.grad`, in the order of the threads.

        A parameter without a gradient gets the sums themselves, if they lie as it does: they are not copied.
        """
        if self._sums is None:
            return
        self._done(self._lib.gw_collect(self._engine, self._sums.data_ptr()))
        self._given = True
        for p, view in self._pairs():
            if p.grad is None:
                p.grad = view if view.is_contiguous() else view.clone()
            elif p.grad.data_ptr() != view.data_ptr():
                p.grad += view
                view.zero_()

    def _begin(self) -> Tensor:
        """The threads' sums; what is no parameter's gradient any more begins anew."""
        if self._sums is None:
            places = (Place * len(self.parameters))()
            size = self._lib.gw_places(self._engine, places)
            self._sums = torch.zeros(self.threads, size)
            self._views = [None if p is None else self._sums[0].as_strided(p.shape, (at.wide, 1)[-p.dim():], at.offset)
                           for p, at in zip(self.parameters, places, strict=True)]
        if self._given:
            for p, view in self._pairs():
                if p.grad is None or p.grad.data_ptr() != view.data_ptr():
                    view.zero_()
            self._given = False
        return self._sums

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Every parameter with its place in the first thread's sums."""
        return [(p, view) for p, view in zip(self.parameters, self._views, strict=True) if p is not None and view is not None]

    def rest(self) -> None:
        """Give working memory back; the next call takes it anew. Gradients that no parameter holds are gone."""
        self._sums, self._views, self._given = None, [], False
        self._done(self._lib.gw_rest(self._engine))

    # ---- sampling ----------------------------------------------------------------------------------------------------

    def rows_at_a_time(self, rows: int, most: int) -> int:
        """How many of so many rows `sample` runs at a time: a few for each thread, `most` at most."""
        return int(self._lib.gw_rows_at_a_time(self._engine, rows, most))

    def sample(self, contexts: Sequence[Sequence[int]], context: Int[np.ndarray, " n"], streams: np.ndarray, *, max_tokens: int,
               temperature: float, end_tokens: Sequence[int], most: int = 256, stride: int = 0,
               look: Callable[["Sampled"], None] | None = None) -> "Sampled":
        """Complete contexts[context[i]] for every row; rows of one context stand together. At most `most` rows run at a time:
        others begin when some have ended.

        `look` is called every `stride` tokens; it may shorten a row's length, with done[i] = 1.
        """
        n = len(context)
        made = Sampled(np.zeros((n, max_tokens), np.int32), np.zeros((n, max_tokens), np.float32), np.zeros(n, np.int32),
                       np.zeros(n, np.uint8))
        flat, starts = flattened(contexts)
        self._check(flat, np.diff(starts), flat)
        rows = np.ascontiguousarray(context, dtype=np.int32)
        ends, keys = np.array(end_tokens, dtype=np.int32), np.ascontiguousarray(streams, dtype=np.uint64)
        wishes = Wishes(len(contexts), n, max_tokens, len(ends), most, flat.ctypes.data, starts.ctypes.data, rows.ctypes.data,
                         ends.ctypes.data, keys.ctypes.data, temperature, made.tokens.ctypes.data, made.lengths.ctypes.data,
                         made.logp.ctypes.data, made.done.ctypes.data)
        sampler = self._made(self._lib.gw_sampler(self._engine, ctypes.byref(wishes)))
        try:
            while not made.done.all():
                self._done(self._lib.gw_sample(self._engine, sampler, stride or 2**31 - 1))
                if look is not None:
                    look(made)
        finally:
            self._done(self._lib.gw_sampler_end(self._engine, sampler))
        return made

    # ---- plumbing ----------------------------------------------------------------------------------------------------

    def _check(self, context_tokens: np.ndarray, lengths: np.ndarray, tokens: np.ndarray) -> None:
        if len(lengths) == 0 or lengths.min() < 1:
            raise ConfigError("a sequence has an empty context: its first token has nothing to be predicted from; give the "
                              "prompt at least one token (such as BOS)")
        for ids in (context_tokens, tokens):
            if len(ids) and (ids.min() < 0 or ids.max() >= self.vocabulary):
                raise ConfigError(f"token ids must lie in [0, {self.vocabulary}), got {ids.min()} to {ids.max()}")

    def _made(self, pointer: int | None) -> int:
        if not pointer:
            raise MemoryError(f"the kernels failed: {self._lib.gw_error().decode()}")
        return pointer

    def _done(self, code: int) -> None:
        if code != 0:
            raise MemoryError(f"the kernels failed: {self._lib.gw_error().decode()}")


def peak(library: Library, *, narrow: bool, threads: int, m: int = 96, n: int = 512, k: int = 512, repeats: int = 2000) -> float:
    """Floating-point operations a second that the kernels' own products reach on this machine: what other rates compare with."""
    function = library.handle.gw_peak
    function.restype = ctypes.c_double
    return float(function(int(narrow), m, n, k, repeats, threads))


@dataclass
class Sampled:
    """Per row: tokens and log-probs [n, max_tokens], how many there are, and why it ended (1: an end token, 2: length)."""

    tokens: np.ndarray
    logp: np.ndarray
    lengths: np.ndarray
    done: np.ndarray
