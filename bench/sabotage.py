"""Runs of the embedded task broken on purpose, and healthy ones: what is said while they run and by `groupwise diagnose`.

    python bench/sabotage.py                       all, into bench/results/sabotage.json and two pages of docs/
    python bench/sabotage.py --only stale          those with this in their name, printed
    python bench/sabotage.py --check               whether the pages are up to date

Each is trained and diagnosed by the command line, in a temporary folder. A run counts as named if what was broken is found, and
nothing else is (what follows from it is said to follow).
"""

import argparse
import contextlib
import copy
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from groupwise import cli  # noqa: E402
from groupwise.engines.native import Native  # noqa: E402
from groupwise.kernels.library import Compiled  # noqa: E402
from groupwise.models.load import Policy, load, save  # noqa: E402
from groupwise.run import assemble  # noqa: E402
from groupwise.run.assemble import base_of  # noqa: E402
from groupwise.run.compute import engine_of  # noqa: E402
from groupwise.run.disk import read_lines  # noqa: E402
from groupwise.run.settings import Run  # noqa: E402
from groupwise.tasks.reduce import reduce  # noqa: E402

RESULTS, DOCS = ROOT / "bench" / "results" / "sabotage.json", ROOT / "docs"
COMMON = ("--preflight", "off", "--steps", "30", "--eval-every", "15", "--eval-prompts", "200", "--workers", "1")
USER = '''
import time

from groupwise.tasks.reduce import reduce
from groupwise.tasks.task import Task
from groupwise.verify.text import last_integer


def like_reduce(verifier):
    made = reduce()
    return Task("reduce", made.train, made.heldout, f"user.py:{verifier}", max_tokens=made.max_tokens)


def generous():
    return like_reduce("yes")


def yes(text, answer, meta):
    return True


def upside_down():
    return like_reduce("no")


def no(text, answer, meta):
    return not last_integer(text, answer, meta).correct


def hanging():
    return like_reduce("slow")


def slow(text, answer, meta):
    if len(text) > 6:
        time.sleep(60)
    return last_integer(text, answer, meta)


def penalty(completion, answer, **columns):
    return -2.0 * bool(last_integer(completion, answer, columns).correct)


def long(completion, answer, **columns):
    return 0.05 * len(completion)
'''
"""A user's own task, verifiers and rewards."""


@dataclass(frozen=True)
class Case:
    """A run: what is done to it, in words, the words of its command line, what is to be found ("": nothing), and what is done to
    the program while it trains.
    """

    name: str
    what: str
    words: tuple[str, ...]
    expected: str = ""
    during: Callable[[], contextlib.AbstractContextManager[Any]] = field(default=contextlib.nullcontext)


def deaf(policy: Policy, compiled: Compiled | None = None, workers: Any = None) -> Native:
    """An engine with a copy of the policy, which takes note of new versions and of no weights."""
    own = copy.deepcopy(policy)
    apart = compiled and Compiled(own.model, library=compiled.library, threads=compiled.threads, narrow=compiled.narrow)
    engine = engine_of(own, apart, workers)

    def load(weights: Any, *, version: int) -> None:
        engine.version = version

    engine.load = load
    return engine


