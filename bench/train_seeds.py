"""The default job over several seeds: held-out accuracy before and after, with intervals, and the time it took.

    python bench/train_seeds.py --seeds 0 1 2 --json bench/results/train-seeds.json

Words after `--` go to `groupwise train`. Runs one after the other.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def run(seed: int, words: list[str], folder: Path) -> dict[str, Any]:
    """One run in a folder; its summary, with the wall time of the whole command."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "groupwise", "train", "--seed", str(seed), "--run", f"seed-{seed}", *words]
    subprocess.run(command, cwd=folder, check=True)
    wall = time.perf_counter() - began
    summary = json.loads((folder / "runs" / f"seed-{seed}" / "summary.json").read_text())
    return {"seed": seed, "method": summary["method"], "task": summary["task"], "steps": summary["steps"], **summary["accuracy"],
            "tokens": summary["tokens"], "seconds_of_steps": round(summary["seconds"], 1), "seconds": round(wall, 1)}


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    args, words = parser.parse_known_args()
    words = [word for word in words if word != "--"]
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).resolve().parent.parent))
    with tempfile.TemporaryDirectory() as folder:
        rows = [run(seed, words, Path(folder)) for seed in args.seeds]
    rises = [row["after"]["value"] - row["before"]["value"] for row in rows]
    report = {"command": " ".join(["python bench/train_seeds.py --seeds", *map(str, args.seeds), *words]),
              "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, Python {platform.python_version()}",
              "rows": rows, "rise": {"least": min(rises), "mean": sum(rises) / len(rises)}}
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
