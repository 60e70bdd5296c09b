"""One token for every row of logits, some rows at a time: what it takes besides them is several times as large as they are."""

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from groupwise.core.services import Sampling
from groupwise.models.head import sampling_logp

AT_A_TIME = 2**22
"""Logits that are sampled from at a time, at least a row of them."""


def drawn(logits: Float[Tensor, "n v"], sampling: Sampling,
          uniform: Float64[Tensor, " n"]) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """A token for each row and its log-prob under the distribution sampled from (greedy: the most likely, at temperature 1)."""
    tokens, logps = [], []
    rows = max(1, AT_A_TIME // logits.shape[-1])
    for some, number in zip(torch.split(logits, rows), torch.split(uniform, rows), strict=True):
        logp = sampling_logp(some, sampling)
        token = some.argmax(-1) if sampling.temperature == 0.0 else draw(logp, number)
        tokens.append(token)
        logps.append(logp.gather(-1, token[:, None])[:, 0])
    return torch.cat(tokens), torch.cat(logps)


def draw(logp: Float[Tensor, "n v"], uniform: Float64[Tensor, " n"]) -> Int[Tensor, " n"]:
    """One token per row by the inverse of the cumulative distribution; a token of probability zero is never drawn."""
    cumulative = torch.cumsum(logp.exp(), -1, dtype=torch.float64)
    total = cumulative[:, -1]
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