CASES = (
    Case("lr-zero", "learning rate 1e-12", ("--lr", "1e-12"), "learning_rate_too_low"),
    Case("lr-warmup", "warm-up of 100,000 steps", ("--warmup-steps", "100000"), "learning_rate_too_low"),
    Case("lr-1000", "learning rate x1000", ("--lr", "6e-2"), "learning_rate_too_high"),
    Case("lr-30", "learning rate x30", ("--lr", "1.8e-3"), "learning_rate_too_high"),
    Case("short", "6 tokens at most", ("--max-tokens", "6"), "max_tokens_too_short"),
    Case("template", "a chat template that the policy never saw", ("--model", "chat", "--template", "chat"), "wrong_template"),
    Case("eos", "end token taken out of the model's settings", ("--model", "endless"), "eos_missing"),
    Case("constant", "verifier accepts everything", ("--task", "user.py:generous", "--model", "policy"), "constant_reward"),
    Case("inverted", "a further reward of -2 for right answers", ("--rewards", "user.py:penalty"), "inverted_reward"),
    Case("inverted-verifier", "verifier accepts what is wrong", ("--task", "user.py:upside_down", "--model", "policy"),
         "inverted_reward"),
    Case("stale", "engine never takes the weights", (), "stale_engine", lambda: mock.patch.object(assemble, "engine_of", deaf)),
    Case("hard", "products, which the policy has never seen", (
        "--task", "products.jsonl", "--model", "policy", "--task-args", "verifier=last_integer", "max_tokens=64"), "all_hard"),
    Case("timeout", "verifier hangs at longer answers", (
        "--task", "user.py:hanging", "--model", "policy", "--verify-deadline", "0.2", "--steps", "5", "--prompts-per-step", "4",
        "--eval-every", "0"), "grader_timeout"),
    Case("leak", "a tenth of the held-out problems are training problems with spaces", (
        "--task", "leak.jsonl", "--model", "policy", "--task-args", "verifier=last_integer", "max_tokens=64"),
         "heldout_leak"),
    Case("repeats", "held-out problems twice, once with spaces", (
        "--task", "repeats.jsonl", "--model", "policy", "--task-args", "verifier=last_integer", "max_tokens=64"),
         "heldout_repeats"),
    Case("length", "a further reward of 0.05 a character", ("--rewards", "user.py:long", "--steps", "60"), "length_hacked"),
    Case("healthy-dr_grpo", "the default run", ("--steps", "120", "--eval-every", "20")),
    Case("healthy-dapo", "dapo", ("--method", "dapo", "--steps", "40", "--seed", "1")),
    Case("healthy-grpo", "grpo with its pull to the reference", ("--method", "grpo", "--steps", "60", "--seed", "2")),
    Case("healthy-gspo", "gspo, four updates a batch", (
        "--method", "gspo", "--updates-per-batch", "4", "--steps", "40", "--seed", "3")),
    Case("healthy-ppo", "ppo with its critic", ("--method", "ppo", "--steps", "40", "--seed", "4")),
    Case("healthy-modules", "the model's modules, a short run at 1e-6", (
        "--compute", "modules", "--lr", "1e-6", "--steps", "10", "--seed", "5")),
)


def prepare(folder: Path) -> None:
    """The files that the cases name."""
    (folder / "user.py").write_text(USER)
    policy = load(base_of(Run()))
    save(policy, folder / "policy")
    policy.tokenizer.chat_template = "{% for m in messages %}>{{ m['content'] }};:{% endfor %}"
    save(policy, folder / "chat")
    policy.tokenizer.chat_template = None
    policy.tokenizer.eos_token, policy.eos_ids = "<bos>", (policy.tokenizer.bos_token_id,)
    policy.model.config.eos_token_id = policy.tokenizer.bos_token_id
    save(policy, folder / "endless")
    made = reduce(train=2048, heldout=200)
    train, heldout = ([(p.text, p.answer) for p in part] for part in (made.train, made.heldout))
    lines(folder / "products.jsonl", [(f"{a}*{b}=", a * b) for a in range(13, 60) for b in range(61, 99, 3)])
    lines(folder / "leak.jsonl", train)
    lines(folder / "leak_test.jsonl", [*heldout[:180], *[(spaced(text), answer) for text, answer in train[:20]]])
    lines(folder / "repeats.jsonl", train)
    lines(folder / "repeats_test.jsonl", [*heldout[:100], *[(spaced(text), answer) for text, answer in heldout[:100]]])


def spaced(text: str) -> str:
    """The same problem in another print."""
    return text.replace("=", " =")


def lines(file: Path, pairs: Sequence[tuple[str, int]]) -> None:
    file.write_text("".join(json.dumps({"problem": text, "answer": answer}) + "\n" for text, answer in pairs))


