"""GSM8K from nothing: a small model learns solutions of train lines, then trains on other train lines by their answers alone.

    python bench/gsm8k.py --data gsm8k_train.jsonl --test gsm8k_test.jsonl --work FOLDER --json bench/results/gsm8k.json

Takes about half an hour of two cores. The train lines are dealt by the seed: most give their solutions to the warm start, some
of those of at most three steps give their answers to the training, others of that kind are held out from both. `--more` names
files of one-step problems with answers but no solutions (ASDiv, SVAMP): a trace is made where exactly one equation of two of the
problem's numbers gives the answer. Of the lines for the training those are kept that the warm start solves at least once in 16
samples: the others would teach nothing for long. Every stage is a command of groupwise; one that has been made already is kept.
"""

import argparse
import itertools
import json
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout is enough: nothing has to be installed

from versus.report import machine  # noqa: E402
from versus.watch import environment  # noqa: E402

from groupwise.core.rollout import Prompt  # noqa: E402
from groupwise.core.services import Sampling  # noqa: E402
from groupwise.models.load import load  # noqa: E402
from groupwise.models.template import fill  # noqa: E402
from groupwise.run.compute import compiler, engine_of, kernels_of  # noqa: E402
from groupwise.run.evaluate import Evaluation, evaluate  # noqa: E402
from groupwise.run.grade import Grader  # noqa: E402
from groupwise.run.machine import cores  # noqa: E402
from groupwise.tasks import make  # noqa: E402
from groupwise.tasks.data import rows  # noqa: E402
from groupwise.tasks.task import Task  # noqa: E402

HELDOUT, LEARNT, STEPS, LIMIT, CONTEXT, SAMPLES = 700, 1500, 3, 160, 512, 16
"""Lines held out, lines for the training, the most steps of these, the most tokens of an answer, the model's positions,
and the samples of which one must be right."""
WARMUP = ("--hidden", "256", "--layers", "4", "--mlp", "1024", "--vocabulary", "2048", "--context", str(CONTEXT),
          "--tokens", "8192", "--micro-tokens", "4096", "--epochs", "8", "--lr", "2e-3", "--floor", "0.05", "--heldout", "0.03")
TRAIN = ("--method", "dr_grpo", "--prompts-per-step", "32", "--group-size", "16", "--lr", "1e-4", "--max-tokens", str(LIMIT),
         "--eval-prompts", str(HELDOUT), "--eval-every", "20", "--checkpoint-every", "50")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
Row = dict[str, Any]


def lines_of(path: Path) -> list[Row]:
    return [row.fields for row in rows(str(path))]


