"""What the tests of the compiled kernels share: libraries of every kind that this machine can run, and random batches."""

import functools

import numpy as np
import pytest
import torch

from groupwise.kernels import build
from groupwise.kernels.build import KINDS, Library, find
from groupwise.kernels.library import Batch, Compiled
from groupwise.models.build import character_tokenizer, random_policy

FAMILIES = {
    "qwen2": {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "mlp": 96},
    "qwen3": {"hidden": 72, "layers": 2, "heads": 6, "kv_heads": 2, "mlp": 40},  # no width a multiple of 32
    "llama": {"hidden": 40, "layers": 1, "heads": 2, "kv_heads": 2, "mlp": 72},
}
EMULATED = "amx emulated"


@functools.cache
def library(name: str = "") -> Library:
    """The kernels of a kind (the machine's best without a name); skips the test where there is no compiler."""
    if build._compiler() is None:
        pytest.skip("no C++ compiler")
    if name == EMULATED:
        return _emulated()
    found = find(name)
    assert isinstance(found, Library), found
    return found


def _emulated() -> Library:
    """The tile code without the tile unit."""
    flags = (*(f for f in KINDS[0].flags if not f.startswith("-m")), "-DGROUPWISE_EMULATE_TILES")
    kind = build.Kind(EMULATED.replace(" ", "-"), flags=flags, narrow=True)
    path = build.build(kind, build._compiler())
    return build.opened(kind, path)


def kinds() -> list[str]:
    """The machine's best kind, the one for any machine, and the emulated one."""
    best = next(kind.name for kind in KINDS if kind.needs <= build.features())
    return list(dict.fromkeys([best, "portable", EMULATED]))


def model_of(family: str, seed: int = 0, **changes):
    """A random model whose norms and biases are not trivial either."""
    model = random_policy(character_tokenizer(), family=family, seed=seed, **{**FAMILIES[family], **changes})
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return model


LENGTHS = ((0, 7), (0, 1), (0, 70), (1, 30), (1, 2), (2, 33), (3, 16), (3, 17))


def batch_of(seed: int = 0, contexts=(5, 17, 1, 40), lengths=LENGTHS):
    """Contexts of these lengths, and sequences (context, length) after them; one token in ten is not counted."""
    random = np.random.default_rng(seed)
    ends = np.cumsum([n for _, n in lengths])
    return Batch(contexts=[random.integers(3, 28, n).tolist() for n in contexts], context=np.array([c for c, _ in lengths]),
                 tokens=random.integers(3, 28, ends[-1]), begin=np.array([0, *ends[:-1]]), end=ends,
                 counted=random.random(ends[-1]) < 0.9)


def reference(model, batch: Batch, temperature: float):
    """logp, entropy, sum_p2, hidden of every token by the model's own modules, one sequence at a time; differentiable."""
    columns = {"logp": [], "entropy": [], "sum_p2": [], "hidden": []}
    for c, begin, end in zip(batch.context, batch.begin, batch.end, strict=True):
        context, tokens = list(batch.contexts[c]), batch.tokens[begin:end].tolist()
        hidden = model.model(torch.tensor([context + tokens[:-1]])).last_hidden_state[0, len(context) - 1:]
        logp = torch.log_softmax(model.lm_head(hidden) / temperature, -1)
        columns["logp"].append(logp[torch.arange(len(tokens)), tokens])
        columns["entropy"].append(-(logp.exp() * logp).sum(-1))
        columns["sum_p2"].append(logp.exp().square().sum(-1))
        columns["hidden"].append(hidden)
    return {name: torch.cat(pieces) for name, pieces in columns.items()}


def slopes_of(batch: Batch, hidden: int, seed: int = 1) -> dict[str, torch.Tensor]:
    """Random gradients of every value, zero where nothing is counted."""
    draw, counted = torch.Generator().manual_seed(seed), torch.from_numpy(batch.counted)
    one = {name: torch.randn(len(counted), generator=draw) * counted for name in ("logp", "entropy", "sum_p2")}
    return one | {"hidden": 0.05 * torch.randn(len(counted), hidden, generator=draw) * counted[:, None]}


def gradient_of(compiled: Compiled, batch: Batch, slopes, temperature: float) -> torch.Tensor:
    """The gradient of sum(slopes * values) by the kernels, as one vector in double precision."""
    compiled.model.zero_grad(set_to_none=True)
    _, ticket = compiled.score(batch, temperature=temperature, entropy=True, sum_p2=True, hidden=True, keep=True)
    compiled.backward(ticket, slopes)
    compiled.drop(ticket)
    compiled.collect()
    return flat_gradient(compiled.model)


def flat_gradient(model) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()]).double()