def run(case: Case) -> dict[str, Any]:
    """Train and diagnose one case; what was said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        with case.during():
            trained = cli.main(["train", "--run", case.name, *COMMON, *case.words])
        found = cli.main(["diagnose", case.name, "--json", f"{case.name}.json"])
    if trained or found not in (0, 1):
        raise SystemExit(f"{case.name}: {said.getvalue()}")
    report = json.loads(Path(f"{case.name}.json").read_text())
    texts = {f["name"]: f["text"] for f in report["findings"]}
    warned = [name for name in re.findall(r"^warning: (\w+): ", said.getvalue(), re.MULTILINE) if name != "grading"]
    return {"name": case.name, "what": case.what, "words": [*case.words], "expected": case.expected, "running": warned,
            "wrong": report["wrong"], "follows": [f["name"] for f in report["findings"] if f["because"]],
            "text": texts[report["wrong"][0]] if report["wrong"] else "",
            "named": report["wrong"] == [case.expected] * bool(case.expected),
            "ranges": {} if case.expected else ranges(read_lines(Path("runs", case.name, "metrics.jsonl")))}


def ranges(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Of each metric the 5th, 50th and 95th percentile over the steps of a run."""
    names = sorted({name for row in rows for name in row} - {"step"})
    return {name: np.percentile([row[name] for row in rows if row.get(name) is not None], [5, 50, 95]).tolist() for name in names}


def seen(found: Sequence[dict[str, Any]]) -> str:
    """The metrics of healthy runs, as Markdown: the lowest and the highest of their percentiles, and the median of medians."""
    healthy = [one["ranges"] for one in found if one["ranges"]]
    out = ["| metric | low | middle | high | runs |", "| --- | ---: | ---: | ---: | ---: |"]
    for name in sorted({name for one in healthy for name in one}):
        low, middle, high = zip(*[one[name] for one in healthy if name in one], strict=True)
        out.append(f"| `{name}` | {min(low):.3g} | {float(np.median(middle)):.3g} | {max(high):.3g} | {len(low)} |")
    return "\n".join(out)


def table(found: Sequence[dict[str, Any]]) -> str:
    """The cases and what was found, as Markdown."""
    out = ["| run | found by `diagnose` | warned of while it ran |", "| --- | --- | --- |"]
    for one in found:
        said, warned = (", ".join(f"`{name}`" for name in one[when]) or "nothing" for when in ("wrong", "running"))
        out.append(f"| {one['what']} | {said}{'' if one['named'] else ' (wrong)'} | {warned} |")
    return "\n".join(out)


def pages(found: Sequence[dict[str, Any]]) -> dict[Path, str]:
    """The pages with what is between their marks made of these results."""
    out = {}
    for name, made in (("diagnose.md", table(found)), ("metrics.md", seen(found))):
        begin, end = "<!-- sabotage: begin -->", "<!-- sabotage: end -->"
        before, rest = (DOCS / name).read_text().split(begin)
        out[DOCS / name] = f"{before}{begin}\n{made}\n{end}{rest.split(end)[1]}"
    return out


def results(cases: Sequence[Case]) -> Iterator[dict[str, Any]]:
    """All cases, one after the other."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            prepare(Path())
            for case in cases:
                one = run(case)
                print(f"{'ok   ' if one['named'] else 'WRONG'} {case.name:<18} {one['wrong']} running {one['running']} "
                      f"follows {one['follows']}\n      {one['text']}", flush=True)
                yield one
        finally:
            os.chdir(before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="run what has this in its name, and write nothing")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page is out of date")
    args = parser.parse_args()
    if args.check:
        return int(any(path.read_text() != text for path, text in pages(json.loads(RESULTS.read_text())).items()))
    found = list(results([case for case in CASES if args.only in case.name]))
    if not args.only:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        for path, text in pages(found).items():
            path.write_text(text)
    return int(not all(one["named"] for one in found))


if __name__ == "__main__":
    sys.exit(main())
