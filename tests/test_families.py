"""Every architecture: engine and learner give the log-probs of transformers' own unpadded forward of one text, to 1e-5."""

import importlib.util
import json
import logging
import sys
from pathlib import Path

import pytest
import torch
from run_support import REWARDS

from groupwise import cli
from groupwise.engines.native import Native
from groupwise.engines.whole import Whole, uncached
from groupwise.models.head import Trunk
from groupwise.models.load import save
from groupwise.run.compute import engine_of
from groupwise.run.disk import read_lines

BENCH = Path(__file__).parent.parent / "bench"


def module_of(name: str):
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


architectures = module_of("architectures")
sampled, deviations = architectures.sampled, architectures.deviations
ALL = [pytest.param(name, marks=() if one.common else pytest.mark.slow) for name, one in architectures.ARCHITECTURES.items()]


@pytest.mark.parametrize("name", ALL)
def test_engine_and_learner_agree_with_transformers(name):
    policy = architectures.tiny(name)
    engine = engine_of(policy)
    assert isinstance(engine, Whole) is not architectures.ARCHITECTURES[name].cached
    assert max(deviations(policy, engine)) < 1e-5


@pytest.mark.parametrize("name", [n for n in architectures.ARCHITECTURES if "windows of 6" in n][:4])
def test_a_window_changes_the_log_probs_that_are_compared(name):
    narrow, wide = architectures.tiny(name), architectures.tiny(name)
    for module in (wide.model.config, *wide.model.modules()):
        if getattr(module, "sliding_window", None) is not None:
            module.sliding_window = 64
    ids = torch.randint(3, 30, (1, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        a, b = (p.model(input_ids=ids, use_cache=False).logits for p in (narrow, wide))
    assert torch.allclose(a[:, :6], b[:, :6], atol=1e-5)
    assert not torch.allclose(a[:, 10:], b[:, 10:], atol=1e-2)


def test_a_model_is_sampled_whole_as_with_a_cache():
    policy = architectures.tiny("Qwen2, Qwen2.5")
    whole = Whole(policy, "for the test", max_rows=4)
    a, b = sampled(policy, whole), sampled(policy, Native(policy))
    for one, other in zip((r for g in a for r in g.rollouts), (r for g in b for r in g.rollouts), strict=True):
        mine, theirs = one.episode.turns[0].completion, other.episode.turns[0].completion
        assert (mine.tokens, mine.finish) == (theirs.tokens, theirs.finish)
        assert mine.logp == pytest.approx(theirs.logp, abs=1e-5)
    assert whole.stats["prefill_tokens"] == sum(map(len, architectures.CONTEXTS))


def test_a_cache_that_a_model_does_not_use_rightly_is_found_out():
    policy = architectures.tiny("Qwen2, Qwen2.5")
    trunk = Trunk(policy.model)
    assert uncached(policy, trunk) is None
    hidden = trunk.hidden
    trunk.hidden = lambda ids, mask=None, *rest, **more: hidden(ids, None, *rest, **more)  # padding is looked at
    assert "other log-probs" in uncached(policy, trunk)

    def broken(ids, mask=None, position_ids=None, cache=None, use_cache=False):
        if cache is not None:
            raise ValueError("no such mask")
        return hidden(ids)

    trunk.hidden = broken
    assert "does not run with the native engine's cache (ValueError: no such mask)" in uncached(policy, trunk)


def test_an_unsplit_model_says_so_and_agrees(caplog):
    policy = architectures.tiny("RecurrentGemma")
    with caplog.at_level(logging.WARNING):
        engine = engine_of(policy)
    assert "cannot be split into trunk and head" in caplog.text
    assert "slow" in engine.note
    assert max(deviations(policy, engine)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("compute", ["modules", "auto"])
def test_a_real_vocabulary_and_long_completions_end_to_end(compute, tmp_path, monkeypatch, capsys):
    """151,936 tokens, most of them unknown to the tokenizer, and completions of 1,024."""
    monkeypatch.chdir(tmp_path)
    save(architectures.tiny("Qwen2, Qwen2.5", vocabulary=151_936, context=1100, hidden=64), tmp_path / "model")
    words = ["train", "--run", "long", "--model", "model", "--steps", "2", "--prompts-per-step", "2", "--group-size", "4",
             "--max-tokens", "1024", "--rewards", f"{REWARDS}:long", "--eval-every", "0", "--compute", compute]
    words += ["--dtype", "float32", "--workers", "1", "--threads", "1", "--verify-deadline", "60"]
    assert cli.main(words) == 0, capsys.readouterr().err
    for row in read_lines(Path("runs/long/metrics.jsonl")):
        assert row["length"] > 1000
        assert row["grad_norm"] > 0.0
        assert row["mismatch_max"] < 1e-4


def test_the_page_shows_what_was_measured():
    sys.path.insert(0, str(BENCH))
    try:
        families = module_of("families")
    finally:
        sys.path.remove(str(BENCH))
    rows = json.loads((BENCH / "results" / "families.json").read_text())["families"]
    assert [row["name"] for row in rows] == list(architectures.ARCHITECTURES), "run bench/families.py again"
    assert all(row["trains"] and row["resumes"] for row in rows)
    assert max(row[who] for row in rows for who in ("engine", "learner")) < 1e-5
    page = (BENCH.parent / "docs" / "models.md").read_text()
    assert families.table(rows) in page, "run `python bench/families.py --markdown docs/models.md`"
