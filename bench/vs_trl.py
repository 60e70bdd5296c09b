"""groupwise against TRL on this machine, in turns: seconds of a step, generation and training, memory, time to an accuracy.

    python bench/vs_trl.py --json FILE            the embedded job: 2.4M parameters, 32 prompts x 8, 64 tokens; at most 15 minutes
    python bench/vs_trl.py -- --compute modules   words after `--` are settings of `groupwise train`
    python bench/vs_trl.py --full --json FILE     besides: 256 tokens, another architecture, an 8k vocabulary, three seeds

TRL runs in an environment of its own, made on first use (some minutes, not counted), at the best of three thread settings. Both
sides get the same base policy, prompts in the same order, sampling, batch and equation (Dr. GRPO, one AdamW step a batch), and
evaluate the same held-out prompts greedily; clocks stand still meanwhile. `ratio` is TRL / groupwise, larger is better:

    step              median seconds of a step, over the steps that both made (without the first)
    generation        median seconds of a generated token: the two do not sample the same tokens, so their numbers differ a little
    train             median seconds of forward, backward, clipping and optimiser; ours with packing and credit
    memory            peak resident memory, summed over all processes of a side (Linux)
    time_to_accuracy  seconds of training to the highest multiple of 5 % held-out accuracy that both reach, linear between
                      evaluations

`raw` holds everything that was measured, commands and machine included.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout is enough: nothing has to be installed

from transformers.utils.logging import disable_progress_bar  # noqa: E402
from versus import cases, figures  # noqa: E402
from versus.duel import Table, accuracy, probe, timing  # noqa: E402
from versus.environment import prepare  # noqa: E402
from versus.report import machine, write  # noqa: E402
from versus.setting import setting  # noqa: E402
from versus.sides import THREADS  # noqa: E402
from versus.watch import FailedError  # noqa: E402

from groupwise.errors import GroupwiseError  # noqa: E402

NAMES = ("step", "generation", "train", "memory", "time_to_accuracy")
SEEDS = (1, 2)
"""Besides that of the main setting."""
FOREVER = 1e9


def arguments(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command line: our own flags, and after `--` those of `groupwise train`."""
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write, anew after every stage")
    parser.add_argument("--env", type=Path, help="folder of TRL's environment (default: in the user's cache)")
    parser.add_argument("--full", action="store_true", help="all settings")
    parser.add_argument("--only", nargs="+", choices=["main", *cases.CASES, "seeds"], help="these settings alone")
    parser.add_argument("--steps", type=int, default=80, help="training steps of the main setting, at most (default 80)")
    parser.add_argument("--every", type=int, default=10, help="steps between evaluations (default 10)")
    parser.add_argument("--turns", type=int, default=3, help="runs of ours beside TRL's one (default 3)")
    parser.add_argument("--few", type=int, default=5, help="steps of a probe and of a setting that is only timed (default 5)")
    parser.add_argument("--minutes", type=float, default=14.0, help="time of the main setting, at most (default 14)")
    parser.add_argument("--threads", choices=list(THREADS), help="TRL's thread setting (default: the best of three)")
    return parser.parse_args(words[:cut]), words[cut + 1:]


def measure(table: Table, report: dict[str, Any], asked: argparse.Namespace, words: list[str]) -> None:
    """All stages that were asked for, each written when it is done."""
    began, raw = time.monotonic(), report["raw"]
    wanted = asked.only or ["main", *([*cases.CASES, "seeds"] if asked.full else [])]
    main = setting([*cases.MAIN, *words], max(asked.steps, asked.few))
    if asked.threads:
        table.threads = asked.threads
    else:
        probe(table, main, asked.few)
        write(report, asked.json, table.room)
    if "main" in wanted:
        raw["main"] = accuracy(table, main, steps=asked.steps, every=asked.every, turns=asked.turns,
                               until=began + 60 * asked.minutes)
        raw["main"]["minutes"] = (time.monotonic() - began) / 60
        report["ratio"] = {name: raw["main"]["ratio"].get(name) for name in NAMES}
        say("main", raw["main"])
        write(report, asked.json, table.room)
    for name in (one for one in cases.CASES if one in wanted):
        case = cases.CASES[name]
        found = setting([*case.words, "--model", str(cases.base(name, case)), *words], asked.few)
        raw.setdefault("cases", {})[name] = {"about": case.about} | timing(table, found, steps=asked.few)
        print(f"{name}: {json.dumps(figures.rounded(raw['cases'][name]['ratio'], 3))}", flush=True)
        write(report, asked.json, table.room)
    for seed in SEEDS if "seeds" in wanted else ():
        found = setting([*cases.MAIN, *words, "--seed", str(seed)], asked.steps)
        one = accuracy(table, found, steps=asked.steps, every=asked.every, turns=1, until=time.monotonic() + FOREVER)
        raw.setdefault("seeds", {})[str(seed)] = one
        raw["parity"] = figures.parity([some["accuracy"] for some in [*filter(None, [raw.get("main")]), *raw["seeds"].values()]])
        say(f"seed {seed}", one)
        write(report, asked.json, table.room)
    say("all seeds", {"ratio": {}, "accuracy": raw.get("parity", [])})


def say(name: str, found: dict[str, Any]) -> None:
    """Ratios and accuracies of a stage, for a reader."""
    if found["ratio"] or found["accuracy"]:
        print(f"{name}: {json.dumps(figures.rounded(found['ratio'], 3))}")
    for row in found["accuracy"]:
        sides = "   ".join(f"{side} {row[side]['value']:.1%} [{row[side]['low']:.1%}, {row[side]['high']:.1%}]"
                           for side in ("trl", "ours"))
        print(f"  held-out accuracy after step {row['step']:>3}: {sides}   p = {row['p']:.3f}", flush=True)


def main() -> int:
    """Measure, print, write; what was measured before a failure is kept."""
    asked, words = arguments(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended too
    disable_progress_bar()
    report: dict[str, Any] = {"ratio": dict.fromkeys(NAMES), "raw": {"command": ["python", "bench/vs_trl.py", *sys.argv[1:]],
                                                                    "machine": machine()}}
    with tempfile.TemporaryDirectory(prefix="vs-trl-") as folder:
        room = Path(folder)
        try:
            measure(Table(room, prepare(asked.env), raw=report["raw"]), report, asked, words)
        except BaseException as error:
            report["raw"]["failed"] = f"{type(error).__name__}: {error}"
            if not isinstance(error, FailedError | GroupwiseError | ValueError):
                raise
            print(f"error: {error}", file=sys.stderr)
            return 1
        finally:
            write(report, asked.json, room)
    print(json.dumps({"ratio": figures.rounded(report["ratio"], 4)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
