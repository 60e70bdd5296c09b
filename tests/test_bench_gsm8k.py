"""What `bench/gsm8k.py` makes its data with."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture(scope="module")
def gsm8k():
    sys.path.insert(0, str(BENCH))
    try:
        spec = importlib.util.spec_from_file_location("bench_gsm8k", BENCH / "gsm8k.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(BENCH))


def test_a_problem_of_one_step_gets_the_only_equation_there_is(gsm8k):
    made = gsm8k.one_step({"problem": "Tom had 9 apples and ate 4.", "answer": "5"})
    assert made["solution"] == "The answer is 9-4 = <<9-4=5>>5.\n#### 5"
    assert gsm8k.one_step({"problem": "2 and 2", "answer": "4"}) is None  # a sum or a product
    assert gsm8k.one_step({"problem": "2 and 3", "answer": "yes"}) is None


def test_the_lines_are_dealt_apart(gsm8k, tmp_path, monkeypatch):
    monkeypatch.setattr(gsm8k, "HELDOUT", 3)
    monkeypatch.setattr(gsm8k, "LEARNT", 4)
    rows = [{"id": str(i), "problem": f"What are {i} and 5?", "solution": f"<<{i}+5={i + 5}>>{i + 5}\n#### {i + 5}",
             "answer": str(i + 5)} for i in range(10, 30)]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = gsm8k.deal(tmp_path / "all.jsonl", [], tmp_path, 0)
    parts = [gsm8k.lines_of(tmp_path / f"{name}.jsonl") for name in ("traces", "rl_train", "rl_test")]
    assert (counts["train"], counts["heldout"], len(parts[0])) == (4, 3, counts["traces"])
    assert "solution" not in parts[1][0]
    texts = [{row["problem"] for row in part} for part in parts]
    assert not texts[1] & texts[2]
    assert not (texts[1] | texts[2]) & {row["problem"] for row in parts[0] if "id" in row}


def test_the_page_shows_the_figures(gsm8k):
    report = json.loads((BENCH / "results" / "gsm8k.json").read_text())
    assert gsm8k.table(report) in (BENCH.parent / "docs" / "models.md").read_text()
    assert report["warmup"] == list(gsm8k.WARMUP)
    assert report["train"][:-2] == list(gsm8k.TRAIN)
