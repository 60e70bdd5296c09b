"""Cases of docs/errors.md that are answered before any work: settings, data, models."""

import json
from collections.abc import Callable
from pathlib import Path

from errors_support import TRAIN, Case
from safetensors.torch import load_file, save_file

GOOD = "".join(json.dumps({"question": f"{n}+1=", "answer": str(n + 1)}) + "\n" for n in range(30))
DATA = 'model = "model"\ntask = "train.jsonl"\ntask_args = {verifier = "exact"}\nsampling = {max_tokens = 8}\n'
BRIEF = "def brief(completion, answer):\n    return 1.0\n"
WEIGHTS, NORM = "model/model.safetensors", "model.norm.weight"


def toml(what: str, text: str | bytes) -> Case:
    """A settings file."""
    return Case(what, "train --config own.toml", files={"own.toml": text})


def flag(what: str, words: str, **more: object) -> Case:
    """Words of the command line."""
    return Case(what, f"{TRAIN} {words}", **more)


def data(what: str, text: str | bytes | None, words: str = "") -> Case:
    """A data file."""
    files = {"own.toml": DATA} | ({} if text is None else {"train.jsonl": text})
    return Case(what, f"train --config own.toml {words}", files=files)


def model(what: str, harm: Callable[[], object], words: str = "") -> Case:
    """A model folder, harmed."""
    return Case(what, f"{TRAIN} {words}", make=harm)


def reward(what: str, code: str, words: str = "--rewards mine.py:brief") -> Case:
    """A file of rewards."""
    return Case(what, f"{TRAIN} {words}", files={"mine.py": code})


def rewritten(change: Callable[[dict], object]) -> Callable[[], object]:
    """The model's weights with a change."""
    def harm() -> None:
        tensors = load_file(WEIGHTS)
        change(tensors)
        save_file(tensors, WEIGHTS, metadata={"format": "pt"})
    return harm


def few_tokens() -> None:
    """A model of fewer tokens than its tokenizer."""
    config = json.loads(Path("model/config.json").read_text())
    Path("model/config.json").write_text(json.dumps(config | {"vocab_size": 5}))
    rewritten(lambda t: t.update({k: v[:5].clone() for k, v in t.items() if "embed" in k or "lm_head" in k}))()


def half(path: str) -> Callable[[], object]:
    """The first half of a file."""
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[:-len(Path(path).read_bytes()) // 2])


SETTINGS = [
    Case("a mistyped command", "trian"),
    flag("an unknown setting", "--stepz 3"),
    flag("a word that is no setting", "fast"),
    flag("a text where a number belongs", "--steps many"),
    flag("a setting without its value", "--steps"),
    flag("a choice that is none", "--schedule cosin"),
    flag("a number out of its range", "--steps 0"),
    flag("not a number", "--lr nan"),
    flag("arguments not written as key=value", "--method-args clip_high"),
    flag("a run name that is no folder's name", "--run a/b"),
    flag("greedy sampling in training", "--temperature 0"),
    flag("a device that is none", "--device gpu"),
    flag("ranks, and a learner in one process", "--ranks 3"),
    flag("shards, and processes that hold whole weights", "--parallel fsdp2 --workers 2"),
    flag("a report that cannot be written", "--json model/config.json/report.json"),
    Case("a settings file that is not there", "train --config own.toml"),
    toml("a settings file that is not TOML", "steps = \n"),
    toml("a settings file that is not UTF-8", 'system = "café"\n'.encode("latin-1")),
    toml("an unknown key in it", "[learner]\ngradclip = 0.5\n"),
    toml("an unknown table in it", "[learnr]\nlr = 1e-5\n"),
    toml("a wrong type in it", 'steps = "many"\n'),
    toml("a choice in it that is none", '[learner]\nschedule = "cosin"\n'),
    flag("an unknown method", "--method grop"),
    flag("a method of your own that is not there", "--method mine:method"),
    flag("an unknown argument of the method", "--method-args clip_hihg=0.3"),
    flag("an argument of the method of a wrong type", "--method-args clip_high=wide"),
    flag("an unknown task", "--task redcue"),
    flag("an unknown argument of the task", "--task-args kmim=2"),
    flag("an unknown template", "--template qwen-math"),
    flag("a template without a place for the problem", "--template 'Solve this.'"),
    flag("a template file that is not there", "--template mine.txt"),
]

ARITHMETIC = [
    flag("more optimiser steps than groups in a batch", "--updates-per-batch 9"),
    flag("a group of one, where the baseline is its siblings", "--group-size 1"),
    flag("several optimiser steps, and a method without a ratio", "--method rloo --updates-per-batch 2"),
    flag("no room for a prompt in the model's context", "--max-tokens 512"),
    flag("a prompt longer than there is room", "--max-prompt-tokens 3"),
]

FILES = [
    data("data that are not there", None),
    data("an empty file", "\n\n"),
    data("one row, of which none is left to train on", GOOD.splitlines()[0]),
    data("a line cut off", GOOD + '{"question": "1+'),
    data("a line that is no object", GOOD + "[1, 2]\n"),
    data("a line that is not UTF-8", GOOD.encode() + '{"question": "é", "answer": "4"}\n'.encode("latin-1")),
    data("half a character", GOOD + '{"question": "\\ud800", "answer": "4"}\n'),
    data("a line without an answer", GOOD + '{"question": "2+2="}\n'),
    data("a line without a problem", GOOD + '{"quest": "2+2=", "answer": "4"}\n'),
    data("a split of an unknown name", GOOD + '{"question": "2+2=", "answer": "4", "split": "tets"}\n'),
    data("training problems that are held out too", GOOD.splitlines()[0] + "\n" + GOOD + GOOD.splitlines()[0] + "\n"),
    data("a character that the tokenizer does not know", '{"question": "水+1=", "answer": "4"}\n' + GOOD),
    data("an unknown verifier", GOOD, "--task-args verifier=exakt"),
]

MODELS = [
    model("a folder that is not there", lambda: None, "--model ./nowhere"),
    model("a file instead of a folder", lambda: None, f"--model {WEIGHTS}"),
    model("no config.json", lambda: Path("model/config.json").unlink()),
    model("a JSON file cut off", half("model/config.json")),
    model("no weights", lambda: Path(WEIGHTS).unlink()),
    model("weights cut off", half(WEIGHTS)),
    model("a parameter is missing", rewritten(lambda t: t.pop(NORM))),
    model("a parameter of another shape", rewritten(lambda t: t.update({NORM: t[NORM][:3].clone()}))),
    model("NaN in the weights", rewritten(lambda t: t[NORM].__setitem__(3, float("nan")))),
    model("no tokenizer", lambda: Path("model/tokenizer.json").unlink()),
    model("a tokenizer of more tokens than the model", few_tokens),
    model("a chat template asked for, and none there", lambda: None, "--template chat"),
    toml("no model, and none that comes with the task", 'task = "arithmetic"\n'),
]

REWARDS = [
    flag("an unknown reward", "--rewards boxd"),
    flag("a file that is not there", "--rewards mine.py:brief"),
    reward("a function that is not in it", BRIEF, "--rewards mine.py:breif"),
    reward("a file that is not Python", "def brief(completion, answer)\n    return 1.0\n"),
    reward("a file that imports what is not installed", "import nowhere_installed\n" + BRIEF),
    reward("a function of other arguments", "def brief():\n    return 1.0\n"),
    flag("a weight of no reward", "--reward-weights corect=1"),
    flag("a weight that is no number", "--reward-weights correct=much"),
]
