import numpy as np
import pytest
from run_support import tiny_folder, tiny_run

from groupwise.errors import ConfigError
from groupwise.lab import replay_page
from groupwise.lab.replay import replay
from groupwise.run.disk import read_lines
from groupwise.run.loop import train

METHODS = ("dr_grpo", "grpo", "grpo:kl=0", "dapo", "remax", "ppo")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("replay")
    return train(tiny_run(tiny_folder(place / "base"), "kept", keep_groups=4, keep_rollouts=1, checkpoint_every=1), place)


@pytest.fixture(scope="module")
def found(folder):
    return replay(folder, METHODS)


def test_the_run_s_own_method_has_the_run_s_own_gradient(folder, found):
    own, first = found["methods"][0], read_lines(folder / "metrics.jsonl")[0]
    assert (found["step"], found["weights"], found["on_policy"]) == (1, 0, True)
    assert own["norm"] == pytest.approx(first["grad_norm"], rel=1e-4)
    assert own["loss"] == pytest.approx(first["loss"], abs=1e-6)


def test_the_weights_of_tokens_are_those_of_the_equation(folder, found):
    rows = [row for row in read_lines(folder / "rollouts.jsonl") if row["step"] == 1]
    n = sum(len(row["rollouts"]) for row in rows)
    for row in rows:
        for i, r in enumerate(row["rollouts"]):
            slopes = found["methods"][0]["slopes"][f"{row['group']}#{i}"]
            assert slopes == pytest.approx([-r["advantage"] / (n * 8)] * len(r["ids"]), abs=1e-7)  # Dr. GRPO: 1/(N L), L = 8


def test_cosines_and_reasons(found):
    names, cosines = found["replayed"], np.array(found["cosines"])
    assert np.allclose(cosines, cosines.T)
    assert np.allclose(np.diag(cosines), 1.0)
    assert cosines[names.index("grpo"), names.index("grpo:kl=0")] == pytest.approx(1.0)  # the policy is its own reference
    assert cosines[names.index("grpo"), names.index("dr_grpo")] < 0.9999
    trouble = {one["name"]: one["trouble"] for one in found["methods"] if "trouble" in one}
    assert "no_greedy" in trouble["remax"]


def test_at_other_weights_ratios_divide_by_those_that_sampled(folder):
    found = replay(folder, ["dr_grpo", "dr_grpo:clip_high=0.0001,clip_low=0.0001"], weights="2")
    assert not found["on_policy"]
    loose, tight = found["methods"]
    assert tight["pulled"] < loose["pulled"]
    assert sum(tight["clipped"]) > 0.05
    rows = [row for row in read_lines(folder / "rollouts.jsonl") if row["step"] == 1]
    ratios = [np.exp(np.array(r["after"]) - np.array(r["before"])) for row in rows for r in row["rollouts"]]
    # `after` in the record is at the weights after step 1
    near = replay(folder, ["dr_grpo:clip_low=0.9,clip_high=9"], weights="1")["methods"][0]
    slopes = [s for row in near["slopes"].values() for s in row]
    wanted = [-r["advantage"] / (len(ratios) * 8) * x for r, ratio in
              zip([r for row in rows for r in row["rollouts"]], ratios, strict=True) for x in ratio]
    assert slopes == pytest.approx(wanted, abs=2e-6)


def test_fresh_rollouts_and_what_there_is_not(folder):
    fresh = replay(folder, ["grpo"], fresh=True, most=2)
    assert (fresh["weights"], fresh["on_policy"], len(fresh["groups"])) == (2, True, 2)
    with pytest.raises(ConfigError, match="there are those of 1, 2"):
        replay(folder, ["grpo"], step=7)
    with pytest.raises(ConfigError, match="checkpoints 1, 2"):
        replay(folder, ["grpo"], weights="9")
    with pytest.raises(ConfigError, match="did you mean 'dr_grpo'"):
        replay(folder, ["dr_gpro"])


def test_the_page_shows_every_token_of_every_method(found):
    page = replay_page.html(found)
    assert page.count("class=replayed") == 16
    assert page.count("<td title=") == sum(one["pulled"] for one in found["methods"] if "pulled" in one)
    assert "Cosines" in replay_page.console(found)
