"""The one place that makes metrics of an optimiser step: sums over micro-batches with the same masks for every method.

KL estimators are those of specs such as Schulman's "Approximating KL divergence": on samples of p, with u = log q - log p,
k1 = -u, k2 = u^2/2, k3 = e^u - u - 1 estimate KL(p || q).
"""

import math
from bisect import bisect_left
from collections import defaultdict

import torch
from torch import Tensor

from groupwise.models.routing import Routed, Tally
from groupwise.objective import levels
from groupwise.objective.batch import Batch
from groupwise.objective.objective import Loss, Seen
from groupwise.objective.terms import OLD, RECORDED, SELF, Live, Policy, ValueLoss

LENGTHS = (16, 64, 256, 1024, 4096, 16384)
"""Lengths in tokens by which sequences are sorted for their mismatch."""


class Meter:
    """Adds up what the micro-batches of one optimiser step saw; `result` gives the metrics."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.tops: dict[str, float] = defaultdict(float)
        self.routing: Tally | None = None

    @torch.no_grad()
    def add(self, loss: Loss, live: Live, batch: Batch) -> None:
        """Take in one micro-batch."""
        self.sums["loss"] += float(loss.value)
        self.sums["dropped_tokens"] += loss.dropped
        mask = batch.loss_mask & torch.isfinite(live.logp)
        self.sums["tokens"] += int(mask.sum())
        if live.entropy is not None:
            self.sums["entropy"] += float(live.entropy[mask].sum())
        self._kl("behaviour", (live.logp - loss.base)[mask & ((batch.behaviour == OLD) | (batch.behaviour == RECORDED))])
        if "ref_logp" in batch.columns:
            self._kl("reference", (batch.columns["ref_logp"] - live.logp)[mask])
        learner = torch.where(batch.behaviour == OLD, loss.base, live.logp)
        fresh = mask & ((batch.behaviour == SELF) | (batch.behaviour == OLD)) & torch.isfinite(batch.columns["engine_logp"])
        gap = (learner - batch.columns["engine_logp"])[fresh]
        self._mismatch(gap)
        self._mismatch_of_sequences(gap, batch.ids("token", "sequence")[fresh], batch.layout.size("sequence"))
        for seen in loss.seen:
            if len(loss.seen) > 1:
                self.sums[f"loss/{seen.term.name}"] += seen.value
            if isinstance(seen.term, ValueLoss):
                self._value(seen, live, batch)
            if isinstance(seen.term, Policy) and seen.term.name == "policy":
                self._policy(seen, batch, loss.correction)

    def route(self, seen: Routed) -> None:
        """Take in what the routers of a mixture of experts did."""
        own = seen.tally()
        self.routing = own if self.routing is None else self.routing + own

    def merge(self, other: "Meter") -> None:
        """Take in what another one saw of the same optimiser step."""
        for name, value in other.sums.items():
            self.sums[name] += value
        for name, value in other.tops.items():
            self.tops[name] = max(self.tops[name], value)
        if other.routing is not None:
            self.routing = other.routing if self.routing is None else self.routing + other.routing

    def _kl(self, pair: str, u: Tensor) -> None:
        """`u` is log q - log p on samples of p."""
        if not len(u):
            return
        u = u[torch.isfinite(u)].double()
        self.sums[f"kl_{pair}/n"] += len(u)
        self.sums[f"kl_{pair}/k1"] -= float(u.sum())
        self.sums[f"kl_{pair}/k2"] += float((0.5 * u * u).sum())
        self.sums[f"kl_{pair}/k3"] += float((torch.expm1(u) - u).sum())

    def _mismatch(self, gap: Tensor) -> None:
        """`gap` is the learner's log-prob minus the engine's, at the engine's weights."""
        size = gap.abs().double()
        self.sums["mismatch/n"] += len(gap)
        self.sums["mismatch/mean_abs"] += float(size.sum())
        self.sums["mismatch/over_2x"] += int((size > math.log(2.0)).sum())
        self.tops["mismatch/max_abs"] = max(self.tops["mismatch/max_abs"], float(size.max()) if len(gap) else 0.0)

    def _mismatch_of_sequences(self, gap: Tensor, of: Tensor, n: int) -> None:
        """The same of whole sequences: `of` names the sequence of each token, of which there are `n`."""
        lengths = levels.reduce(torch.ones_like(gap), of, n, "sum")
        lengths, size = lengths[lengths > 0], levels.reduce(gap, of, n, "sum").abs().double()[lengths > 0]
        self.sums["mismatch_sequence/n"] += len(size)
        self.sums["mismatch_sequence/sum"] += float(size.sum())
        self.sums["mismatch_sequence/rate"] += float((size / lengths).sum())
        self.tops["mismatch_sequence/max"] = max(self.tops["mismatch_sequence/max"], float(size.max()) if len(size) else 0.0)
        for length, one in zip(lengths.tolist(), size.tolist(), strict=True):
            limit = LENGTHS[bisect_left(LENGTHS, length)] if length <= LENGTHS[-1] else "more"
            self.sums[f"mismatch_to/{limit}/n"] += 1
            self.sums[f"mismatch_to/{limit}/sum"] += one

    def _policy(self, seen: Seen, batch: Batch, correction: Tensor) -> None:
        assert seen.ratio is not None
        assert seen.stopped is not None
        assert isinstance(seen.term, Policy)
        advantage, ratio = batch.column(seen.term.credit), seen.ratio[seen.mask].double()
        self.sums["policy/n"] += len(ratio)
        self.sums["ratio_mean"] += float(ratio.sum())
        self.sums["ratio_squared"] += float((ratio * ratio).sum())
        self.tops["ratio_max"] = max(self.tops["ratio_max"], float(ratio.max()) if len(ratio) else 0.0)
        self.sums["clip_high"] += int((seen.stopped & (advantage > 0)).sum())
        self.sums["clip_low"] += int((seen.stopped & (advantage < 0)).sum())
        self.sums["correction_mean"] += float(correction[seen.mask].sum())

    def _value(self, seen: Seen, live: Live, batch: Batch) -> None:
        """The critic before the update, against the returns that it should have foretold; `moved` are those outside the clip."""
        assert live.values is not None
        assert isinstance(seen.term, ValueLoss)
        returns, before, now = (x[seen.mask].double() for x in (batch.column("returns"), batch.columns["values"], live.values))
        error, sums = returns - before, self.sums
        for name, x in (("return", returns), ("return_squared", returns * returns), ("value", before), ("value_error", error),
                        ("value_error_squared", error * error)):
            sums[name] += float(x.sum())
        sums["value/n"] += len(returns)
        if seen.term.clip is not None:
            sums["value_moved"] += int(((now - before).abs() > seen.term.clip).sum())

    def result(self) -> dict[str, float]:
        """Means over tokens, sums and maxima; a metric without a single observation is left out."""
        s = self.sums
        out = {"loss": s["loss"], "dropped_tokens": s["dropped_tokens"], "tokens_trained": s["tokens"]}
        if s["tokens"]:
            out["entropy"] = s["entropy"] / s["tokens"]
        for pair in ("behaviour", "reference"):
            if n := s[f"kl_{pair}/n"]:
                out |= {f"kl_{pair}_{k}": s[f"kl_{pair}/{k}"] / n for k in ("k1", "k2", "k3")}
        out |= {name: value for name, value in s.items() if name.startswith("loss/")}
        if n := s["value/n"]:
            spread = s["return_squared"] / n - (s["return"] / n) ** 2
            left = s["value_error_squared"] / n - (s["value_error"] / n) ** 2
            out |= {"value_mean": s["value"] / n, "return_mean": s["return"] / n, "value_clipped": s["value_moved"] / n}
            if spread > 1e-12:  # nothing can be explained where all returns are the same
                out["explained_variance"] = 1.0 - left / spread
        if n := s["mismatch/n"]:
            out |= {"mismatch_mean": s["mismatch/mean_abs"] / n, "mismatch_max": self.tops["mismatch/max_abs"],
                    "mismatch_over_2x": s["mismatch/over_2x"] / n}
        if n := s["mismatch_sequence/n"]:
            out |= {f"mismatch_sequence{name}": s[f"mismatch_sequence/{of}"] / n for name, of in (("", "sum"), ("_rate", "rate"))}
            out["mismatch_sequence_max"] = self.tops["mismatch_sequence/max"]
            out |= {f"mismatch_to/{limit}": s[f"mismatch_to/{limit}/sum"] / s[f"mismatch_to/{limit}/n"]
                    for limit in (*LENGTHS, "more") if s.get(f"mismatch_to/{limit}/n")}
        if n := s["policy/n"]:
            out |= {"ratio_mean": s["ratio_mean"] / n, "ratio_max": self.tops["ratio_max"], "clip_high": s["clip_high"] / n,
                    "clip_low": s["clip_low"] / n, "correction_mean": s["correction_mean"] / n,
                    "ess": s["ratio_mean"] ** 2 / (n * s["ratio_squared"]) if s["ratio_squared"] else 0.0}
        return out | (self.routing.metrics() if self.routing is not None else {})
