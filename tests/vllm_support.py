"""A stand-in for vLLM that speaks its protocol: the real server loop in a thread, over the native engine; and faults."""

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load as read
from torch import nn

from groupwise.core.rollout import Context
from groupwise.core.services import Request, Sampling
from groupwise.engines.native import Native
from groupwise.engines.vllm.client import VLLM, Opening
from groupwise.engines.vllm.process import Inside
from groupwise.engines.vllm.server import Server
from groupwise.engines.vllm.settings import EngineSettings
from groupwise.models.load import load


@dataclass
class Faults:
    """What goes wrong: the steps, counted over all processes, at which one dies or hangs; what `load` does to weights."""

    dies: set[int] = field(default_factory=set)
    hangs: set[int] = field(default_factory=set)
    reload: str = "in_place"
    load: str = "right"
    folder: str = "right"
    twice: bool = False
    steps: int = 0
    starts: int = 0
    loads: int = 0


class Stub:
    """`server.Making` by the native engine: one row a step."""

    def __init__(self, folder, settings, faults):
        self.policy, self.faults = load(folder), faults
        if faults.folder == "wrong":
            spoil(self.policy.model)
        self.engine, self.queue, self.version = Native(self.policy), [], 0
        self.facts = {"reload": faults.reload, "dtype": settings["dtype"], "length": settings["length"],
                      "logprobs": "processed_logprobs", "tokens": self.policy.tokenizer.encode(settings["text"])}

    def add(self, key, row, version):
        self.version = self.engine.version = version
        self.queue.append((key, row))

    def step(self):
        self.faults.steps += 1
        if self.faults.steps in self.faults.dies:
            raise ConnectionAbortedError
        if self.faults.steps in self.faults.hangs:
            time.sleep(1.6)
        key, row = self.queue.pop(0)
        context = tuple(row["context"])
        if "score" in row:
            return [(key, {"logp": scored(self.policy.model, context, row["score"])})]
        own = row["sampling"]
        sampling = Sampling(own["max_tokens"], own["temperature"], stop=tuple(own["stop"]))
        ((made,),) = self.engine.generate([Request(Context(context), (row["seed"],), sampling)])
        spans = [[s.start, s.end, s.version] for s in made.versions]
        return [(key, {"tokens": list(made.tokens), "logp": list(made.logp), "finish": made.finish, "versions": spans})]

    def load(self, weights, version):
        self.faults.loads += 1
        model, tensors = self.policy.model, read(bytes(weights))
        if self.faults.load == "stale head":  # the embedding is new and the head is not, as with vLLM's tied weights
            old = model.lm_head.weight.detach().clone()
            model.lm_head = nn.Linear(*old.shape[::-1], bias=False)
            model.lm_head.weight = nn.Parameter(old)
            self.engine = Native(self.policy)
        model.load_state_dict(tensors, strict=False)
        if self.faults.load == "shuffled":  # right in sum and wrong in order, as with vLLM's experts
            spoil(model)
        self.engine.version = version


@torch.no_grad()
def spoil(model):
    """Turn the order of some weights around."""
    weight = model.model.layers[0].mlp.down_proj.weight
    weight.copy_(weight.flip(0))


@torch.no_grad()
def scored(model, context, tokens):
    """Log-probs at temperature 1."""
    logits = model(torch.tensor([[*context, *tokens]])).logits[0, len(context) - 1:-1].double()
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(tokens, dtype=torch.long)[:, None])[:, 0].tolist()


class Thread(Inside):
    """A connection to a stand-in, which ends with it."""

    who = "the stand-in"

    def __init__(self, faults, deadline):
        faults.starts += 1

        class Loop(Server):
            def _stepped(self):
                try:
                    again = faults.twice and list(self.open.items())
                    going = super()._stepped()
                    if again:  # every answer comes twice
                        self._say({"id": again[0][1][0], "kind": "rows", "last": False, "rows": []})
                    return going
                except OSError:
                    return False

        def serve(theirs):
            with theirs, tempfile.TemporaryDirectory() as folder:
                loop = Loop(theirs, lambda place, settings: Stub(place, settings, faults), Path(folder))
                plain = loop.__class__.__mro__[1]._say

                def say(head):
                    if head.get("fatal"):  # a process that dies says nothing
                        raise OSError
                    plain(loop, head)
                loop._say = say
                loop.serve()

        super().__init__(serve, deadline)


def scorer(policy):
    """The learner's side of a proof, by the policy's own forward."""
    def score(texts, temperature):
        out = []
        for context, tokens in texts:
            with torch.no_grad():
                logits = policy.model(torch.tensor([[*context, *tokens]])).logits[0, len(context) - 1:-1].double() / temperature
            logp = torch.log_softmax(logits, -1).gather(-1, torch.tensor(tokens, dtype=torch.long)[:, None])
            out.append(logp[:, 0].numpy())
        return out
    return score


CONTEXTS = [(5, 6, 7), (8, 9), (4, 4, 4, 4)]


def client(policy, faults, *, sampling=None, **own):
    """An engine on a stand-in."""
    settings = {"dtype": "float32", "length": 24, "rows": 8, "memory": 1.0, "stops": False, "text": "12+3"}
    opening = Opening(settings, CONTEXTS, sampling or Sampling(8), scorer(policy), narrow=False)
    own = EngineSettings(**{"engine_deadline": 1.0} | own)
    return VLLM(policy, own, opening, lambda: Thread(faults, own.engine_deadline))


def requests(n=4, samples=2, **sampling):
    """Some requests."""
    return [Request(Context((5 + i, 6, 7)), tuple(1000 * i + s for s in range(samples)), Sampling(**{"max_tokens": 8} | sampling))
            for i in range(n)]
