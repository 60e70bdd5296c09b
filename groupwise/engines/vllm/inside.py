"""vLLM itself: what the process in vLLM's environment runs (`python ... DESCRIPTOR`), or a thread of the run where its own Python
has vLLM. The only file that imports it.

vLLM's in-place reload keeps two things that belong to the old weights, and says nothing (0.32, processors):

- tied embeddings: the head goes on with its prepacked copy of the old embedding; it is packed again here;
- mixtures of experts: the experts' weights are packed twice, into another order; `facts["reload"]` is "restart" for them.

Prefixes cached under other weights are never read again: their key has the version in it.
"""

import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import vllm
from safetensors.torch import load
from tokenizers import Tokenizer
from vllm import SamplingParams
from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
from vllm.engine.arg_utils import EngineArgs
from vllm.inputs import TokensPrompt
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine

from groupwise.engines.vllm.server import Server

WHOLE = 8192
"""Tokens of a step. On a processor prompts are read whole: of one that is read in parts vLLM takes a draw back from the row's
random numbers, which the generators of processors cannot do (0.32)."""


def repack_tied_head(worker: Any) -> None:
    """Pack the head of tied embeddings again, from the embedding as it is now."""
    model = worker.model_runner.get_model()
    head, embedding = (next((m for name, m in model.named_modules() if name.rpartition(".")[2] == which), None)
                       for which in ("lm_head", "embed_tokens"))
    if head is not None and embedding is not None and getattr(head, "weight", None) is embedding.weight:
        dispatch_cpu_unquantized_gemm(head, remove_weight=False)


def reloads(worker: Any) -> str:
    """Whether weights can be taken over "in_place", or only with a new process ("restart")."""
    modules = [type(m).__mro__ for m in worker.model_runner.get_model().modules()]
    experts = any("MoE" in base.__name__ for bases in modules for base in bases)
    return "restart" if experts and current_platform.is_cpu() else "in_place"


class Core:
    """An engine on the model of a folder (`server.Making`). `settings`: dtype, length, rows, memory (GiB, 0: vLLM's choice),
    stops (whether stop strings will be asked for), text (to be tokenised, as a check); for tests, repack (False: leave vLLM's
    fault in) and reload ("in_place": where it does not work too).
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        more: dict[str, Any] = {"kv_cache_memory_bytes": int(settings["memory"] * 2**30)} if settings["memory"] else {}
        if current_platform.is_cpu():
            more |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(WHOLE, settings["length"])}
        self.engine = LLMEngine.from_engine_args(EngineArgs(
            model=str(folder), dtype=settings["dtype"], max_model_len=settings["length"], max_num_seqs=settings["rows"],
            enforce_eager=current_platform.is_cpu(), distributed_executor_backend="uni", enable_prefix_caching=True,
            logprobs_mode="processed_logprobs", skip_tokenizer_init=not settings["stops"], disable_log_stats=True,
            generation_config="vllm", async_scheduling=False, trust_remote_code=False, use_tqdm_on_load=False, **more))
        self.repack = bool(settings.get("repack", True)) and current_platform.is_cpu()
        self.spoken: dict[str, int] = {}
        model = self.engine.vllm_config.model_config
        self.facts = {"vllm": vllm.__version__, "reload": settings.get("reload") or self.engine.collective_rpc(reloads)[0],
                      "dtype": str(model.dtype).removeprefix("torch."), "length": model.max_model_len,
                      "vocabulary": model.get_vocab_size(), "logprobs": model.logprobs_mode,
                      "tokens": _tokens(folder, settings.get("text", ""))}
        self.version = 0
        self.engine.set_weight_version("0")

    def add(self, key: str, row: Mapping[str, Any], version: int) -> None:
        """Begin a row: `context`, with `sampling` and `seed`, or with the tokens to `score` behind it.

        Nothing can be under way when the version changes here: it is a name that the run gives to the weights as they are.
        """
        if version != self.version:
            self._named(version)
        tokens = [*row["context"], *row.get("score", ())]
        given = _scoring() if "score" in row else _sampling(row["sampling"], row["seed"])
        self.engine.add_request(key, TokensPrompt(prompt_token_ids=tokens, cache_salt=str(version)), given)
        if "score" in row:
            self.spoken[key] = len(row["context"])

    def step(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """One more token for every row; those that have ended: tokens, logp, finish, versions; or the logp of what was scored."""
        for out in self.engine.step():
            if not out.finished:
                continue
            key = out.request_id
            if key in self.spoken:
                start, ids = self.spoken.pop(key), out.prompt_token_ids
                yield key, {"logp": [out.prompt_logprobs[t][ids[t]].logprob for t in range(start, len(ids))]}
                continue
            made = out.outputs[0]
            tokens = list(made.token_ids)
            spans = [[span.start, span.end, int(span.version)] for span in made.weight_versions or ()]
            yield key, {"tokens": tokens, "logp": [place[t].logprob for place, t in zip(made.logprobs, tokens, strict=True)],
                        "finish": made.finish_reason, "versions": spans}

    def load(self, weights: bytearray, version: int) -> None:
        """Take weights (safetensors) over in place; rows in the making go on with them, on the keys and values they have."""
        tensors = load(bytes(weights))
        self.engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(tensors.items())})
        if self.repack:
            self.engine.collective_rpc(repack_tied_head)
        self._named(version)

    def _named(self, version: int) -> None:
        self.version = version
        self.engine.set_weight_version(str(version))
        if not self.engine.has_unfinished_requests():
            self.engine.reset_prefix_cache()


def _sampling(own: Mapping[str, Any], seed: int) -> SamplingParams:
    """Only the ends that the run names end a row: `ignore_eos` keeps vLLM from adding the model's own."""
    return SamplingParams(
        temperature=own["temperature"], top_k=own["top_k"], top_p=own["top_p"], min_p=own["min_p"], seed=seed,
        max_tokens=own["max_tokens"], ignore_eos=True, stop_token_ids=own["ends"], stop=own["stop"] or None,
        include_stop_str_in_output=True, skip_special_tokens=False, detokenize=bool(own["stop"]), logprobs=0,
        output_kind=RequestOutputKind.FINAL_ONLY)


def _scoring() -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False,
                          output_kind=RequestOutputKind.FINAL_ONLY)


def _tokens(folder: Path, text: str) -> list[int] | None:
    """The text as the model's tokenizer splits it here; None where it has no file of the kind that can be read alone."""
    file = folder / "tokenizer.json"
    return list(Tokenizer.from_file(str(file)).encode(text, add_special_tokens=False).ids) if file.is_file() else None


def serve(end: socket.socket) -> None:
    """Serve a connection until its other end is closed."""
    torch.set_grad_enabled(False)  # of this thread
    with end, tempfile.TemporaryDirectory() as folder:
        Server(end, Core, Path(folder)).serve()
    cleanup_dist_env_and_memory()  # a process that goes on can open another engine


def main() -> None:
    """Serve the connection of the descriptor."""
    serve(socket.socket(fileno=int(sys.argv[-1])))
