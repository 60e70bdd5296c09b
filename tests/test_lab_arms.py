from dataclasses import replace

import pytest
from run_support import tiny_folder, tiny_run

from groupwise.errors import ConfigError
from groupwise.lab import ladder
from groupwise.lab.arms import arms, differing, run_of
from groupwise.lab.comparison import headline
from groupwise.run.settings import Run


@pytest.fixture
def run(tmp_path):
    return tiny_run(tiny_folder(tmp_path / "base"), name="")


def test_only_the_method_differs_between_methods(run):
    found = arms(["grpo", "dr_grpo"], ["--steps", "3"], run)
    apart = differing(found)
    assert [(c.path, c.values) for c in apart.method] == [("method", ("grpo", "dr_grpo"))]
    assert apart.other == ()
    assert any(c.path == "objective.terms.policy.aggregate" for c in apart.composition)
    assert {one.run.steps for one in found} == {3}
    assert headline(found)[-1].startswith("the method alone differs")


def test_anything_else_that_differs_is_named(run, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('method = "grpo"\ngroup_size = 6\n')
    found = arms(["grpo:kl=0,lr=1e-3", "dr_grpo", f"{file}:task_args={{train=64, heldout=16}}"], [], run)
    other = {c.path: c.values for c in differing(found).other}
    assert other["learner.lr"] == (1e-3, 3e-3, 6e-5)
    assert other["group_size"][2] == 6
    assert "base weights" in other  # the file's run starts from the shipped policy
    assert "method_args.kl" not in other
    assert headline(found)[-1].startswith("NOT MATCHED: base weights")


def test_the_same_weights_in_another_folder_are_the_same(run, tmp_path):
    other = tiny_folder(tmp_path / "copy")
    found = arms(["grpo", f"dr_grpo:model={other}"], [], run)
    assert differing(found).other == ()


@pytest.mark.parametrize(("words", "said"), [
    (["grpo", "grpo"], "the same settings"),
    (["grpo", "nope"], "unknown method 'nope'"), (["grpo", "no.toml"], "no file no.toml"),
    (["grpo", "dr_grpo:seed=3"], "sets seed"), (["grpo", "dr_grpo:clip_hgih=3"], "did you mean 'clip_high'")])
def test_arms_that_cannot_be(words, said, run):
    with pytest.raises(ConfigError, match=said):
        arms(words, [], run)


def test_a_run_is_known_by_its_content(run, tmp_path):
    reward = tmp_path / "rewards.py"
    reward.write_text("def some(text, answer):\n    return 1.0\n")
    one, = arms(["grpo"], [], replace(run, rewards=(f"{reward}:some",)))
    name = run_of(one, 0).name
    assert run_of(one, 0).name == name
    other, = arms(["grpo:steps=3"], [], replace(run, rewards=(f"{reward}:some",)))
    assert len({name, run_of(one, 1).name, run_of(other, 0).name}) == 3
    reward.write_text("def some(text, answer):\n    return 2.0\n")
    assert run_of(one, 0).name != name


def test_the_shipped_ladder_changes_one_thing_a_rung():
    words = ladder.rungs(["recipe:small-dapo"])
    assert [word.split("-")[2] for word in words] == list("012345")
    assert ladder.check(arms(words, [], Run())) == [
        "method_args.overlong_filter: False -> True", "method_args.clip_high: 0.2 -> 0.28", "method_args.overlong_cache: 0 -> 13",
        "method_args.token_level: False -> True", "method_args.dynamic_sampling: False -> True"]


def test_ladders_that_cannot_be(run, tmp_path):
    with pytest.raises(ConfigError, match="recipe:small-dapo"):
        ladder.rungs(["recipe:small"])
    with pytest.raises(ConfigError, match=r"mine-0\.toml"):
        ladder.rungs([str(tmp_path / "mine")])
    for n in (0, 2, 10):
        (tmp_path / f"mine-{n}.toml").write_text(f"steps = {n + 1}\n")
    assert [word[-7:-5] for word in ladder.rungs([str(tmp_path / "mine")])] == ["-0", "-2", "10"]
    with pytest.raises(ConfigError, match="changes 2 settings"):
        ladder.check(arms(["grpo", "grpo:kl=0,clip_high=0.3"], [], run))