def write(path: Path, lines: list[Row]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def one_step(row: Row) -> Row | None:
    """The problem with the one equation of two of its numbers that gives the answer, if there is exactly one."""
    found = set()
    try:
        answer = float(row["answer"])
    except (TypeError, ValueError):
        return None
    for a, b in itertools.permutations(NUMBER.findall(row["problem"]), 2):
        x, y = float(a), float(b)
        for sign, value in (("+", x + y), ("-", x - y), ("*", x * y), ("/", x / y if y else None)):
            if value == answer and not (sign in "+*" and x < y):
                found.add(f"{a}{sign}{b}")
    if len(found) != 1:
        return None
    equation, shown = found.pop(), f"{answer:g}"
    return {"problem": row["problem"], "solution": f"The answer is {equation} = <<{equation}={shown}>>{shown}.\n#### {shown}"}


def deal(data: Path, more: list[Path], work: Path, seed: int) -> dict[str, int]:
    """Write traces.jsonl, rl_train.jsonl and rl_test.jsonl (the held-out lines); how many lines each has."""
    lines, chance = lines_of(data), random.Random(seed)
    easy = [i for i, row in enumerate(lines) if 1 <= row["solution"].count("<<") <= STEPS]
    chosen = chance.sample(easy, HELDOUT + LEARNT)
    heldout, learnt = chosen[:HELDOUT], chosen[HELDOUT:]
    texts = {lines[i]["problem"].casefold() for i in chosen}
    extra = [made for file in more for row in lines_of(file)
             if row["problem"].casefold() not in texts and (made := one_step(row))]
    solved = [lines[i] for i in sorted(set(range(len(lines))) - set(chosen))]
    traces = solved + extra
    bare = [[{k: lines[i][k] for k in ("id", "problem", "answer")} for i in part] for part in (learnt, heldout)]
    write(work / "traces.jsonl", traces)
    write(work / "rl_train.jsonl", bare[0])
    write(work / "rl_test.jsonl", bare[1])
    return {"traces": len(traces), "of_one_step": len(extra), "train": len(learnt), "heldout": len(heldout)}


def groupwise(*words: str, work: Path) -> float:
    """Run a command of groupwise in the folder; its seconds. Stops where it fails."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "groupwise", *words], cwd=work, env=environment(PYTHONPATH=str(ROOT)), check=True)
    return time.perf_counter() - began


def task_of(file: Path) -> Task:
    """Its lines to train on, and as held out those of the test file beside it."""
    return make("gsm8k", {"path": str(file)})


def asked(model: Path, prompts: Sequence[Prompt], seed: int, samples: int = 1, greedy: bool = False) -> Evaluation:
    """What a model makes of problems, greedily or by samples at temperature 1."""
    policy = load(model)
    compile = compiler(kernels_of("auto", policy, "cpu"), cores(), "auto")
    engine, sampling = engine_of(policy, compile(policy.model) if compile else None), Sampling(LIMIT)
    filled = fill(prompts, policy.tokenizer, "none", CONTEXT - LIMIT + 1)
    with Grader("numeric") as grader:
        return evaluate(engine, filled, grader.answers(policy), sampling.greedy() if greedy else sampling, seed=seed,
                        samples=samples)


def keep_solvable(model: Path, work: Path, seed: int) -> int:
    """Cut rl_train.jsonl down to the lines that the model solves at least once; how many these are."""
    prompts = task_of(work / "rl_train.jsonl").train
    found = asked(model, prompts, seed, SAMPLES)
    good = {prompt.text for prompt, right in zip(prompts, found.successes, strict=True) if right}
    kept = [row for row in lines_of(work / "rl_train.jsonl") if row["problem"] in good]
    write(work / "rl_train.jsonl", kept)
    return len(kept)


def measured(model: Path, parts: Mapping[str, Sequence[Prompt]], seed: int) -> dict[str, Any]:
    """Greedy accuracy and the mean of four samples at temperature 1, each with its 95 % interval, on several sets of problems."""
    return {what: {"greedy": asked(model, prompts, seed, greedy=True).row(), "sampled": asked(model, prompts, seed, 4).row()}
            for what, prompts in parts.items()}


def stages(args: argparse.Namespace) -> dict[str, Any]:
    """Everything, one after the other; what is there already is kept."""
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)
    counts = deal(args.data, args.more, work, args.seed)
    shutil.copy(work / "rl_train.jsonl", work / "whole_train.jsonl")
    shutil.copy(args.test, work / "whole_test.jsonl")  # a task's held-out file is the one beside it
    seconds = {}
    if not (work / "base").exists():
        seconds["warmup"] = groupwise("warmup", "--out", "base", "--traces", "traces.jsonl", "--seed", str(args.seed), *WARMUP,
                                      work=work)
    counts["solvable"] = keep_solvable(work / "base", work, args.seed)
    run = work / "runs" / "gsm8k"
    if not (run / "summary.json").exists():
        seconds["train"] = groupwise("train", "--run", "gsm8k", "--task", "gsm8k", "--task-args", "path=rl_train.jsonl",
                                     "--model", "base", "--steps", str(args.steps), "--seed", str(args.seed), *TRAIN, work=work)
    result: dict[str, Any] = {"machine": machine(), "counts": counts, "seconds": seconds, "warmup": list(WARMUP),
                              "train": [*TRAIN, "--steps", str(args.steps)],
                              "base": json.loads((work / "base" / "warmup.json").read_text())["measured"], "accuracy": {}}
    task, whole = (task_of(work / file) for file in ("rl_train.jsonl", "whole_train.jsonl"))
    parts = {"trained on": task.train, "held out": task.heldout, "test": whole.heldout}
    for name, model in (("before", work / "base"), ("after", run / "model")):
        result["accuracy"][name] = measured(model, parts, args.seed + 1)  # other samples than those that chose the lines
    return result


def table(report: dict[str, Any]) -> str:
    """Accuracy before and after as Markdown."""
    def cell(when: str, what: str, how: str) -> str:
        row = report["accuracy"][when][what][how]
        return f"{row['value']:.1%} [{row['low']:.1%}, {row['high']:.1%}]"

    head = "| lines | number | greedy before | greedy after | at temperature 1 before | at temperature 1 after |"
    return "\n".join([head, "| --- | ---: | ---: | ---: | ---: | ---: |", *(
        f"| {what} | {some['greedy']['n']} | "
        + " | ".join(cell(when, what, how) for how in ("greedy", "sampled") for when in ("before", "after")) + " |"
        for what, some in report["accuracy"]["before"].items())])


def main() -> None:
    """Make, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="GSM8K's train lines: problem, answer, solution")
    parser.add_argument("--test", type=Path, required=True, help="GSM8K's test lines")
    parser.add_argument("--more", type=Path, nargs="*", default=[], help="files of one-step problems with answers")
    parser.add_argument("--work", type=Path, required=True, help="folder for data, models and the run")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--curve", type=Path, help="copy the run's curve here")
    args = parser.parse_args()
    report = stages(args)
    print(json.dumps(report, indent=1), table(report), sep="\n\n")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.curve:
        shutil.copy(args.work / "runs" / "gsm8k" / "curve.png", args.curve)


if __name__ == "__main__":
    main()
