"""The verifier `math` and published graders on labelled answers, against math-verify, and under attack.

    python bench/verifier.py [--data FOLDER] [--out bench/results/verifier.json]

Sets: the pairs of public test suites in bench/data/answer_pairs.jsonl (docs/verifiers.md says where they come from), each part by
itself: the verifier was built on "open", "second" and "third"; "fresh" was graded once, when it was ready. With a folder of
references (math_test.jsonl ...) also answers made of them by the rules of bench/rewrites.py. Every grader runs in the same pool
of one worker and is given the same lines; docs/verifiers.md holds the tables.
"""

import argparse
import json
import platform
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import hostile
import rewrites

from groupwise.lab import verdicts
from groupwise.verify.pool import Item, Pool

HERE = Path(__file__).parent
GRADERS = {"math": "math", "math-verify default": f"{HERE / 'rivals.py'}:default",
           "math-verify boxed": f"{HERE / 'rivals.py'}:boxed",
           "r1_zero_boxed": "r1_zero_boxed", "r1_zero_boxed_fast": "r1_zero_boxed_fast", "dapo_math": "dapo_math"}
RIVAL_DEADLINE = 20.0
"""Seconds for the others: their own limits of five seconds shall decide, not ours."""
EACH = 100
"""References of each set that answers are made of."""


def sets(data: Path | None) -> dict[str, list[dict[str, Any]]]:
    lines = [json.loads(line) for line in (HERE / "data" / "answer_pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    found = {part: [line for line in lines if line["part"] == part] for part in ("open", "second", "third", "fresh")}
    if data is not None:
        found["made by rules"] = list(rewrites.made(data, EACH))
    return found


def audit(lines: list[dict[str, Any]], grader: str) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
        file.flush()
        deadline = verdicts.DEADLINE if grader == "math" else RIVAL_DEADLINE
        graded = verdicts.grade_file(file.name, GRADERS[grader], deadline=deadline, labelled=True)
    found = verdicts.report(graded, grader)
    return {key: value for key, value in found.items() if key not in ("wrongly_accepted", "wrongly_rejected", "abstained")}


def attacked(verifier: str) -> list[dict[str, Any]]:
    """Every attack, and after each an answer that any grader accepts: the pool must still be there."""
    rows = []
    with Pool(verifier, deadline=verdicts.DEADLINE, memory_mb=verdicts.MEMORY_MB) as pool:
        for name, text, gold in hostile.attacks():
            started = time.perf_counter()
            verdict = pool.grade([Item(name, text, gold)])[0].verdict
            seconds = time.perf_counter() - started
            after = pool.grade([Item("after", "Answer: 5\n" + r"</think> <answer>\boxed{5}</answer>" + "\nAnswer: 5",
                                     "5")])[0].verdict
            rows.append({"attack": name, "characters": len(text), "verdict": {True: "correct", False: "wrong",
                                                                              None: "abstain"}[verdict.correct],
                         "kind": verdict.kind, "tier": verdict.tier, "seconds": round(seconds, 4),
                         "pool_lives": after.correct is True})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "verifier.json")
    words = parser.parse_args()
    report: dict[str, Any] = {"machine": {"python": platform.python_version(), "processor": platform.machine()}, "sets": {},
                              "attacks": {}}
    for name, lines in sets(words.data).items():
        report["sets"][name] = {"n": len(lines), "labels_true": sum(line["label"] for line in lines), "graders": {}}
        for grader in GRADERS:
            report["sets"][name]["graders"][grader] = found = audit(lines, grader)
            print(name, verdicts.as_text({**found, "wrongly_accepted": [], "wrongly_rejected": [], "abstained": []}), sep=": ",
                  flush=True)
    for verifier in ("math", "r1_zero_boxed", "r1_zero_tag", "dapo_math"):
        report["attacks"][verifier] = rows = attacked(verifier)
        print(f"{verifier}: {len(rows)} attacks, slowest {max(row['seconds'] for row in rows):.2f} s, "
              f"pool lost {sum(not row['pool_lives'] for row in rows)}", flush=True)
    report["largest_worker_mb"] = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1)
    words.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
