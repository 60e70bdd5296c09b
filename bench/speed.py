"""Fills the generated sections of docs/speed.md, and the one of README.md on speed, from the JSON in bench/results.

    python bench/speed.py             writes them
    python bench/speed.py --check     exit code 1 if they are out of date

A section whose results are not there is left empty.
"""

import argparse
import json
import sys
from typing import Any

from readme import README, RESULTS, ROOT, filled, row
from versus.figures import parity

PAGE = ROOT / "docs" / "speed.md"
NAMES = {"step": "step", "generation": "generation", "train": "training", "memory": "memory",
         "time_to_accuracy": "time to accuracy"}
ABOUT = {"short": "the same, timed alone", "long": "256 tokens", "llama": "Llama", "bpe": "8k byte-pair vocabulary"}
VARIANTS = {"skipping": "", "whole": ", groups without advantage not skipped"}


def times(value: float | None) -> str:
    """A ratio in words; a dash if there is none."""
    return "-" if value is None else f"{value:.1f}x"


def way(compute: str) -> str:
    """What computed, for a reader: `avx512bf16-bf16-2` is kernels of a kind, in a number format, with so many threads."""
    kind, _, rest = compute.partition("-")
    return f"kernels, {kind}, {rest.partition('-')[0]}" if rest else compute


def load(name: str) -> dict[str, Any] | None:
    """A results file, if it is there."""
    file = RESULTS / name
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def reports() -> list[dict[str, Any]]:
    """All comparisons with TRL."""
    return [found for file in sorted(RESULTS.glob("vs-trl*.json")) if (found := load(file.name)) is not None]


def line(name: str, ratio: dict[str, float | None]) -> str:
    """One setting's ratios."""
    return row([name, *(times(ratio.get(key)) for key in NAMES)])


def against(found: dict[str, Any]) -> list[str]:
    """The lines of one comparison."""
    lines, raw = [], found["raw"]
    main = raw.get("main")
    if main:
        lines.append(line(f"embedded job, 64 tokens ({way(main['compute'])})", found["ratio"]))
    for name, case in raw.get("cases", {}).items():
        for variant, said in VARIANTS.items():
            lines.append(line(f"{ABOUT[name]}{said} ({way(case[variant]['compute'])})", case["ratio"][variant]))
    return lines


def speed_table() -> str:
    """TRL / ours, one line for each setting, under the commands."""
    found = reports()
    if not found:
        return ""
    machine = found[0]["raw"]["machine"]
    commands = ["    " + " ".join(f'"{word}"' if " " in word else word for word in one["raw"]["command"]) for one in found]
    lines = [row(["TRL / ours", *NAMES.values()]), row(["---", *["---:"] * len(NAMES)])]
    lines += [text for one in found for text in against(one)]
    about = (f"TRL {machine['trl']} in fp32 at the best of three thread settings, on {machine['cores']} cores "
             f"({machine['instructions']}), torch {machine['torch']}; larger is better.")
    return "\n".join([*commands, "", about, "", *lines])


def parity_table() -> str:
    """Held-out accuracy of both at the same steps: all seeds that got so far, and their difference."""
    seeds: dict[str, list[dict[str, Any]]] = {}
    for found in reports():
        raw = found["raw"]
        if raw.get("main") and not raw["main"]["compute"].startswith("modules"):
            seeds["0"] = raw["main"]["accuracy"]
        seeds |= {seed: some["accuracy"] for seed, some in raw.get("seeds", {}).items()}
    if not seeds:
        return ""
    n = next(iter(seeds.values()))[0]["trl"]["n"]
    lines = [f"Held-out accuracy at the same step, in % of {n} problems (mean difference: ours less TRL's; p of a test that the "
             "pooled problems are answered differently):", "",
             row(["step", "seeds", "TRL", "ours", "mean difference", "p"]), row(["---:"] * 6)]
    for step in sorted({one["step"] for some in seeds.values() for one in some}):
        there = {seed: one for seed, some in sorted(seeds.items()) for one in some if one["step"] == step}
        (pooled,) = parity([[one] for one in there.values()])
        sides = [" ".join(f"{100 * one[side]['value']:.1f}" for one in there.values()) for side in ("trl", "ours")]
        lines.append(row([str(step), " ".join(there), *sides, f"{100 * pooled['difference']:+.1f}", f"{pooled['p']:.2f}"]))
    return "\n".join(lines)


def step_table() -> str:
    """Where a step's time goes, and the shares of the processor's peak."""
    found = load("step.json")
    if found is None:
        return ""
    whole, shares = found["seconds"]["step"], found["share_of_peak"]
    lines = [f"Medians of a step of the embedded job with kernels ({found['kind']}, {found['threads']} threads): "
             f"{found['tokens_sampled']:,.0f} tokens sampled, {found['tokens_trained']:,.0f} trained.", "",
             row(["part", "ms", "share"]), row(["---", "---:", "---:"])]
    lines += [row([name, f"{1e3 * seconds:.1f}", f"{seconds / whole:.0%}"]) for name, seconds in found["seconds"].items()
              if name != "collect"]
    lines += ["", f"The kernels' own product reaches {found['peak_flops'] / 1e9:,.0f} GFLOP/s on this machine; the matrices of "
              f"the model, as a share of that: {shares['sampling']:.0%} in sampling, {shares['training']:.0%} in training."]
    return "\n".join(lines)


def scaling_table() -> str:
    """How steep each sweep is between its last two points."""
    found = load("scaling.json")
    if found is None:
        return ""
    lines = ["Growth between the last two points of each sweep (1: linear):", "",
             row(["sweep", "sampling", "gradient step", "memory"]), row(["---", "---:", "---:", "---:"])]
    lines += [row([name, *(f"{slopes[what]:.2f}" for what in ("generate", "train", "memory_mb"))])
              for name, slopes in found["slopes"].items()]
    return "\n".join(lines)


def brief() -> str:
    """The README's lines."""
    found = reports()
    if not found:
        return ""
    lines = [row(["TRL / ours", *NAMES.values()]), row(["---", *["---:"] * len(NAMES)])]
    lines += [line(way(one["raw"]["main"]["compute"]), one["ratio"]) for one in found if one["raw"].get("main")]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description="Fill docs/speed.md and the README's section on speed.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if they are out of date")
    check = parser.parse_args(argv).check
    stale = False
    sections = {PAGE: {"speed": "\n\n".join(filter(None, [speed_table(), parity_table()])), "step": step_table(),
                       "scaling": scaling_table()}, README: {"speed": brief()}}
    for path, parts in sections.items():
        old = new = path.read_text(encoding="utf-8")
        for section, content in parts.items():
            new = filled(new, section, content)
        stale |= new != old
        if not check:
            path.write_text(new, encoding="utf-8")
    if check and stale:
        print("docs/speed.md or README.md is out of date: run `python bench/speed.py`", file=sys.stderr)
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main())
