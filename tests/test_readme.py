"""The README is executed: its files are written, the commands that use them run, and all other commands are read in earnest."""

import importlib.util
import re
import shlex
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest

import groupwise
from groupwise import cli
from groupwise.lab.scorecard import Table
from groupwise.methods import METHODS
from groupwise.methods.method import Method
from groupwise.methods.update import Minibatches
from groupwise.models.build import character_tokenizer, random_policy
from groupwise.models.load import policy_of, save
from groupwise.objective.objective import Objective
from groupwise.objective.returns import Gae
from groupwise.objective.terms import ValueLoss
from groupwise.run.config import to_toml
from groupwise.run.disk import read_json
from groupwise.run.learner_settings import LearnerSettings
from groupwise.run.settings import Run, SamplingSettings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {"README.md": README, "CONTRIBUTING.md": (ROOT / "CONTRIBUTING.md").read_text()}
SHIPPED = Path(groupwise.__file__).parent / "tasks" / "policies" / "reduce"
SMALL = shlex.split("--steps 1 --prompts-per-step 4 --group-size 4 --eval-prompts 8 --task-args train=64 heldout=16 "
                    "--max-tokens 12 --threads 1 --device cpu --json summary.json")


def blocks(text):
    """The fenced Python of a page that says which file it is."""
    return dict(re.findall(r"^```python\n# file: (\S+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))


def commands(text):
    """The words of every indented command line of a page."""
    lines = re.findall(r"^    ((?:\S*/)?(?:groupwise|make|python)\b.*)$", text, re.MULTILINE)
    words = [shlex.split(line, comments=True) for line in lines]
    return [[Path(name).name, *rest] for name, *rest in words]


def uses(words, file):
    """Whether a command names something of a Python file."""
    return any(re.match(rf"{Path(file).stem}(\.py)?:", word) for word in words)


FILES = blocks(README)
TRAINED = [(file, words[1:]) for file in FILES for words in commands(README) if words[0] == "groupwise" and uses(words, file)]
READ = sorted({tuple(words[1:]) for page in PAGES.values() for words in commands(page) if words[0] == "groupwise"}
              - {tuple(words) for _, words in TRAINED})


@pytest.fixture
def bench_readme():
    spec = importlib.util.spec_from_file_location("bench_readme", ROOT / "bench" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in; modules that are found there are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for file in FILES:
        sys.modules.pop(Path(file).stem, None)


def base(folder):
    """The words that name a base policy: none if the package ships one, else a tiny random one."""
    if SHIPPED.is_dir():
        return []
    tokenizer = character_tokenizer()
    save(policy_of(random_policy(tokenizer, hidden=32, layers=1, mlp=64), tokenizer), folder / "tiny")
    return ["--model", str(folder / "tiny")]


def test_every_file_of_the_readme_is_used_by_a_command_and_the_readme_has_commands():
    assert set(FILES) == {file for file, _ in TRAINED} != set()
    assert {words[0] for words in READ} >= {"train", "resume", "methods", "warmup"}


QUICK = {"check": ["--quick"], "audit": ["--group-size", "2", "--workers", "1"]}


@pytest.mark.parametrize(("file", "words"), TRAINED, ids=[file for file, _ in TRAINED])
def test_files_and_the_commands_that_use_them_run(file, words, here, capsys):
    (here / file).write_text(FILES[file])
    if words[0] in QUICK:
        assert cli.main([*words, *QUICK[words[0]]]) == 0, capsys.readouterr().out
        return
    assert cli.main([*words, *SMALL, *base(here)]) == 0, capsys.readouterr().err
    summary = read_json(here / "summary.json")
    assert (summary["steps"], summary["accuracy"]["after"]["n"]) == (1, 8)


@pytest.mark.parametrize("words", [  # the bundled vectors take seconds, and tests/test_lab_conformance.py goes through them
    pytest.param(words, id=" ".join(words), marks=[pytest.mark.slow] * (words == ("conformance",))) for words in READ])
def test_all_other_commands_can_be_read(words, here, monkeypatch, capsys):
    done = []
    for name in ("comparison", "replay"):  # which take names from the loop when they are imported
        importlib.import_module(f"groupwise.lab.{name}")
    loop = types.ModuleType("groupwise.run.loop")
    loop.train = loop.resume = lambda what, **_: done.append(what) or here
    monkeypatch.setitem(sys.modules, "groupwise.run.loop", loop)
    monkeypatch.setattr("groupwise.run.warmup.warmup", done.append)
    monkeypatch.setattr("groupwise.lab.plan.plan", lambda run: done.append(run) or types.SimpleNamespace(fits=True, lowered={}))
    monkeypatch.setattr("groupwise.lab.plan.lines", lambda found: [])
    monkeypatch.setattr("groupwise.lab.preflight.preflight", lambda run: done.append(run) or types.SimpleNamespace(learns=True))
    monkeypatch.setattr("groupwise.lab.preflight.show", lambda report, console: None)
    monkeypatch.setattr("groupwise.lab.comparison.compare", lambda arms, *more: done.append(arms) or {})
    monkeypatch.setattr("groupwise.lab.ladder.table", lambda *given: Table("", (), ()))
    monkeypatch.setattr("groupwise.lab.comparison_page.console", str)
    monkeypatch.setattr("groupwise.lab.comparison_page.verdict", lambda found: [])
    monkeypatch.setattr("groupwise.lab.replay.replay", lambda folder, words, **more: done.append(words) or {})
    monkeypatch.setattr("groupwise.lab.replay_page.console", str)
    monkeypatch.setattr("groupwise.lab.evals.evaluate", lambda own: done.append(own) or {"folder": ""})
    for i, word in enumerate(words):  # what an earlier command of the page would have left behind
        if word == "--config":
            Path(words[i + 1]).parent.mkdir(parents=True)
            Path(words[i + 1]).write_text(to_toml(Run()))
    if words[0] in ("resume", "diagnose", "replay"):
        (here / "runs" / words[1]).mkdir(parents=True)
        (here / "runs" / words[1] / "run.toml").write_text(to_toml(Run(
            sampling=SamplingSettings(max_tokens=64), learner=LearnerSettings(dtype="float32"))))
    try:
        code = cli.main([*words, "--quick"] if words[0] == "diagnose" else words)
    except SystemExit as stop:  # of --help, or of a command that cannot be read
        code = stop.code
    said = capsys.readouterr()
    assert not code, said.err
    assert done or said.out


@pytest.mark.parametrize("page", PAGES)
def test_commands_files_and_targets_exist(page):
    text = PAGES[page]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    inline = [shlex.split(code) for code in re.findall(r"`((?:groupwise|make) [^`]+)`", text)]
    for name, first, *_ in [*commands(text), *inline]:
        known = {"make": targets, "groupwise": set(cli.COMMANDS), "python": {first} if (ROOT / first).is_file() else set()}[name]
        assert first in known, f"{page}: {name} {first}"


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_exist(page):
    found = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page])]
    missing = [link for link in found if link and not link.startswith(("http://", "https://")) and not (ROOT / link).exists()]
    assert missing == []


