"""Products of linear layers: PyTorch's own against oneDNN's, one thread, forward and both gradients.

    python bench/linear.py --json bench/results/linear.json

What `groupwise/models/linear.py` does on processors of AMD, measured on whatever processor this is. Medians, in turns.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout is enough: nothing has to be installed

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from versus.report import machine  # noqa: E402

from groupwise.models import linear  # noqa: E402


def seconds(layer: nn.Linear, x: Tensor, slope: Tensor) -> float:
    """Forward and backward once."""
    began = time.perf_counter()
    layer(x).backward(slope)
    return time.perf_counter() - began


def measure(rows: int, wide: int, out: int, turns: int) -> dict[str, float]:
    """GFLOP/s of both on x [rows, wide], and their ratio."""
    plain, quick = nn.Linear(wide, out, bias=False), nn.Linear(wide, out, bias=False)
    linear.speed_up(quick)
    x, slope = torch.randn(rows, wide, requires_grad=True), torch.randn(rows, out)
    times: dict[str, list[float]] = {"plain": [], "onednn": []}
    for _ in range(turns + 2):  # the first two make what is kept
        times["plain"].append(seconds(plain, x, slope))
        times["onednn"].append(seconds(quick, x, slope))
    speed = {name: 6e-9 * rows * wide * out / statistics.median(some[2:]) for name, some in times.items()}
    return {"rows": rows, "in": wide, "out": out, **speed, "ratio": speed["onednn"] / speed["plain"]}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    points = [measure(rows, wide, out, args.turns) for rows in args.rows for wide, out in ((256, 512), (512, 256))]
    report = {"machine": machine(), "used_here": linear.pays(), "gflops": points}
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
