import importlib.util
import json
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parent.parent / "bench" / "overhead.py"


@pytest.mark.parametrize("words", [[], ["--method", "grpo", "--updates", "2", "--longer", "2"]])
def test_every_phase_of_a_step_is_measured(words, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("bench_overhead", FILE)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    for owner, names in ((bench.Objective, ("loss", "idle")), (bench.Meter, ("add", "result")), (bench.Batch, ("take",)),
                         (bench.torch.Tensor, ("backward",))):
        for name in names:  # the script wraps them; they are put back after the test
            monkeypatch.setattr(owner, name, getattr(owner, name))
    small = ["--prompts", "4", "--rollouts", "4", "--steps", "2", "--json", str(tmp_path / "o.json"), *words]
    monkeypatch.setattr(sys, "argv", ["overhead.py", *small])
    bench.main()
    report = json.loads((tmp_path / "o.json").read_text())
    assert report["milliseconds"] > 0
    assert report["tokens"] > 20
    wanted = {"draw", "collect/episodes", "collect/grade", "pack", "credit", "weigh", "gradients/loss", "metrics", "record.log"}
    assert wanted <= set(report["phases"])
    assert all(spent > 0 for spent in report["phases"].values())