def test_the_generated_sections_are_up_to_date(bench_readme, capsys):
    assert bench_readme.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_readme_is_noticed_and_filled(bench_readme, tmp_path, monkeypatch):
    copy = tmp_path / "README.md"
    copy.write_text(README.replace("[`grpo`]", "[`gripo`]"))
    monkeypatch.setattr(bench_readme, "README", copy)
    stale = copy.read_text()
    assert bench_readme.main(["--check"]) == 1
    assert copy.read_text() == stale
    assert bench_readme.main([]) == 0
    assert copy.read_text() == README
    copy.write_text(README.replace("<!-- results: end -->", ""))
    with pytest.raises(SystemExit, match="results: begin"):
        bench_readme.main([])


def test_parts_in_words(bench_readme):
    plain = bench_readme.parts(METHODS["rloo"]())
    assert plain == {"baseline": "leave one out", "scale": "-", "ratio": "-", "trust": "log prob", "aggregate": "sequence sum",
                     "besides": "-"}
    assert bench_readme.parts(METHODS["rloo"](kl_in_reward=0.1)) == plain | {"besides": "reward minus kl"}
    several = replace(METHODS["gspo"](clip_low=0.01, clip_high=0.02), update=Minibatches(4))
    assert bench_readme.parts(several) == {
        "baseline": "group mean", "scale": "group std", "ratio": "sequence ratio", "trust": "clip (low 0.01, high 0.02)",
        "aggregate": "sequence mean", "besides": "minibatches (n 4, epochs 1)"}
    critic = Objective(credit_by=Gae(), terms=(ValueLoss(coef=0.5),))
    assert bench_readme.parts(Method(objective=critic)) == {
        "baseline": "gae", "scale": "-", "ratio": "-", "trust": "-", "aggregate": "token mean", "besides": "value 0.5"}


def test_results_show_every_seed_with_its_interval_and_the_mean(bench_readme, tmp_path):
    def row(seed, after):
        return {"seed": seed, "before": {"value": 0.25, "low": 0.2, "high": 0.3, "n": 500},
                "after": {"value": after, "low": after - 0.05, "high": after + 0.05, "n": 500}, "seconds": 90.0, "tokens": 12_345}

    found = {"command": "python bench/train_seeds.py", "machine": "2 cores", "rows": [row(0, 0.75), row(1, 0.85)]}
    text = bench_readme.results_table(found)
    assert "    python bench/train_seeds.py\n" in text
    assert "| 0 | 25.0% [20.0%, 30.0%] | 75.0% [70.0%, 80.0%] | 1.5 | 12,345 |" in text
    assert "| mean | 25.0% | 80.0% | 1.5 | 12,345 |" in text
    assert "mean" not in bench_readme.results_table(found | {"rows": [row(0, 0.75)]})
    assert bench_readme.results(tmp_path) == ""
