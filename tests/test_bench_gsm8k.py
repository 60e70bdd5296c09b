"""What `bench/gsm8k.py` makes its data with."""

import importlib.util
import json
import random
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
ROW = {"problem": "Ann has 12 pens at $3 each and buys 5 more. What are half of them worth, with 40% off?", "answer": "15",
       "solution": "She has 12+5=<<12+5=17>>17 pens.\nThey cost 17*3=$<<17*3=51>>51.\nHalf is 51/2=$<<51/2=25.5>>25.5\n#### 25.5"}


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


def test_a_variant_carries_other_numbers_through_the_equations(gsm8k):
    variants = sys.modules["variants"]
    seen = set()
    for seed in range(20):
        made = gsm8k.variant(ROW, random.Random(seed))
        if made is None:
            continue
        (pens, price, more), rest = variants.NUMBER.findall(made["problem"]), made["problem"].rpartition("with ")[2]
        assert rest == "40% off?"  # a percentage stays
        total = int(pens) + int(more)
        worth = f"{total * int(price) / 2:g}"
        assert f"{pens}+{more}=<<{pens}+{more}={total}>>{total} pens" in made["solution"]
        assert made["solution"].endswith(f"#### {worth}")
        seen.add(made["problem"])
    assert len(seen) > 5


@pytest.mark.parametrize("solution", ["It is 12+5=<<12+5=18>>18.\n#### 18", "No equation.\n#### 17", "<<x=2>>2\n#### 2",
                                      "<<12+5=17>>17\n#### 99", "<<__import__('os')=17>>17\n#### 17"])
def test_a_solution_that_does_not_hold_gives_none(gsm8k, solution):
    assert gsm8k.variant({**ROW, "solution": solution}, random.Random(0)) is None


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
