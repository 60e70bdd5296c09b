"""Gates: which tokens a policy term leaves out, judged by the current forward. They leave the numerator only."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from groupwise.core.keyed import fold, uniforms
from groupwise.errors import ObjectiveError
from groupwise.objective import levels
from groupwise.objective.batch import Batch
from groupwise.objective.latex import number

PerToken = Float[Tensor, " t"]
Mask = Bool[Tensor, " t"]


@dataclass(frozen=True)
class Sight:
    """What a gate may look at, all of it detached: `base` is the log of what the ratio divides by."""

    batch: Batch
    mask: Mask
    logp: PerToken
    base: PerToken
    advantage: PerToken
    stopped: Mask
    entropy: PerToken | None = None


@runtime_checkable
class Gate(Protocol):
    """Which tokens stay; `reach` as that of a term, `needs` of the live distribution."""

    @property
    def reach(self) -> str:
        """How far it looks."""
        ...

    @property
    def needs(self) -> frozenset[str]:
        """What must be scored."""
        ...

    def __call__(self, sight: Sight) -> Mask:
        """[t] True: the token stays."""
        ...


@dataclass(frozen=True)
class OffPolicyRows:
    """Drops sequences with A < 0 whose mean log mu/pi is above `delta` (OPSM, DeepSeek-V3.2, arXiv 2512.02556, section 3.1).

    `against` "base" compares with what the ratio divides by, "engine_logp" with the sampler whatever the behaviour (TRL).
    """

    delta: float = 0.5
    against: str = "base"
    reach: str = "sequence"
    needs: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.against not in ("base", "engine_logp"):
            raise ObjectiveError(f"off_policy_rows: against is 'base' or 'engine_logp', got {self.against!r}")

    def __call__(self, sight: Sight) -> Mask:
        """[t]."""
        other = sight.base if self.against == "base" else sight.batch.columns["engine_logp"]
        ids, size = sight.batch.ids("token", "sequence"), sight.batch.layout.size("sequence")
        gap = torch.where(sight.mask, other - sight.logp, 0.0)
        far = levels.reduce(gap, ids, size, "mean", mask=sight.mask)[ids] > self.delta
        return ~(far & (sight.advantage < 0))

    def latex(self) -> str:
        """The factor of a token."""
        other = r"\mu" if self.against == "base" else r"\mu_{\mathrm{eng}}"
        gap = rf"\mathrm{{mean}}_t(\log {other} - \log \pi_\theta)"
        return rf"\begin{{cases}} 0 & A < 0,\ {gap} > {number(self.delta)} \\ 1 & \mathrm{{otherwise}} \end{{cases}}"


@dataclass(frozen=True)
class TopEntropy:
    """Keeps the `share` of the step's tokens with the highest entropy (arXiv 2506.01939; TRL's top_entropy_quantile)."""

    share: float = 0.2
    reach: str = "step"
    needs: frozenset[str] = frozenset({"entropy"})

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ObjectiveError(f"top_entropy: the share lies above 0 and up to 1; got {self.share}")

    def __call__(self, sight: Sight) -> Mask:
        """[t]."""
        assert sight.entropy is not None
        known = sight.entropy[sight.mask]
        return sight.entropy >= torch.quantile(known, 1 - self.share) if len(known) else sight.mask

    def latex(self) -> str:
        """The factor of a token."""
        top = rf"H \ge \mathrm{{quantile}}(H, {number(1 - self.share)})"
        return rf"\begin{{cases}} 1 & {top} \\ 0 & \mathrm{{otherwise}} \end{{cases}}"


@dataclass(frozen=True)
class ClipCov:
    """Drops a random few of the tokens whose covariance of log-prob and advantage lies between `low` and `high` (Clip-Cov, arXiv
    2505.22617, Eq. 12): `share` of the step's tokens, at least one, none that the clip has stopped.

    Chosen by random numbers keyed with `seed` and the tokens themselves, so a step is repeatable.
    """

    share: float = 2e-4
    low: float = 1.0
    high: float = 5.0
    seed: int = 0
    reach: str = "step"
    needs: frozenset[str] = frozenset()

    def __call__(self, sight: Sight) -> Mask:
        """[t]."""
        cov = covariance(sight)
        near = sight.mask & ~sight.stopped & (cov > self.low) & (cov < self.high)
        many = max(1, int(self.share * int(sight.mask.sum())))
        if int(near.sum()) <= many:
            return ~near
        draw = torch.from_numpy(_numbers(sight.batch, self.seed)).to(cov.device)
        chosen = torch.where(near, draw, 2.0).argsort()[:many]
        return torch.ones_like(near).index_fill(0, chosen, False)

    def latex(self) -> str:
        """The factor of a token."""
        band = rf"{number(self.low)} < \mathrm{{cov}}(A, \log \pi_\theta) < {number(self.high)}"
        drawn = rf"{band}\ \mathrm{{and\ drawn}}\ ({number(self.share)}\ \mathrm{{of\ the\ step}})"
        return rf"\begin{{cases}} 0 & {drawn} \\ 1 & \mathrm{{otherwise}} \end{{cases}}"


def covariance(sight: Sight) -> PerToken:
    """[t] (A - mean A)(log pi - mean log pi), means over the step's tokens."""
    known = sight.mask
    if not bool(known.any()):
        return torch.zeros_like(sight.logp)
    return (sight.advantage - sight.advantage[known].mean()) * (sight.logp - sight.logp[known].mean())


def _numbers(batch: Batch, seed: int) -> Float64[np.ndarray, " t"]:
    """[t] one number in [0, 1) per token, by what its sequence holds and its place there, not by where it lies in the batch."""
    ids, size = batch.layout.ids("token", "sequence"), batch.layout.size("sequence")
    place, tokens = levels.order(ids, size), batch.tokens.cpu().numpy()
    content = levels.reduce((tokens + 1) * (place + 1), ids, size, "sum")[ids]
    return uniforms((content + fold(seed, "clip_cov") % 2**62).astype(np.uint64), place.astype(np.uint64))
