"""Sampling from any causal language model: every token comes from a forward of the whole text so far, without cache or padding.

For models that keep something else than keys and values from token to token (state spaces, recurrences, short convolutions), or
whose positions and masks are not those that the native engine takes for granted. Right, and slow: the work grows with the square
of the length.
"""

import torch

from groupwise.core.rollout import Context
from groupwise.core.services import Request, Sampling
from groupwise.engines.cache import window_of
from groupwise.engines.native import Native, Wave
from groupwise.engines.waves import Row
from groupwise.errors import EngineError
from groupwise.models.head import Trunk
from groupwise.models.load import Policy

PROBES = ((3, 1, 4, 1, 5, 9), (2, 7))
"""Tokens that a model is tried on: texts of two lengths, so that one is padded."""
APART, ROUGH = 1e-3, 0.3
"""How far the log-probs of the cached and of the whole forward may lie apart, in nats; in half precision."""


class Whole(Native):
    """As `Native`, for any model. `reason` says why it is used."""

    alike = True

    def __init__(self, policy: Policy, reason: str, *, max_rows: int = 256, trunk: Trunk | None = None) -> None:
        self._describe(policy, max_rows)
        self.trunk, self.reason = trunk if trunk is not None else Trunk(policy.model), reason

    @property
    def note(self) -> str:
        """What a run says of it."""
        return f"sampling runs the whole text again for every token, which is slow: {self.reason}"

    def _wave(self, sampling: Sampling, rows: list[Row]) -> Wave:
        return WholeWave(self, sampling, rows)


class WholeWave(Wave):
    """Rows of one length: `ids` [rows, length] is all that is kept."""

    def prefill(self, rows: list[Row]) -> None:
        """Each distinct context once."""
        contexts = list(dict.fromkeys(row.context for row in rows))
        place = {context: i for i, context in enumerate(contexts)}
        index = torch.tensor([place[row.context] for row in rows], device=self.device)
        ids = torch.tensor(contexts, device=self.device)
        self.logits, self.ids = self.last(ids)[index], ids[index]
        self.engine.stats["prefill_tokens"] += float(ids.numel())

    def last(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits [rows, vocabulary] of the next token."""
        hidden, _ = self.engine.trunk.hidden(ids)
        return self.engine.trunk.logits(hidden[:, -1])

    def forward(self) -> None:
        """Read the whole text with its newest token."""
        self.ids = torch.cat([self.ids, self.block_last[:, None]], 1)
        self.logits = self.last(self.ids)
        self.engine.stats["steps"] += 1.0

    def keep(self, kept: list[int]) -> None:
        """Shrink the batch to these rows."""
        self.alive = [self.alive[i] for i in kept]
        index = torch.tensor(kept, dtype=torch.long, device=self.device)
        self.ids, self.block_last, self.streams = self.ids[index], self.block_last[index], self.streams[kept]


@torch.no_grad()
def uncached(policy: Policy, trunk: Trunk) -> str | None:
    """Why a model cannot be sampled with the native engine's cache; None if it can, as a few tokens show."""
    name = type(policy.model).__name__
    try:
        window_of(policy.model.config.get_text_config())
    except EngineError as error:
        return str(error)
    texts = [tuple(token % trunk.vocabulary for token in text) for text in PROBES]
    limit = min(policy.model.config.get_text_config().to_dict().get("max_position_embeddings") or 64, 64)
    room = min(4, limit - max(map(len, texts)))
    if room < 1:
        return None
    requests = [Request(Context(text), (0,), Sampling(max_tokens=room, temperature=0.0)) for text in texts]
    try:
        made = [found for (found,) in Native(policy, trunk=trunk).generate(requests)]
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        return f"{name} does not run with the native engine's cache ({type(error).__name__}: {str(error)[:200]})"
    model = next(policy.model.parameters())
    allowed = APART if model.dtype in (torch.float32, torch.float64) else ROUGH
    for text, one in zip(texts, made, strict=True):
        ids = torch.tensor([[*text, *one.tokens]], device=model.device)
        hidden, _ = trunk.hidden(ids)
        logp = torch.log_softmax(trunk.logits(hidden[0, len(text) - 1:-1]).double(), -1)
        gap = logp.gather(-1, ids[0, len(text):, None])[:, 0].cpu() - torch.tensor(one.logp, dtype=torch.float64)
        if not bool(gap.abs().max() <= allowed):
            return f"{name} gives other log-probs with the native engine's cache than without (by {float(gap.abs().max()):.2g})"
    return None
