"""A failing example as a small table: one line per token that the check looked at, with both gradients."""

import textwrap
from collections.abc import Mapping
from typing import Any

import torch

from groupwise.lab.samples import LIVE, Row, Sample
from groupwise.lab.trials import Found, Subject, weighed


def example_of(subject: Subject, sample: Sample, found: Found) -> dict[str, Any]:
    """The batch and the two gradients as JSON values."""
    names, needs = list(sample.names), subject.method.needs | subject.objective.needs
    columns = ["logp"] + ["old_logp"] * (sample.default == "old") + ["ref_logp"] * ("ref" in needs)
    columns += ["old_values"] * ("values" in needs) + ["engine_logp"] * subject.objective.correction.active
    facts = _facts(subject, sample)
    rows = []
    for g, group in enumerate(sample.groups):
        for r, row in enumerate(group):
            for place, (token, said) in enumerate(_tokens(row)):
                line = {"group": g, "rollout": r, "reward": " ".join(f"{x:g}" for x in row.rewards), "token": place, "is": said}
                line |= {name: float(sample.table[name][token]) for name in columns} | facts.get(token, {})
                rows.append(line | _slopes(found, token))
    return {"labels": list(found.labels), "reward_components": names, "behaviour": sample.default, "rows": rows,
            "error": found.error}


def _tokens(row: Row) -> list[tuple[int, str]]:
    """The ids of a row's tokens and what they are."""
    out = []
    for p, part in enumerate(row.parts):
        for i, token in enumerate(part.tokens):
            trained = i < len(part.tokens) - part.off
            said = "trained" if trained and not row.masked else "masked" if trained else "untrained"
            marks = [f"turn {p}"] * (len(row.parts) > 1) + ["own sequence"] * (part.cut and i == 0)
            marks += ["unknown"] * (part.behaviour == "unknown")
            out.append((token, ", ".join([said, *marks])))
        last = p == len(row.parts) - 1
        out += [] if last else [(token, "environment") for token in part.gap]
    return out


def _facts(subject: Subject, sample: Sample) -> dict[int, dict[str, float]]:
    """Advantage and the first term's weight of each token, where the objective has them."""
    try:
        batch = weighed(subject, sample)
        out = {"A": batch.column("advantage")} if "advantage" in batch.credit else {}
        weight = batch.weights[subject.objective.terms[0].name]
        out["w"] = weight.values[torch.from_numpy(batch.layout.ids("token", weight.unit))]
        return {int(t): {name: float(x[i]) for name, x in out.items()} for i, t in enumerate(batch.tokens.tolist())}
    except Exception:  # the example of what cannot be computed: a user's part may raise anything
        return {}


def _slopes(found: Found, token: int) -> dict[str, float]:
    """Both gradients at a token, by the log-prob and whatever else differs."""
    out = {}
    for label, side in zip(found.labels, (found.before, found.after), strict=True):
        if side is None or not label:
            continue
        for j in range(side.shape[1]):
            if j == 0 or bool((side[:, j] != 0).any()):
                out[label + (f" by {LIVE[j]}" if j else "")] = float(side[token, j])
    return out


def text_of(message: str, example: Mapping[str, Any] | None) -> str:
    """The message and the table, for a terminal."""
    lines = textwrap.wrap(message, 112)
    if not example or not example["rows"]:
        return "\n".join(lines)
    names = list(dict.fromkeys(name for row in example["rows"] for name in row))
    cells = [names] + [[_cell(row.get(name, "")) for name in names] for row in example["rows"]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(names))]
    lines += ["", *("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
