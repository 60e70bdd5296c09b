"""Worked traces from a JSONL or Parquet file: problems with somebody's solutions, for a supervised warm start.

A line is an object with a problem (as in `groupwise.tasks.jsonl`) and a completion, the first there of `COMPLETIONS`; or with
`messages`, a conversation that ends with an assistant's turn, which is then the completion.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from groupwise.core.keyed import generator
from groupwise.errors import ConfigError, DataError
from groupwise.tasks.columns import conversation
from groupwise.tasks.data import rows
from groupwise.tasks.jsonl import HELDOUT, TEXTS, Row

COMPLETIONS = ("completion", "response", "solution")
Message = dict[str, str]


@dataclass(frozen=True)
class Trace:
    """One line: what was asked (a text, or the messages before the last turn) and what was answered; `where` names it."""

    where: str
    asked: str | tuple[Message, ...]
    completion: str
    heldout: bool = False


def read(path: str, column: str = "") -> list[Trace]:
    """The traces of a file; `column` is the field of the completion (empty: the first of `COMPLETIONS`, or `messages`).

    DataError names the file and the line that has no problem or no completion.
    """
    found = [_trace(row, column) for row in rows(path)]
    if not found:
        raise DataError(f"{path} has no lines: a warm start needs traces to learn from")
    return found


def held_out(traces: Sequence[Trace], share: float, seed: int) -> tuple[list[Trace], list[Trace]]:
    """Traces to learn from and traces apart: those whose `split` says so, else this share of them (at least one) by the seed."""
    if not 0.0 <= share < 1.0:
        raise ConfigError(f"heldout is the share of the traces that is not learnt from, in [0, 1), got {share}")
    apart = {i for i, trace in enumerate(traces) if trace.heldout}
    if not apart and share and len(traces) > 1:
        order = generator(seed, "heldout traces").permutation(len(traces))
        apart = set(order[:max(1, round(share * len(traces)))].tolist())
    return [t for i, t in enumerate(traces) if i not in apart], [traces[i] for i in sorted(apart)]


def _trace(row: Row, column: str) -> Trace:
    fields = row.fields
    heldout = fields.get("split") in HELDOUT
    if column == "messages" or (not column and "messages" in fields):
        turns = fields.get("messages")
        asked, completion = conversation(row.where, "messages", turns if isinstance(turns, list) and turns else [turns])
        if not completion:
            raise DataError(f"{row.where}: 'messages' must end with a turn of role 'assistant', which is learnt; got the roles "
                            f"{[m['role'] for m in asked]}")
        return Trace(row.where, asked[0]["content"] if len(asked) == 1 else asked, completion, heldout)
    names = (column,) if column else COMPLETIONS
    completion = next((fields[f] for f in names if isinstance(fields.get(f), str) and fields[f].strip()), "")
    problem = next((fields[f] for f in TEXTS if f != column and isinstance(fields.get(f), str) and fields[f].strip()), "")
    if not problem:
        raise DataError(f"{row.where}: no problem; one of the fields {', '.join(TEXTS)} must hold a text")
    if not completion:
        raise DataError(f"{row.where}: no completion; one of the fields {', '.join(names)} must hold a text (it has "
                        f"{', '.join(fields)}); name another one with --column")
    return Trace(row.where, problem, completion, heldout)

