"""A run knows its equation: a release that composes the method otherwise is noticed on resume, field by field."""

import re
import shutil
from pathlib import Path

import pytest
from run_support import tiny_folder, tiny_run

from groupwise import cli
from groupwise.errors import CheckpointError
from groupwise.methods import METHODS
from groupwise.methods.method import Method
from groupwise.objective.aggregate import TokenMean
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.run import toml
from groupwise.run.catalogue import default
from groupwise.run.equation import arguments, differences, equation
from groupwise.run.loop import resume, train

CLIP = '"objective.terms.policy.trust.high"'


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    place = tmp_path_factory.mktemp("whole")
    run = tiny_run(tiny_folder(place / "model"), method="dapo", task="run_tasks:parity", checkpoint_every=1)
    return train(run, place / "runs")


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / whole.name))


def edit(folder, old, new):
    """Change what the run's file says, as an older release would have written it."""
    file = folder / "run.toml"
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def table(folder):
    return toml.read((folder / "run.toml").read_text(), "run.toml")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_written_down(name):
    found = equation(default(METHODS[name]))
    assert found["objective.terms.policy"] == "Policy"
    assert found["update"] in ("Once", "Minibatches")
    assert not [value for value in found.values() if "0x" in value]  # an address is of one process only
    assert differences(found, equation(default(METHODS[name]))) == []
    assert toml.read(toml.document({"equation": found}), "x")["equation"] == found


def test_different_objectives_are_written_differently():
    seen = {}
    for name, factory in METHODS.items():
        method = default(factory)
        key = tuple(sorted((k, v) for k, v in equation(method).items() if k.startswith("objective.")))
        assert seen.setdefault(key, method.objective.hash) == method.objective.hash, name
    assert len(seen) == len({default(factory).objective.hash for factory in METHODS.values()})


def test_what_has_no_name_of_its_own():
    class Own:
        def __call__(self, group):
            return None
    method = Method(Objective(Advantage(), (Policy(aggregate=TokenMean()),)), admit=(lambda group: None, Own()))
    found = equation(method)
    assert found["admit.0"].endswith("<lambda>")
    assert found["admit.1"].endswith("Own")


def test_differences_name_every_field():
    old, new = {"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "5", "d": "4"}
    assert differences(old, new) == ["b: 2 -> 5", "c: 3 -> (gone)", "d: (not there) -> 4"]


def test_the_file_of_a_run_has_its_equation(whole):
    found = table(whole)
    method = METHODS["dapo"](max_tokens=8)
    assert found["equation"] == equation(method)
    assert found["meta"]["objective"] == method.objective.hash
    assert found["equation"]["objective.terms.policy.trust.high"] == "0.28"


def test_another_equation_stops_the_run_and_says_how_to_go_on(copy):
    edit(copy, f'{CLIP} = "0.28"', f'{CLIP} = "0.25"')
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    with pytest.raises(CheckpointError) as caught:
        resume(copy)
    said = str(caught.value)
    assert "objective.terms.policy.trust.high: 0.25 -> 0.28" in said
    assert "--accept-equation" in said
    assert f"set clip_high = 0.25 under [method_args] in {copy / 'run.toml'}" in said
    assert re.search(r"groupwise \S+ then, \S+ now", said)
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_the_arguments_it_names_bring_the_old_equation_back(copy):
    edit(copy, f'{CLIP} = "0.28"', f'{CLIP} = "0.25"')
    edit(copy, "[method_args]\n", "[method_args]\nclip_high = 0.25\n")
    assert resume(copy) == copy


def test_it_goes_on_when_accepted_and_asks_once(copy, capsys):
    shutil.rmtree(copy / "checkpoints/step-000002")
    edit(copy, f'{CLIP} = "0.28"', f'{CLIP} = "0.25"')
    assert cli.main(["resume", str(copy)]) == cli.REFUSED
    assert "0.25 -> 0.28" in capsys.readouterr().err
    assert cli.main(["resume", str(copy), "--accept-equation"]) == 0
    said = capsys.readouterr().out
    assert "warning: the equation is another one than before, as accepted: objective.terms.policy.trust.high: 0.25 " in said
    found = table(copy)
    assert found["meta"]["accepted"] == ["after step 1: objective.terms.policy.trust.high: 0.25 -> 0.28"]
    assert found["equation"] == equation(METHODS["dapo"](max_tokens=8))
    assert resume(copy) == copy


def test_surroundings_count_too(copy):
    edit(copy, '"refill.rounds" = "10"', '"refill.rounds" = "3"')
    with pytest.raises(CheckpointError, match=r"refill\.rounds: 3 -> 10(.|\n)*set rounds = 3"):
        resume(copy)


def test_a_class_that_is_no_longer_chosen_by_an_argument(copy):
    edit(copy, '"objective.terms.policy.aggregate" = "TokenMean"', '"objective.terms.policy.aggregate" = "SequenceMean"')
    with pytest.raises(CheckpointError, match="no argument of the method brings the old one back"):
        resume(copy)


def test_a_changed_setting_is_noticed_like_a_changed_release(copy):
    text = (copy / "run.toml").read_text()
    (copy / "run.toml").write_text(text.replace("[method_args]", "[method_args]\nclip_low = 0.1"))
    with pytest.raises(CheckpointError, match=r"trust\.low: 0\.2 -> 0\.1"):
        resume(copy)


def test_a_file_without_an_equation(copy):
    file = copy / "run.toml"
    text = file.read_text().partition("[equation]")[0]
    file.write_text(text)
    assert resume(copy) == copy  # the hash is the same
    file.write_text(re.sub(r'^objective = "\w+"', 'objective = "feed"', text, flags=re.MULTILINE))
    with pytest.raises(CheckpointError, match=r"objective\.hash: feed -> "):
        resume(copy)
    resume(copy, accept_equation=True)
    assert table(copy)["equation"]


def test_several_arguments_are_found(whole):
    run = tiny_run(Path("model"), method="dapo")
    old = {**table(whole)["equation"], "objective.terms.policy.trust.high": "0.3", "objective.terms.policy.trust.low": "0.1"}
    assert arguments(run, old) == ({"clip_low": 0.1, "clip_high": 0.3}, [])
