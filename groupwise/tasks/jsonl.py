"""Tasks from JSONL files, and GSM8K.

A line is an object with `problem` (or `question`, or `prompt`) and `answer`. Optional: `id`; `split` ("train", or one of
`HELDOUT`); `meta`, an object. All columns but these reach reward functions, and the entries of `meta` with them.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupwise.core.rollout import Prompt
from groupwise.errors import ConfigError, DataError
from groupwise.tasks.task import Task, check, normalised, prompt

TEXTS = ("problem", "question", "prompt")
"""The fields that may hold a problem's text; the first that is there counts."""
HELDOUT = ("test", "heldout", "eval", "validation", "dev")
"""The values of a `split` column that hold a line out of training."""
FOLDER = "GROUPWISE_DATA"
"""The environment variable that names the folder of data files."""


@dataclass(frozen=True)
class Row:
    """One line of a file; `where` names both in messages."""

    where: str
    fields: dict[str, Any]

    @property
    def name(self) -> str | None:
        """The row's own id."""
        own = self.fields.get("id")
        return None if own is None else str(own)


def load(path: str, verifier: str = "math", template: str = "none", max_tokens: int = 512, test: str | None = None,
         overlap: str = "refuse", name: str | None = None) -> Task:
    """The task of a file. Held out are: the file `test`, else the `_test` file beside it, else the lines whose `split` says so,
    else the last tenth (at most 500).

    `overlap="drop"` takes training prompts that are also held out away (counted in `dropped`) instead of raising `DataError`.
    """
    if overlap not in ("refuse", "drop"):
        raise ConfigError(f"overlap must be 'refuse' or 'drop', got {overlap!r}")
    title = name or Path(path).stem
    train, heldout = ([_prompt(title, row) for row in part] for part in heldout_of(path, rows(path), test))
    apart = {normalised(p.text) for p in heldout} if overlap == "drop" else set()
    kept = [p for p in train if normalised(p.text) not in apart]
    return check(Task(name=title, train=kept, heldout=heldout, verifier=verifier, template=template, max_tokens=max_tokens,
                      dropped=len(train) - len(kept)))


def gsm8k(path: str | None = None, verifier: str = "numeric", template: str = "none", max_tokens: int = 512) -> Task:
    """GSM8K (Cobbe et al. 2021): grade-school word problems with numbers as answers.

    `path` is the training file, with its test file beside it, or their folder; by default the folder that GROUPWISE_DATA names,
    with gsm8k_train.jsonl and gsm8k_test.jsonl in it.
    """
    where = path or os.environ.get(FOLDER, "")
    candidates = [Path(where), *(Path(where) / file for file in ("gsm8k_train.jsonl", "train.jsonl"))] if where else []
    found = next((file for file in candidates if file.is_file()), None)
    if found is None:
        looked = ", ".join(map(str, candidates)) or "nothing: no path was given"
        raise DataError(f"task 'gsm8k' has no data (looked for {looked}); take train.jsonl and test.jsonl from "
                        "github.com/openai/grade-school-math, folder grade_school_math/data, and give path=train.jsonl, or put "
                        f"them as gsm8k_train.jsonl and gsm8k_test.jsonl into a folder that {FOLDER} names")
    return load(str(found), verifier=verifier, template=template, max_tokens=max_tokens, name="gsm8k")


def rows(path: str) -> list[Row]:
    """The lines of a file, empty ones left out; `DataError` names the file and the line that cannot be read."""
    file = Path(path)
    if not file.is_file():
        raise DataError(f"data file {path!r} does not exist (looked from {Path.cwd()})")
    found = []
    for n, line in enumerate(file.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {n}"
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not a line of JSON ({error})") from error
        if not isinstance(fields, dict):
            raise DataError(f"{where}: expected an object with a problem and an answer, got {type(fields).__name__}")
        found.append(Row(where, fields))
    return found


def heldout_of(path: str, found: Sequence[Row], test: str | None = None) -> tuple[list[Row], list[Row]]:
    """Training rows and held-out rows; rows whose `split` holds them out are never trained on."""
    apart = [row for row in found if _held_out(row)]
    train = [row for row in found if not _held_out(row)]
    other = Path(test) if test is not None else _test_file(Path(path))
    if test is not None or other.is_file():
        return train, rows(str(other))
    if apart:
        return train, apart
    tail = min(500, max(1, len(train) // 10)) if train else 0
    return train[:len(train) - tail], train[len(train) - tail:]


def _held_out(row: Row) -> bool:
    split = row.fields.get("split", "train")
    if split != "train" and split not in HELDOUT:
        raise DataError(f"{row.where}: split {split!r} is unknown; use 'train' or one of {', '.join(HELDOUT)}")
    return split != "train"


def _test_file(path: Path) -> Path:
    """train.jsonl -> test.jsonl, x_train.jsonl -> x_test.jsonl, x.jsonl -> x_test.jsonl."""
    stem = path.stem
    other = "test" if stem == "train" else f"{stem.removesuffix('_train')}_test"
    return path.with_name(other + path.suffix)


def _prompt(task: str, row: Row) -> Prompt:
    fields = row.fields
    field = next((f for f in TEXTS if isinstance(fields.get(f), str) and fields[f].strip()), None)
    if field is None:
        raise DataError(f"{row.where}: no problem; one of the fields {', '.join(TEXTS)} must hold a text")
    answer, extra = fields.get("answer"), fields.get("meta", {})
    if answer is None or answer in ("", []):
        raise DataError(f"{row.where}: no answer; the field 'answer' must hold one")
    if not isinstance(extra, dict):
        raise DataError(f"{row.where}: 'meta' must be an object, got {type(extra).__name__}")
    meta = {k: v for k, v in fields.items() if k not in (field, "answer", "meta")} | extra
    if isinstance(answer, str) and "####" in answer:
        solution, _, answer = answer.rpartition("####")
        meta.setdefault("solution", solution.strip())
        answer = answer.strip().replace(",", "")
        if not answer:
            raise DataError(f"{row.where}: no answer behind '####'")
    return prompt(task, fields[field], answer, name=row.name, meta=meta)
