"""Make docs/errors.md: every case is run, and what it says becomes its row.

    python tests/errors_page.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import errors_engines
import errors_input
import errors_runs
import torch
from errors_support import Case, Row, run

PAGE = Path(__file__).resolve().parent.parent / "docs" / "errors.md"
SECTIONS: dict[str, list[Case]] = {
    "Settings": errors_input.SETTINGS,
    "The arithmetic of a batch": errors_input.ARITHMETIC,
    "Data": errors_input.FILES,
    "Models": errors_input.MODELS,
    "Rewards, before the run": errors_input.REWARDS,
    "Engines": errors_engines.ENGINES,
    "Run folders": errors_runs.FOLDERS,
    "Checkpoints": errors_runs.CHECKPOINTS,
    "The disk": errors_runs.DISK,
    "Stopping": errors_runs.STOPS,
    "Rewards, while it trains": errors_runs.REWARDS,
    "Training that cannot go on": errors_runs.TRAINING,
}
HEAD = """# What goes wrong, and what you see

Everything that can be known beforehand is refused before any work. Nothing that a run has saved is ever lost: it is resumed
exactly, or the message says what is missing. This page is made by its own tests, which bring every case about
(`tests/errors_input.py`, `tests/errors_runs.py`, `tests/errors_engines.py`) and compare what was said:

    python tests/errors_page.py

| exit status | meaning |
| ---: | --- |
| 0 | done; what was left out or passed over is said in a warning |
| 1 | what was asked about does not hold (`check`, `conformance`, `plan` ...), or a fault of the program, with its traceback |
| 2 | refused or failed, with a message on stderr that says what happened and what to do |
| 130 | stopped by Ctrl-C or SIGTERM |
| 141 | the reader of the output went away (`groupwise methods \\| head -1`) |

Killed without a chance to save (SIGKILL, a power cut, no memory left), a run goes on from its last checkpoint and ends as if
nothing had happened: `make chaos` kills runs wherever they write. The lock on a run's folder is the system's own (flock; on
Windows a locked byte, tried with a stand-in only): it is free as soon as its process is gone. In the tests a full disk is what
the system and the library of weights report of one, raised where they write; so is a read-only folder, as to root none is.
"""
COLUMNS = "| what happens | what you see | exit status | what is kept |\n| --- | --- | ---: | --- |"


def cell(row: Row) -> str:
    """What was said, as code that a table can hold."""
    lines = [line.strip() for line in row.said.splitlines() if line.strip()]
    return "<br>".join(f"`` {line} ``".replace("|", "\\|") if "`" in line else f"`{line}`".replace("|", "\\|") for line in lines)


def line(row: Row) -> str:
    """A row of the table."""
    return f"| {row.what} | {cell(row)} | {row.status} | {row.kept} |"


def page(rows: dict[str, list[Row]]) -> str:
    """The whole page."""
    tables = [f"\n## {title}\n\n{COLUMNS}\n" + "".join(f"{line(row)}\n" for row in found) for title, found in rows.items()]
    return HEAD + "".join(tables)


def main() -> int:
    """Run every case and write the page; 1 if one does not keep what it says."""
    torch.set_num_threads(1)
    rows = {title: [run(case) for case in cases] for title, cases in SECTIONS.items()}
    PAGE.write_text(page(rows), encoding="utf-8")
    wrong = [f"{row.what}: {row.wrong}" for found in rows.values() for row in found if row.wrong]
    print("\n".join(wrong) or f"{PAGE}: {sum(map(len, rows.values()))} cases")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
