"""The engine of a run that samples by vLLM: requests out, completions in, weights proved after every sync.

What is asked for stays here until it is answered, row by row. So a process that dies or hangs is started again, gets the weights,
proves them, and makes the rows that were still open; their random numbers are their own, and a row that comes twice counts once.
"""

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from groupwise.core.keyed import fold
from groupwise.core.rollout import Completion, VersionSpan
from groupwise.core.services import Request, Sampling
from groupwise.engines.native import Native
from groupwise.engines.stops import StopStrings
from groupwise.engines.vllm.kept import Kept, Ticket
from groupwise.engines.vllm.process import STARTING, Link, Lost
from groupwise.engines.vllm.proof import Disagreement, Proof, Prover, Score, same_settings
from groupwise.engines.vllm.settings import EngineSettings
from groupwise.engines.vllm.wire import Head
from groupwise.errors import EngineError
from groupwise.models import adapter
from groupwise.models.load import Policy, save

FIXED, FIXED_TOKENS = 8, 32
"""Sequences that stay the same over a run, and how long they are at most."""
COLDEST = 0.01
"""The lowest temperature that vLLM takes as it is."""


@dataclass(frozen=True)
class Opening:
    """What an engine is opened with: settings of vLLM, contexts to prove it on, the run's sampling, the learner's log-probs."""

    settings: Mapping[str, Any]
    contexts: Sequence[tuple[int, ...]]
    sampling: Sampling
    score: Score
    narrow: bool


