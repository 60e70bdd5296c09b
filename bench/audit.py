"""What `groupwise audit` says of every shipped method, and of parts put together here, for docs/audit.md.

    python bench/audit.py --json bench/results/audit.json --page docs/audit.md        about two minutes on two cores
    python bench/audit.py --page docs/audit.md                                        the page from the results alone
    python bench/audit.py --check                                                     exit code 1 if the page is not theirs

The functions here are methods: `groupwise audit bench/audit.py:length_only` takes them too.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from groupwise.objective.aggregate import Aggregate, SequenceMean, SequenceSum  # noqa: E402
from groupwise.objective.baselines import GroupMean, LeaveOneOut  # noqa: E402
from groupwise.objective.credit import Advantage  # noqa: E402
from groupwise.objective.objective import Objective  # noqa: E402
from groupwise.objective.ratio import Ratio, SequenceRatio, TokenRatio  # noqa: E402
from groupwise.objective.terms import Policy  # noqa: E402
from groupwise.objective.trust import Clip, DetachClip, LogProb, Trust, Unclipped  # noqa: E402

RESULTS, PAGE = ROOT / "bench" / "results" / "audit.json", ROOT / "docs" / "audit.md"
HERE = "bench/audit.py:"
OFF = "off-policy=0,0.02,0.1,0.5"


def length_only() -> Objective:
    """GRPO without the std: what is left is the mean over each answer's tokens."""
    return Objective(Advantage(baseline=GroupMean()), (Policy(trust=Clip(), aggregate=SequenceMean()),))


def _rloo(ratio: Ratio, trust: Trust, aggregate: Aggregate | None = None) -> Objective:
    term = Policy(ratio=ratio, trust=trust, aggregate=aggregate or SequenceSum())
    return Objective(Advantage(baseline=LeaveOneOut()), (term,))


def no_ratio() -> Objective:
    """RLOO: off policy, nothing makes up for it."""
    return _rloo(TokenRatio(), LogProb())


def product_ratio() -> Objective:
    """RLOO, each answer times its likelihood ratio: importance sampling. The mean over its tokens counts it once."""
    return _rloo(SequenceRatio(mean=False), Unclipped(), SequenceMean())


def token_ratio() -> Objective:
    """RLOO, each token times its own ratio."""
    return _rloo(TokenRatio(), Unclipped())


def sequence_ratio() -> Objective:
    """RLOO with GSPO's ratio: the answer's, to the power of one over its length."""
    return _rloo(SequenceRatio(), Unclipped())


def token_clip() -> Objective:
    """Token ratios, clipped at 0.2."""
    return _rloo(TokenRatio(), Clip(0.2, 0.2))


def dual_clip() -> Objective:
    """Token ratios, clipped at 0.2, and at 1.5 where the advantage is negative (3 in the papers, which nothing here reaches)."""
    return _rloo(TokenRatio(), Clip(0.2, 0.2, 1.5))


def cispo_clip() -> Objective:
    """CISPO's rule at 0.2: the ratio is clipped, the gradient goes on."""
    return _rloo(TokenRatio(), DetachClip(0.2))


def sequence_clip() -> Objective:
    """GSPO's ratio, clipped at 0.2 as token ratios are."""
    return _rloo(SequenceRatio(), Clip(0.2, 0.2))


def gspo_clip() -> Objective:
    """GSPO's ratio with GSPO's clip, 3e-4 and 4e-4."""
    return _rloo(SequenceRatio(), Clip(3e-4, 4e-4))


PARTS = tuple(HERE + f.__name__ for f in (no_ratio, product_ratio, token_ratio, sequence_ratio, token_clip, dual_clip, cispo_clip,
                                          sequence_clip, gspo_clip))
SECTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...], dict[str, Any]]] = {
    "methods": ((), (), {}),
    "causes": (("dr_grpo", HERE + "length_only", "luspo", "grpo"), (), {}),
    "difficulty": (("dr_grpo", "luspo", "max_rl", "reinforce_pp_baseline", "dapo"), (), {"success": (0.1, 0.5, 0.9)}),
    "groups": (("rloo", "dr_grpo", "luspo", "grpo", "opo"), ("group-size=2,4,8,16",), {}),
    "success": (("rloo", "luspo", "grpo"), ("success=0.05,0.2,0.5,0.8,0.95",), {}),
    "off_policy": (PARTS, (OFF,), {"seed": 1}),
    "transformer": (("rloo", "dr_grpo", "luspo", "grpo"), (), {"policy": "transformer"}),
}
"""Of each section of the page the methods, the sweep, and the settings."""


def measure(sections: Sequence[str]) -> dict[str, Any]:
    """These sections."""
    import torch

    from groupwise.lab import audit as lab

    torch.set_num_threads(1)
    out: dict[str, Any] = {}
    for name in sections:
        methods, sweep, settings = SECTIONS[name]
        given = lab.Settings(**settings)
        out[name] = lab.as_json(given, list(lab.audit(methods, given, lab.sweeps(sweep), 0)))
        print(f"{name}: {len(out[name]['methods'])} rows", file=sys.stderr)
    return out


Row = Mapping[str, Any]
COLUMNS: dict[str, Callable[[Row], Any]] = {
    "bias": lambda r: r["bias"]["relative"], "cosine": lambda r: r["bias"]["cosine"], "scale": lambda r: r["bias"]["scale"],
    "variance": lambda r: r["variance"], "mse": lambda r: r["mse"],
    "wrong": lambda r: r["length"]["wrong"], "right": lambda r: r["length"]["right"],
    "dropped right": lambda r: r["dropped"]["right"], "dropped wrong": lambda r: r["dropped"]["wrong"]}
SHOWN = {"off_policy": ("bias", "cosine", "variance", "mse", "dropped right", "dropped wrong"),
         "success": ("bias", "cosine", "scale", "variance")}
USUAL = ("bias", "cosine", "variance", "mse")


def table(name: str, found: Mapping[str, Any]) -> list[str]:
    """A section's rows."""
    rows, swept = found["methods"], sorted({key for row in found["methods"] for key in row["at"]})
    prompts = [p["prompt"] for p in rows[0]["prompts"]] if name not in SHOWN else []
    shown = SHOWN.get(name, USUAL)
    ends = ["wrong", "right"] if name not in SHOWN else []
    heads = ["method", *swept, *shown, *prompts, *ends, "how"]
    out = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 2) + " --- |"]
    for row in rows:
        cells = [f"`{row['method'].removeprefix(HERE)}`", *(f"{row['at'][key]:g}" for key in swept),
                 *(number(COLUMNS[c](row)) for c in shown), *(number(p["weight"]) for p in row["prompts"] if prompts),
                 *(number(COLUMNS[c](row)) for c in ends),
                 f"{row['steps']} steps" if row["exact"] else f"drawn, ± {number(row['error'])}"]
        out.append("| " + " | ".join(cells) + " |")
    return out


def number(value: float | None) -> str:
    """Three decimals; a dash for what there is not."""
    return "-" if value is None else f"{round(value, 3) + 0.0:.3f}"


def filled(text: str, found: Mapping[str, Any]) -> str:
    """The page with its tables, each between two marks of its name."""
    for name in SECTIONS:
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, rest = text.split(begin)
        text = before + begin + "\n" + "\n".join(table(name, found[name])) + "\n" + end + rest.split(end)[1]
    return text


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write, or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default="")
    parser.add_argument("--only", nargs="+", default=[], choices=tuple(SECTIONS), help="keep the other sections of the results")
    parser.add_argument("--page", default="")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args(words)
    if given.json:
        kept = json.loads(Path(given.json).read_text()) if given.only else {}
        Path(given.json).write_text(json.dumps(kept | measure(given.only or tuple(SECTIONS)), indent=1) + "\n")
    found = json.loads(Path(given.json or RESULTS).read_text())
    if given.check:
        return int(filled(PAGE.read_text(), found) != PAGE.read_text())
    if given.page:
        Path(given.page).write_text(filled(Path(given.page).read_text(), found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
