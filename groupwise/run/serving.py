"""The engine that is a process of its own, for a run: where it is found, how it is opened, what the learner says to prove it."""

import importlib
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from groupwise.core.rollout import Completion, Context, Episode, Group, Prompt, Rollout, Turn
from groupwise.core.services import Sampling
from groupwise.core.verdict import UNJUDGED
from groupwise.engines.vllm import process
from groupwise.engines.vllm.client import VLLM, Opening
from groupwise.engines.vllm.proof import Score, Text
from groupwise.errors import ConfigError
from groupwise.learner.learner import Learner
from groupwise.models.load import context_limit
from groupwise.objective.batch import pack
from groupwise.run.machine import MAX_THREADS, cores, most_rows
from groupwise.run.settings import Run

ADDRESS = "address"
UNLIMITED = 32768
"""Positions of an engine whose model names no limit, at most."""
TRIED = 3
"""Prompts whose text both tokenizers are tried on."""


def python_of(run: Run) -> str:
    """What has vLLM: a Python of this machine, or "address" for another one's; empty: the native engine samples. ConfigError."""
    if run.engine == "native":
        return ""
    if run.serving.engine_inside and run.learner.parallel == "fsdp2":
        raise ConfigError("engine_inside and parallel=fsdp2: vLLM and the ranks would each make the one process group that a "
                          "process can have; leave engine_inside off")
    return ADDRESS if run.serving.engine_address else process.python_of(run.serving)


def vllm_of(run: Run, learner: Learner, python: str, prompts: Sequence[tuple[int, ...]], others: Sequence[tuple[int, ...]],
            context: int, more: Mapping[str, object] | None = None) -> VLLM:
    """A vLLM engine on the learner's weights, proved. It holds the longest of the prompts and what is sampled behind it, or
    `context` positions. `more` are settings of `inside.Core` that only tests and benchmarks have a use for.
    """
    own, policy = run.serving, learner.policy
    longest, limit = max(map(len, (*prompts, *others))), context_limit(policy.model.config) or UNLIMITED
    dtype = own.engine_dtype if own.engine_dtype != "auto" else "bfloat16" if run.learner.dtype == "bfloat16" else "float32"
    memory = own.engine_memory or (1.0 if run.learner.device == "cpu" else 0.0)
    settings = {"dtype": dtype, "length": min(limit, context or longest + run.sampling.max_tokens + 1), "rows": most_rows(run),
                "memory": memory, "stops": bool(run.sampling.stop), **(more or {}),
                "text": "\n".join(policy.tokenizer.decode(ids) for ids in prompts[:TRIED])}
    sampling = Sampling(run.sampling.max_tokens, run.sampling.temperature, stop=run.sampling.stop)
    opening = Opening(settings, prompts, sampling, score_of(learner), narrow=run.learner.dtype == "bfloat16")
    return VLLM(policy, own, opening, start_of(run, python), max_rows=most_rows(run))


def start_of(run: Run, python: str) -> Callable[[], process.Link]:
    """What gives a connection to a new process."""
    own, plain = run.serving, run.learner.device == "cpu"
    if python == ADDRESS:
        return lambda: process.Remote(own.engine_address, own.engine_deadline)
    if own.engine_inside:
        os.environ.update(process.told(plain))  # vLLM reads it when it is imported
        serve = importlib.import_module("groupwise.engines.vllm.inside").serve
        return lambda: process.Inside(serve, own.engine_deadline)
    threads = own.engine_threads or min(cores(), MAX_THREADS)
    return lambda: process.Local(python, threads, own.engine_deadline, plain)


def score_of(learner: Learner) -> Score:
    """The learner's log-probs of texts, as a training step would take them."""
    def score(texts: Sequence[Text], temperature: float) -> list[np.ndarray]:
        batch = pack([_group(texts)], default="old", device=str(learner.device))
        logp = learner.logp_at(batch, temperature).double().cpu().numpy()
        return np.split(logp, np.cumsum([len(tokens) for _, tokens in texts])[:-1])
    return score


def _group(texts: Sequence[Text]) -> Group:
    """The texts as rollouts of nothing in particular."""
    prompt = Prompt("proof", "", None)
    turns = [Turn(Context(context), Completion(tokens, (0.0,) * len(tokens))) for context, tokens in texts]
    return Group("proof", prompt, tuple(Rollout(Episode(prompt, (turn,)), UNJUDGED) for turn in turns))


