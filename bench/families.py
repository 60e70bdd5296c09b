"""What works with which architecture, by the real command line on tiny random models made on the spot.

    python bench/families.py --json bench/results/families.json --markdown docs/models.md

Trains four steps with checkpoints, resumes a copy from the middle and compares it byte for byte, trains with LoRA, and measures
how far the log-probs of engine and learner lie from transformers' own forward of one text. `--markdown` puts the table between
the marks of the page.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import shutil
import sys
import tempfile
import tomllib
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]  # a checkout is enough: nothing has to be installed

import torch  # noqa: E402
import transformers  # noqa: E402
from architectures import ARCHITECTURES, deviations, tiny  # noqa: E402

from groupwise import cli  # noqa: E402
from groupwise.engines.whole import Whole  # noqa: E402
from groupwise.models.head import Trunk  # noqa: E402
from groupwise.models.load import save  # noqa: E402
from groupwise.run.compute import engine_of  # noqa: E402
from groupwise.run.disk import read_lines  # noqa: E402

BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"
REWARD = '''def digits(completion, answer, **columns):
    return sum(c.isdigit() for c in completion) / 10
'''
WORDS = ("--task", "sums.jsonl", "--method", "dapo", "--method-args", "dynamic_sampling=false", "--rewards", "reward.py:digits",
         "--prompts-per-step", "4", "--group-size", "4", "--max-tokens", "10", "--eval-prompts", "8", "--eval-every", "4",
         "--checkpoint-every", "2", "--workers", "1", "--threads", "1", "--lr", "3e-3", "--verify-deadline", "60",
         "--preflight", "off")


def groupwise(*words: str) -> str:
    """Run a command in this process; empty if it went well, else what it said last."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = cli.main(words)
        except SystemExit as stop:
            code = stop.code
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    lines = [line for line in said.getvalue().splitlines() if line.strip()]
    return "" if not code else next((line for line in lines if line.startswith("groupwise: ")), lines[-1] if lines else "?")


def resumed(run: str) -> bool:
    """Whether a copy of the run, cut back to its middle, comes to the same record and the same weights, byte for byte."""
    whole, copy = Path("runs", run), Path("runs", f"{run}-again")
    shutil.copytree(whole, copy)
    shutil.rmtree(copy / "checkpoints" / "step-000004")
    shutil.rmtree(copy / "model")
    if problem := groupwise("resume", str(copy)):
        print(problem, file=sys.stderr)
        return False
    names = ("metrics.jsonl", "evaluations.jsonl", "model/model.safetensors", "checkpoints/step-000004/optimizer.safetensors")
    return all((whole / name).read_bytes() == (copy / name).read_bytes() for name in names)


def tried(name: str) -> dict[str, Any]:
    """One row of the table, in the working folder."""
    policy = tiny(name)
    save(policy, Path("model"))
    problem = groupwise("train", "--run", "full", "--model", "model", "--steps", "4", *WORDS)
    moved = problem == "" and max(row["grad_norm"] for row in read_lines(Path("runs/full/metrics.jsonl"))) > 0.0
    compute = tomllib.loads(Path("runs/full/run.toml").read_text())["meta"]["compute"] if moved else ""
    lora = groupwise("train", "--run", "lora", "--model", "model", "--steps", "2", "--lora-rank", "4", *WORDS)
    lora = "" if "lora" in lora.lower() and ("nrecognized" in lora or "unknown" in lora.lower()) else lora or "ok"
    engine = engine_of(policy)
    by_engine, by_learner = deviations(policy, engine)
    return {"name": name, "family": ARCHITECTURES[name].family, "trains": moved, "problem": problem,
            "compute": compute, "lora": lora, "resumes": moved and resumed("full"), "engine": by_engine,
            "learner": by_learner, "split": Trunk(policy.model).exact_split, "cached": not isinstance(engine, Whole)}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    head = ("| architecture | `model_type` | trains | LoRA | resumes bit for bit | engine | learner | remark |",
            "| --- | --- | --- | --- | --- | ---: | ---: | --- |")
    return "\n".join([*head, *map(_row, rows)])


def _row(row: dict[str, Any]) -> str:
    remarks = [] if row["cached"] else ["sampled without a cache"]
    remarks += [] if row["split"] else ["whole logits matrix"]
    remarks += ["kernels"] if row["compute"] and "modules" not in row["compute"] else []
    lora = {"": "not there yet", "ok": "yes"}.get(row["lora"], "refused")
    cells = (row["name"], f"`{row['family']}`", _yes(row["trains"]), lora, _yes(row["resumes"]), f"{row['engine']:.0e}",
             f"{row['learner']:.0e}", ", ".join(remarks))
    return f"| {' | '.join(cells)} |"


def _yes(good: bool) -> str:
    return "yes" if good else "no"


def into(page: Path, text: str) -> None:
    """Put the table between the marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="some of the architectures")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--markdown", type=Path, help="put the table into this page")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("groupwise").setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    rows, here = [], Path.cwd()
    for name in args.only or ARCHITECTURES:
        with tempfile.TemporaryDirectory() as room:
            os.chdir(room)
            Path("reward.py").write_text(REWARD, encoding="utf-8")
            Path("sums.jsonl").write_text("".join(
                json.dumps({"problem": f"{a}+{b}=", "answer": str(a + b)}) + "\n" for a in range(20) for b in range(2, 5)))
            try:
                rows.append(tried(name))
            finally:
                os.chdir(here)
        print(_row(rows[-1]), rows[-1]["problem"], flush=True)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    if args.json:
        args.json.write_text(json.dumps({"versions": versions, "families": rows}, indent=1) + "\n", encoding="utf-8")
    if args.markdown:
        into(args.markdown, table(rows))
    return 0 if all(row["trains"] and row["resumes"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