class VLLM(Native):
    """As `Native`, by a vLLM process that `start` gives a connection to.

    `generate` is `submit` and `collect`; between the two `load` may give the rows in the making other weights, and a completion
    says of each token which it came from. `clocks` describes the last sync.
    """

    in_waves = False

    def __init__(self, policy: Policy, own: EngineSettings, opening: Opening, start: Callable[[], Link], *,
                 max_rows: int = 256) -> None:
        self._describe(policy, max_rows)
        self.own, self.opening = own, opening
        self.kept = Kept(start, self._begin, 0 if own.engine_inside else own.engine_restarts)
        self.dtype = getattr(torch, str(opening.settings["dtype"]))
        self.prover = Prover(opening.score, "bfloat16" if opening.narrow or self.dtype != torch.float32 else "float32",
                             int(opening.settings["length"]), own.engine_tolerance)
        self.context_limit = int(opening.settings["length"])
        self.home = tempfile.TemporaryDirectory(prefix="groupwise-vllm-")
        self.payload = b""
        self.fresh = True  # whether the model's folder, which a new process starts from, has the present weights
        self.in_place, self.facts = True, dict[str, Any]()
        try:
            self._save()
            self._proved("at the start")
        except BaseException:
            self.close()
            raise

    @property
    def note(self) -> str:
        """What a run says of it."""
        how = "taken over in place" if self.in_place else "read by a new engine, whose start they wait for,"
        return (f"vLLM {self.facts.get('vllm', '')} samples in {self.facts['dtype']}; new weights are {how} and proved; at the "
                f"start its log-probs are {self.clocks['sync_gap_mean']:.2g} nats from the learner's in the mean")

    # ---- sampling ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """For each request one completion per stream, in order. EngineError as of `Native`, and for what vLLM cannot do."""
        return self.collect(self.submit(requests))

    def submit(self, requests: Sequence[Request]) -> Ticket:
        """Ask for completions, without waiting for them."""
        for request in requests:
            self._check(request)
            _check_sampling(request.sampling)
        rows = [{"context": list(request.context.tokens), "seed": stream & (2**63 - 1), "sampling": self._told(request.sampling)}
                for request in requests for stream in request.streams]
        ticket = Ticket("generate", rows, requests)
        self.kept.surviving(lambda: self.kept.send(ticket, self.version))
        return ticket

    def collect(self, ticket: Ticket) -> list[list[Completion]]:
        """The completions of a ticket. EngineError: one lies too many versions behind, or the engine was lost too often."""
        began = time.perf_counter()
        self.kept.surviving(lambda: self.kept.until(ticket))
        places = iter(range(len(ticket.rows)))
        found = [[self._completion(ticket.made[next(places)], request) for _ in request.streams] for request in ticket.requests]
        every = [(request, one) for request, some in zip(ticket.requests, found, strict=True) for one in some]
        self.prover.remember([(request.context.tokens, one.tokens) for request, one in every])
        self.stats = {"tokens": float(sum(len(one.tokens) for _, one in every)), "seconds": time.perf_counter() - began,
                      "prefill_tokens": float(sum(len(r.context.tokens) for r in ticket.requests)), "steps": 0.0}
        return found

    def at_a_time(self, rows: int) -> int:
        """How many of so many completions have a cache at a time."""
        return min(rows, self.max_rows)

    def _told(self, sampling: Sampling) -> dict[str, Any]:
        return {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p, "min_p": sampling.min_p,
                "max_tokens": sampling.max_tokens, "stop": list(sampling.stop), "ends": list(self.policy.eos_ids)}

    def _completion(self, row: Head, request: Request) -> Completion:
        """A row as a completion; its end is looked for here too, by the rules of every other engine."""
        tokens, logp, finish = row["tokens"], row["logp"], row["finish"]
        cut = StopStrings(self.policy.tokenizer, request.sampling.stop).end(np.array(tokens), 0, len(tokens))
        end, ended = cut or len(tokens), bool(cut) or tokens[-1] in self.policy.eos_ids
        if finish not in ("stop", "length") or (finish == "stop" and not ended):
            raise EngineError(f"vLLM ended a completion of {len(tokens)} tokens with {finish!r}, and nothing that ends one is in "
                              f"it: its last tokens are {tokens[-5:]}")
        spans = tuple(VersionSpan(a, min(b, end), version) for a, b, version in row["versions"] if a < end)
        if spans and self.version - spans[0].version > self.own.engine_window:
            raise EngineError(f"a completion was begun with version {spans[0].version} of the weights and ended with the engine "
                              f"at {self.version}: more than engine_window={self.own.engine_window} versions behind. Raise "
                              "engine_window, or wait for completions before weights are loaded")
        return Completion(tuple(tokens[:end]), tuple(logp[:end]), "stop" if ended else "length", spans)

    # ---- weights -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], *, version: int) -> None:
        """Take over the weights, as `Native` does, give them to vLLM, and prove them. EngineError: they cannot be proved."""
        super().load(weights, version=version)
        began, self.fresh = time.perf_counter(), False
        self.prover.expect()
        scored = time.perf_counter()
        if self.in_place:
            merged = adapter.layers(self.policy.model)
            self.payload = payload(adapter.merged(self.policy.model) if merged else weights, self.dtype)
            self.kept.surviving(self._push)
        else:
            self._save()
            self.kept.drop()
        self.clocks = {}
        self._proved(f"after the sync to version {version}")
        self.clocks |= {"sync": time.perf_counter() - scored, "prove": scored - began,
                        "engine_restarts": float(self.kept.restarts)}

    def _push(self) -> None:
        assert self.kept.link is not None
        if not self.fresh:
            self.kept.reply(self.kept.link.ask("load", {"version": self.version}, self.payload))

    def _save(self) -> None:
        """Write the policy to the folder that a new process starts from."""
        folder = Path(self.home.name, "model")
        for file in folder.glob("*"):
            file.unlink()
        save(self.policy, folder, self.dtype)
        self.payload, self.fresh = b"", True

    def _proved(self, what: str) -> None:
        """Prove the weights."""
        proof = self.kept.surviving(lambda: self._compared(what))
        self.clocks |= {"sync_gap_mean": proof.mean, "sync_gap_max": proof.most}
        if not math.isnan(proof.missed):
            self.clocks["sync_missed"] = proof.missed

    def _compared(self, what: str) -> Proof:
        """The proof. Weights that were taken over in place and cannot be proved are given to a new process, in its folder, and so
        are all that follow; Disagreement: these cannot be proved either.
        """
        try:
            return self.prover.compare(self._scored(self.prover.texts), what)
        except Disagreement as error:
            if not self.payload:
                raise
            self.in_place, self.prover.start = False, None
            self._save()
            raise Lost(f"{error}. From now on it is started again for every new version of the weights") from None

    def _scored(self, texts: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[np.ndarray]:
        rows = [{"context": list(context), "score": list(tokens)} for context, tokens in texts]
        return [np.array(row["logp"], dtype=np.float64) for row in self._asked("score", rows)]

    # ---- the process -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """What a new process is told first: the model, the present weights, which it proves, and the rows that are still open."""
        link = self.kept.link
        assert link is not None
        self.facts = self.kept.reply(link.give(Path(self.home.name, "model"), self.opening.settings), STARTING)["facts"]
        self.in_place = self.in_place and self.facts["reload"] == "in_place"
        text = str(self.opening.settings["text"])
        wanted = {name: self.opening.settings[name] for name in ("dtype", "length")} | {
            "logprobs": "processed_logprobs", "tokens": self.policy.tokenizer.encode(text, add_special_tokens=False)}
        same_settings(wanted, self.facts)
        self._push()
        if not self.prover.fixed:
            self._first()
        else:
            self._compared("after a new start")
        for ticket in list(self.kept.tickets.values()):
            self.kept.send(ticket, self.version)

    def _first(self) -> None:
        """Have the fixed sequences sampled, and prove sampling and weights on them."""
        contexts = self.opening.contexts[:FIXED]
        plain = Sampling(min(FIXED_TOKENS, self.opening.sampling.max_tokens), self.opening.sampling.temperature)
        made = self._asked("generate", [{"context": list(context), "seed": fold("fixed", i) >> 1, "sampling": self._told(plain)}
                                        for i, context in enumerate(contexts)])
        texts = [(tuple(context), tuple(row["tokens"])) for context, row in zip(contexts, made, strict=True)]
        self.prover.drawn(texts, [np.array(row["logp"]) for row in made], plain.temperature)
        self.prover.fix(texts)
        self.prover.expect()

    def _asked(self, ask: str, rows: list[dict[str, Any]]) -> list[Head]:
        """The answers to rows, waited for."""
        ticket = Ticket(ask, rows)
        self.kept.send(ticket, self.version)
        self.kept.until(ticket)
        return [ticket.made[i] for i in range(len(rows))]

    def close(self) -> None:
        """End the process."""
        self.kept.close()
        self.home.cleanup()


def payload(weights: Mapping[str, Tensor], dtype: torch.dtype) -> bytes:
    """Weights as safetensors in the engine's format; of tensors that share storage the first only, as in a model's folder."""
    seen: dict[tuple[int, torch.Size], str] = {}
    for name, tensor in weights.items():
        seen.setdefault((tensor.data_ptr(), tensor.shape), name)
    cast = {name: weights[name].detach() for name in seen.values()}
    cast = {name: (t.to(dtype) if t.is_floating_point() else t).cpu().contiguous() for name, t in cast.items()}
    return safetensors.torch.save(cast)


def _check_sampling(sampling: Sampling) -> None:
    """EngineError: vLLM would sample from another distribution than is meant."""
    if 0.0 < sampling.temperature < COLDEST:
        raise EngineError(f"vLLM takes temperatures below {COLDEST:g} for {COLDEST:g}, got {sampling.temperature:g}: "
                          "take 0 (greedy)")
    if sampling.min_p > 0.0 and (sampling.top_k > 0 or sampling.top_p < 1.0):
        raise EngineError(f"vLLM applies min_p before top_k and top_p, every other engine after them; got {sampling}: take one")
