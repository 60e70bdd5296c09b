"""The regression gate behind `make bench`: a short run against ratios kept from an earlier one on the same kind of machine.

    python bench/gate.py              measure, compare with bench/baseline.json; exit code 1 if a ratio fell
    python bench/gate.py --update     measure and keep the ratios as the new baseline of this kind of machine
    python bench/gate.py --trl        compare with TRL too, in the environment of bench/vs_trl.py

Only ratios are kept: how many times faster (and smaller) than plain transformers on one thread our paths are, measured in turns
in one sitting. A ratio that fell is measured once more before it counts. A kind of machine is its instructions and its cores; one
that the baseline does not know passes, with a note.
"""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout is enough: nothing has to be installed

from transformers.utils.logging import disable_progress_bar  # noqa: E402
from versus import figures  # noqa: E402
from versus.cases import MAIN  # noqa: E402
from versus.environment import prepare  # noqa: E402
from versus.report import instructions, machine  # noqa: E402
from versus.setting import Setting, setting  # noqa: E402
from versus.sides import Trl, ours  # noqa: E402
from versus.watch import FailedError, Watched, environment  # noqa: E402

from groupwise.kernels.build import find  # noqa: E402
from groupwise.run.machine import cores  # noqa: E402

BASELINE = Path(__file__).with_name("baseline.json")
MARGIN = 0.75
"""A ratio may fall to this share of what it was."""
STEPS, FEW, TURNS = 8, 3, 2
DEADLINE = 600.0

Ratios = dict[str, dict[str, float]]


def plain(found: Setting, room: Path) -> dict[str, Any]:
    """A few steps in plain transformers (`versus/plain.py`)."""
    job, out = room / "plain.job.json", room / "plain.result.json"
    job.write_text(json.dumps(found.job(steps=FEW)))
    command = [sys.executable, str(ROOT / "bench" / "versus" / "plain.py"), str(job), str(out)]
    with Watched(command, log=room / "plain.log", deadline=DEADLINE, cwd=room, env=environment(OMP_NUM_THREADS="1")) as run:
        run.wait()
        return json.loads(out.read_text()) | run.report()


def trl(found: Setting, room: Path) -> dict[str, Any]:
    """A few steps of TRL, with threads that do not spin."""
    with Trl(prepare(), found, room, threads="all cores, passive", deadline=DEADLINE, steps=FEW, eval_every=0) as run:
        run.paused()
        return run.result()


def measure(room: Path, with_trl: bool) -> Ratios:
    """Every yardstick against every path of ours, in turns: seconds of a token in generation and training, and memory."""
    found = setting(MAIN, STEPS)
    paths = ["modules"] if isinstance(find(), str) else ["kernels", "modules"]
    yards = {"plain": plain} | ({"trl": trl} if with_trl else {})
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in [*yards, *paths]}
    for _ in range(TURNS):
        for name, yard in yards.items():
            runs[name].append(yard(found, room))
        for path in paths:
            runs[path].append(ours(found, room, steps=STEPS, every=0, deadline=DEADLINE, more=["--compute", path]))
    return {f"{yard} / {path}": compared(runs[yard], runs[path]) for yard in yards for path in paths}


def compared(theirs: list[dict[str, Any]], own: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of a generated token, phase by phase, and memory: theirs over ours, larger is better."""
    out = figures.per_token(figures.phases([run["steps"] for run in theirs]), figures.phases([run["steps"] for run in own]))
    held = [max(run["memory_mb"].get("marks", 0.0) for run in some) for some in (theirs, own)]
    return out | ({"memory": held[0] / held[1]} if all(held) else {})


class Row(NamedTuple):
    """A ratio measured now and the one that was kept (None: there is none)."""

    name: str
    now: float
    kept: float | None

    @property
    def holds(self) -> bool:
        """Whether it is not far below the one that was kept."""
        return self.kept is None or self.now >= MARGIN * self.kept


def rows_of(now: Mapping[str, Mapping[str, float]], kept: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """Every ratio that is measured now."""
    return [Row(f"{pair}: {name}", value, kept.get(pair, {}).get(name)) for pair, values in now.items()
            for name, value in values.items()]


def best(first: Ratios, second: Ratios) -> Ratios:
    """The better of two measurements of every ratio."""
    return {pair: {name: max(value, second[pair].get(name, value)) for name, value in values.items()}
            for pair, values in first.items()}


def table(rows: list[Row]) -> str:
    """The rows for a reader."""
    lines = [f"{'times faster or smaller':<32}{'now':>8}{'kept':>8}"]
    lines += [f"{row.name:<32}{row.now:>8.2f}{'-' if row.kept is None else format(row.kept, '.2f'):>8}"
              f"{'' if row.holds else '  fell'}" for row in rows]
    return "\n".join(lines)


def main() -> int:
    """Measure, compare, say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="keep the ratios measured now")
    parser.add_argument("--trl", action="store_true", help="measure TRL too")
    parser.add_argument("--baseline", type=Path, default=BASELINE)
    asked = parser.parse_args()
    disable_progress_bar()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended too
    kind = f"{instructions()}, {cores()} cores"
    known: dict[str, Any] = json.loads(asked.baseline.read_text()) if asked.baseline.is_file() else {}
    kept: Ratios = {} if asked.update else known.get(kind, {}).get("ratios", {})
    try:
        with tempfile.TemporaryDirectory(prefix="gate-") as room:
            now = measure(Path(room), asked.trl)
            if not all(row.holds for row in rows_of(now, kept)):
                print(f"{table(rows_of(now, kept))}\na ratio fell: measured once more", flush=True)
                now = best(now, measure(Path(room), asked.trl))
    except FailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    rows = rows_of(now, kept)
    print(table(rows))
    if asked.update:
        ratios = known.get(kind, {}).get("ratios", {}) | figures.rounded(now, 3)
        asked.baseline.write_text(json.dumps(known | {kind: {"ratios": ratios, "machine": machine()}}, indent=1) + "\n")
        return 0
    if kind not in known:
        print(f"no baseline is kept for this kind of machine ({kind}): nothing to compare with; keep one with --update")
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
