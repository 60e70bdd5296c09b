"""The settings of the comparison, and the base policies that some of them need: made once by `groupwise warmup`, then kept."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from groupwise.models.build import random_policy
from groupwise.models.load import policy_of, save
from groupwise.run.assemble import base_of
from groupwise.run.settings import Run
from groupwise.tasks.reduce import demonstrations
from versus.environment import cache
from versus.sides import ROOT
from versus.watch import Watched, environment

DEADLINE = 3600.0
WORDS = 8192
MAIN = ("--max-tokens", "64")
"""Words of `groupwise train` for the setting without flags: its defaults, spelled out."""


@dataclass(frozen=True)
class Case:
    """A setting beside the main one: words of `groupwise train`, and words of `groupwise warmup` for its base policy.

    `start` makes the folder that the warm-up goes on from.
    """

    about: str
    words: tuple[str, ...] = MAIN
    warmup: tuple[str, ...] = ()
    start: Callable[[], Path] | None = None


def shipped() -> Path:
    """The policy in the package."""
    return Path(base_of(Run()))


def texts(seed: int = 0) -> Iterator[str]:
    """What the 8k-token vocabulary is learnt from: texts of the task, then numbers and words that it never uses."""
    yield from ("".join(pair) for pair in islice(demonstrations(seed), 20_000))
    random = Random(seed)
    for _ in range(40_000):
        word = "".join(random.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(random.randint(2, 6)))
        yield f"{random.randrange(10_000)} {word}"


def bpe_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer of exactly `WORDS` tokens; numbers and words are merged, signs stand alone."""
    backend = Tokenizer(models.BPE(unk_token="<pad>", fuse_unk=False))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("[0-9]+|[a-z]+|[^0-9a-z]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.train_from_iterator(texts(), trainers.BpeTrainer(vocab_size=WORDS, special_tokens=["<pad>", "<bos>", "<eos>"],
                                                            show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
                                        padding_side="left", clean_up_tokenization_spaces=False)
    if len(tokenizer) != WORDS:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens instead of {WORDS}: too few texts")
    return tokenizer


def random_bpe() -> Path:
    """A random Qwen2 of the usual size with that tokenizer."""
    folder, tokenizer = cache() / "bench-bases" / "bpe-random", bpe_tokenizer()
    shutil.rmtree(folder, ignore_errors=True)
    save(policy_of(random_policy(tokenizer), tokenizer), folder)
    return folder


CASES = {
    "short": Case("64 tokens, the policy of the main setting"),
    "long": Case("256 tokens, chains of 10 to 15 terms",
                 words=("--max-tokens", "256", "--task-args", "kmin=10", "kmax=15"),
                 warmup=("--task-args", "kmin=6", "kmax=15", "--steps", "250", "--lr", "8e-4", "--tokens", "4096"),
                 start=shipped),
    "llama": Case("64 tokens, Llama of the same size", warmup=("--family", "llama")),
    "bpe": Case(f"64 tokens, a byte-pair vocabulary of {WORDS}", start=random_bpe),
}


def base(name: str, case: Case) -> Path:
    """The base policy of a case; made if it is not kept already, by the path that the machine takes. FailedError if it fails."""
    if not case.warmup and case.start is None:
        return shipped()
    key = hashlib.sha256(json.dumps([name, case.warmup, WORDS]).encode()).hexdigest()[:8]
    folder = cache() / "bench-bases" / f"{name}-{key}"
    if (folder / "warmup.json").is_file():
        return folder
    print(f"making the base policy of {name} in {folder} (once)", flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    build = folder.with_name(f".{folder.name}")
    for left in (build, folder):
        shutil.rmtree(left, ignore_errors=True)
    start = ("--start", str(case.start())) if case.start else ()
    command = [sys.executable, "-m", "groupwise", "warmup", "--out", str(build), *case.warmup, *start]
    with Watched(command, log=folder.with_suffix(".log"), deadline=DEADLINE, cwd=folder.parent,
                 env=environment(PYTHONPATH=str(ROOT))) as run:
        run.wait()
    os.replace(build, folder)
    return folder
