"""Who computes: compiled kernels or the model's own modules, and the engine that samples with them in this process."""

import copy
from functools import partial

from groupwise.engines.compiled import Kernels
from groupwise.engines.graphs import Graphs
from groupwise.engines.native import Native
from groupwise.engines.whole import Whole, uncached
from groupwise.errors import ConfigError
from groupwise.kernels.build import Library, find
from groupwise.kernels.library import Compiled, unsupported
from groupwise.learner.compiled import KernelScorer
from groupwise.learner.learner import Learner
from groupwise.learner.settings import Compile
from groupwise.methods.method import Method
from groupwise.models.head import Trunk
from groupwise.models.load import Policy
from groupwise.run.learner_settings import LearnerSettings
from groupwise.run.machine import MOST_ROWS, most_rows
from groupwise.run.ranks import Ranks
from groupwise.run.settings import Run
from groupwise.run.workers import Split, Workers
from groupwise.sampling.intervention import Intervention


def by_modules(own: LearnerSettings) -> str:
    """Why the settings leave no choice but the model's own modules; empty if they do."""
    asked = {"parallel=fsdp2": own.parallel == "fsdp2", "adapters": own.lora_rank, "checkpointing": own.checkpointing,
             "head_float32": own.head_float32}
    return next((f"{name} asked for, which the model's own modules do" for name, given in asked.items() if given), "")


def kernels_of(wanted: str, policy: Policy, device: str) -> Library | str:
    """The compiled kernels to run a policy with, or why none are used. ConfigError: they are `wanted` and cannot be."""
    if wanted == "modules":
        return "compute=modules"
    found: Library | str = "they are for processors" if device != "cpu" else unsupported(policy.model) or find()
    if isinstance(found, str) and wanted == "kernels":
        raise ConfigError(f"compute=kernels was asked for, but cannot be: {found}; take compute=auto or modules")
    return found


def compiler(library: Library | str, threads: int, dtype: str) -> Compile | None:
    """What puts a model into the kernels, with these threads and this number format (auto: the fast one); None without any."""
    if isinstance(library, str):
        return None
    narrow = library.kind.narrow if dtype == "auto" else dtype == "bfloat16"
    return partial(Compiled, library=library, threads=threads, narrow=narrow)


def engine_of(policy: Policy, compiled: Compiled | None = None, workers: Workers | Ranks | None = None) -> Native:
    """The engine that samples from a policy: by kernels if it is in them, with other processes if there are any, on a GPU by
    captured steps; a model that these cannot cache is run whole for every token.
    """
    if compiled is not None:
        return Kernels(policy, compiled, max_rows=MOST_ROWS)
    trunk = Trunk(policy.model, head_float32=policy.head_float32)
    if reason := uncached(policy, trunk):
        return Whole(policy, reason, max_rows=MOST_ROWS, trunk=trunk)
    if isinstance(workers, Workers) and workers.size > 1:
        return Split(policy, workers, max_rows=MOST_ROWS)
    on_gpu = next(policy.model.parameters()).is_cuda
    return (Graphs if on_gpu else Native)(policy, max_rows=MOST_ROWS, trunk=trunk)


def native_of(run: Run, learner: Learner, workers: Workers | Ranks | None) -> Native:
    """The engine of a run in this process; where it samples ahead of the learner it has weights of its own."""
    policy, compiled = learner.policy, learner.scorer.compiled if isinstance(learner.scorer, KernelScorer) else None
    if run.max_staleness:
        policy = copy.deepcopy(policy)
        compiled = compiled and Compiled(policy.model, compiled.library, threads=compiled.threads, narrow=compiled.narrow)
    engine = engine_of(policy, compiled, workers)
    engine.max_rows = most_rows(run)
    return engine


def check_ahead(run: Run, method: Method) -> None:
    """ConfigError: what cannot be sampled ahead of the learner."""
    asked = f"max_staleness={run.max_staleness}"
    if run.learner.workers > 1:
        raise ConfigError(f"{asked} and workers={run.learner.workers}: sampling ahead takes the place of sharing one model among "
                          "processes; take workers=1")
    if run.engine == "native" and run.learner.device != "cpu":
        raise ConfigError(f"{asked} on {run.learner.device}: the engine in this process would take turns with the learner on one "
                          "device, and nothing would overlap; leave it at 0")
    if run.learner.quantise != "none":
        raise ConfigError(f"{asked} and quantise={run.learner.quantise}: the engine needs a copy of the weights, which quantised "
                          "ones do not allow; leave one of them off")
    if any(type(one).after_score is not Intervention.after_score for one in method.intervene):
        raise ConfigError(f"{asked} and the method {run.method!r}: its intervention may ask the learner for log-probs while that "
                          "is at work on another batch; leave it at 0")
