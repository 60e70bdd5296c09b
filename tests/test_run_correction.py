"""Behaviour and correction from the settings, for any method."""

import pytest
from run_support import tiny_folder, tiny_run

from groupwise.errors import ConfigError
from groupwise.objective.correction import Masked, Normalised, Rejected, Truncated, Uncorrected
from groupwise.run.compose import method_of
from groupwise.run.config import from_toml, from_words, to_toml
from groupwise.run.disk import read_lines
from groupwise.run.loop import train
from groupwise.run.settings import Run


def composed(*words):
    return method_of(from_words(list(words), Run()), 64)


@pytest.mark.parametrize(("words", "made"), [
    ("none", Uncorrected()), ("truncated --correction-args cap=3 unit=sequence", Truncated(3, "sequence")), ("masked", Masked()),
    ("rejected --correction-args statistic=k3 over=max low=none high=0.1 weight=truncated",
     Rejected("k3", "max", None, 0.1, Truncated())),
    ("normalised --correction-args inner=masked", Normalised(Masked()))])
def test_every_correction_goes_with_every_method(words, made):
    for name in ("grpo", "gspo", "dapo"):
        assert composed("--method", name, "--correction", *words.split()).objective.correction == made
    run = from_words(["--correction", *words.split()], Run())
    assert from_toml(to_toml(run)) == run


def test_the_method_says_where_nothing_is_asked_for():
    assert composed().behaviour == "old"
    assert composed("--behaviour", "recorded").divides_by == "recorded"


@pytest.mark.parametrize(("words", "said"), [
    ("--correction truncated --correction-args top=3", "has no argument 'top'; valid: cap, floor, mean, unit"),
    ("--correction none --correction-args cap=3", "has no argument 'cap'; it takes none"),
    ("--correction truncated --correction-args cap=high", "cap must be a number, got 'high'"),
    ("--correction truncated --correction-args unit=word", "not at 'word'"),
    ("--correction rejected --correction-args weight=clip", "weight must be the name of a correction, got 'clip'"),
    ("--correction-args cap=3", "correction_args without a correction"),
    ("--behaviour recorded --correction masked", "would count the mismatch between engine and learner twice")])
def test_what_cannot_be_is_named(words, said):
    with pytest.raises(ConfigError, match=said):
        composed(*words.split())


def test_a_run_takes_them(tmp_path):
    model = tiny_folder(tmp_path / "base")
    run = tiny_run(model, behaviour="recorded", steps=1)
    (row,) = read_lines(train(run, tmp_path) / "metrics.jsonl")
    assert "kl_behaviour_k1" in row
    assert "mismatch_mean" not in row
    run = tiny_run(model, "other", correction="truncated", correction_args={"cap": 0.5}, steps=1)
    (row,) = read_lines(train(run, tmp_path) / "metrics.jsonl")
    assert row["correction_mean"] == pytest.approx(0.5)
    assert row["mismatch_sequence_max"] >= row["mismatch_sequence"] >= row["mismatch_sequence_rate"] >= 0.0
