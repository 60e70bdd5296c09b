"""groupwise from Python: the same settings, checks and runs as from the command line, with objects in place of names."""

import inspect
import json
import linecache
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from run_rewards import digits
from run_support import REWARD, tiny_folder, tiny_policy

import groupwise
from groupwise import cli
from groupwise.errors import ConfigError, DataError
from groupwise.run.config import flags, from_keywords, from_words
from groupwise.run.given import sorted_out
from groupwise.run.settings import Run
from groupwise.run.source import reference, source
from groupwise.tasks import make

ROOT = Path(groupwise.__file__).parent.parent
SMALL = {"steps": 2, "prompts_per_step": 4, "group_size": 4, "eval_every": 2, "eval_prompts": 8, "max_tokens": 8, "threads": 1,
         "workers": 1, "device": "cpu", "compute": "modules", "verify_deadline": 60.0}
NOTEBOOK = """
import re
import math as m
from collections import Counter
from functools import lru_cache

WORD, LIMIT, DAYS = re.compile("[a-z]+", re.I), 40, {"mon": 1, "tue": (2, 3.5)}
model = object()


@lru_cache
def root(x):
    return m.sqrt(x)


def even(n):
    return n == 0 or odd(n - 1)


def odd(n):
    return n != 0 and even(n - 1)


def brief(completion, answer, *, limit=LIMIT, **columns):
    model = Counter(WORD.findall(completion))
    return {"a": root(len(model)), "b": sum(DAYS.get(w, (0,))[0] if w == "tue" else 1 for w in model) / limit, "c": even(4)}


def made(k):
    def inner(completion, answer):
        return len(completion) / k
    return inner


def uses(completion, answer):
    return model


nameless = lambda completion, answer: 0.0
"""


@pytest.fixture(scope="module")
def notebook():
    """The names of a notebook's cell."""
    linecache.cache["<cell 1>"] = (len(NOTEBOOK), None, NOTEBOOK.splitlines(keepends=True), "<cell 1>")
    names = {"__name__": "__main__"}
    exec(compile(NOTEBOOK, "<cell 1>", "exec"), names)
    return names


def test_importing_it_loads_no_torch():
    code = "import groupwise, sys; dir(groupwise); print(groupwise.__version__, 'torch' in sys.modules, 'rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == [groupwise.__version__, "False", "False"], done.stderr


def test_all_that_is_public_is_there():
    for name in dir(groupwise):
        assert getattr(groupwise, name) is not None
    with pytest.raises(AttributeError, match=r"'trian'; it has .*train"):
        _ = groupwise.trian


def test_every_flag_is_a_keyword_and_nothing_else_is():
    names = {flag.removeprefix("--").replace("-", "_") for flag in flags()} - {"json"}
    known = set(inspect.signature(groupwise.train).parameters)
    assert names == known - {"root", "tokenizer"}
    parts = (Run(), Run().sampling, Run().learner, Run().serving)
    flat = {name: getattr(part, name) for part in parts for name in names if hasattr(part, name)}
    flat["run"] = ""
    assert set(flat) == names - {"config"}
    assert from_keywords(flat, Run()) == Run()


def test_keywords_mean_what_the_words_mean():
    words = ["--lr", "1e-3", "--betas", "0.8", "0.9", "--method-args", "kl=0", "--stop", "x", "y", "--run", "a"]
    given = {"lr": 1e-3, "betas": (0.8, 0.9), "method_args": {"kl": 0}, "stop": ["x", "y"], "run": "a"}
    assert from_keywords(given, Run(method="grpo")) == from_words(words, Run(method="grpo"))
    assert from_keywords({"task_args": {"b": 2}}, Run(task_args={"a": 1})).task_args == {"a": 1, "b": 2}


@pytest.mark.parametrize(("given", "said"), [
    ({"stepz": 3}, "unknown setting 'stepz'.*did you mean 'steps'"), ({"json": "x"}, "unknown setting 'json'"),
    ({"steps": "3"}, "steps must be a whole number, got '3'"), ({"lr": 2}, "lr must lie between 0 and 1, got 2"),
    ({"top_p": 0.9}, "top_p=0.9"), ({"schedule": "cosin"}, "did you mean 'cosine'"),
    ({"rewards": [3]}, "a reward is a function, a name .*got int"), ({"rewards": [len]}, "len"),
    ({"rewards": [lambda completion, answer: 0]}, "no function with a name"),
    ({"rewards": [lambda completion: 0]}, "is given a completion and an answer"),
    ({"task": []}, "task is an empty list"), ({"task": [{"prompt": "a", "answer": {1}}]}, "row 1: column 'answer' holds set"),
    ({"task_args": "train=3"}, "task_args must be a table, got 'train=3'"),
    ({"task": ["a"]}, "task, row 1: expected a dict"), ({"task": 3}, "list of problems"),
    ({"model": object()}, "with its tokenizer=..., got object"), ({"tokenizer": 3}, "without its model"),
    ({"config": "absent.toml"}, "no such file"), ({"task": [{"prompt": "1+1="}] * 4, "model": "m"}, "line 1: no answer")])
def test_what_cannot_be_is_refused_and_leaves_nothing(given, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, DataError), match=said):
        groupwise.train(**given)
    assert not list(tmp_path.glob("runs/*"))


def test_a_function_is_written_down_with_what_it_uses(notebook, tmp_path):
    for function, alike in ((notebook["brief"], ("tue mon", 3)), (notebook["made"](7), ("abcdefg", 0))):
        text, names = source(function), {"__name__": "elsewhere"}
        exec(text, names)
        assert names[function.__name__](*alike) == function(*alike)
        assert "object" not in text
    assert reference(digits, tmp_path, "reward") == "run_rewards:digits"
    assert re.fullmatch(r".*/brief\.py:brief", reference(notebook["brief"], tmp_path, "reward"))
    two = sorted_out(None, None, None, {"a": notebook["made"](3), "b": notebook["made"](7)}, {}).fill(Run(), tmp_path).rewards
    files = [Path(one.partition("=")[2].rpartition(":")[0]) for one in two]
    assert [file.read_text().partition("\n")[0] for file in files] == ["k = 3", "k = 7"]
    with pytest.raises(ConfigError, match=r"uses 'model' \(object\), which cannot be given"):
        source(notebook["uses"])
    with pytest.raises(ConfigError, match="no function with a name"):
        reference(notebook["nameless"], tmp_path, "reward")


def test_objects_make_a_run_that_its_folder_describes(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policy, before = tiny_policy(), torch.get_num_threads()
    policy.model.train()
    problems = [{"prompt": f"{n}+1=", "answer": n + 1, "hint": "x"} for n in range(20)]
    made = groupwise.train(policy.model, problems, tokenizer=policy.tokenizer, rewards={"half": notebook["made"](16)},
                           task_args={"verifier": digits},
                           method="rloo", keep_rollouts=0, **SMALL)
    assert policy.model.training
    assert torch.get_num_threads() == before
    assert (made.settings["task"], made.settings["model"]) == ("runs/rloo-data-0/given/data.jsonl", "runs/rloo-data-0/base")
    assert made.settings["rewards"] == ["half=runs/rloo-data-0/given/half.py:inner"]
    assert made.settings["task_args"]["verifier"] == "run_rewards:digits"
    assert made.metrics["step"] == [1, 2]
    assert len(made.metrics["reward/half"]) == 2
    assert all(0 < x <= 0.5 for x in made.metrics["reward/half"])
    assert made.metrics[-1]["grad_norm"] > 0
    assert type(made.metrics[:1]) is type(made.metrics)
    assert [row["step"] for row in made.evaluations] == [0, 2]
    assert made.samples[0]["prompt"].endswith("+1=")
    assert made.plot().png == (made.folder / "curve.png").read_bytes() == made.plot()._repr_png_()
    model, tokenizer = made.models.final.load()
    assert model.num_parameters() == policy.model.num_parameters()
    assert tokenizer("1+1=")["input_ids"] == policy.tokenizer("1+1=")["input_ids"]
    assert "held-out accuracy" in repr(made)
    assert "<table>" in made._repr_html_()
    with pytest.raises(ConfigError, match="no row has 'rewrd'"):
        made.metrics["rewrd"]

    again = groupwise.train(made.models.base, config=made.folder / "run.toml")  # by its file alone, and under a free name
    assert again.folder.name == "rloo-data-0-2"
    assert (again.folder / "metrics.jsonl").read_bytes() == (made.folder / "metrics.jsonl").read_bytes()
    (again.folder / "summary.json").unlink()
    assert groupwise.load_run("rloo-data-0-2").summary == {}
    assert groupwise.load_run("rloo-data-0-2").plot().png[:4] == b"\x89PNG"
    assert groupwise.resume("rloo-data-0-2").summary["steps"] == 2
    with pytest.raises(ConfigError, match="did you mean 'rloo-data-0"):
        groupwise.load_run("rlo-data-0")


@pytest.mark.slow
def test_python_and_the_command_line_make_the_same_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny_folder(tmp_path / "model")
    words = [part for name, value in SMALL.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    more = ["--model", str(model), "--rewards", REWARD, "--task-args", "train=64", "heldout=16", "kmin=2", "kmax=3"]
    assert cli.main(["train", "--run", "words", *words, *more]) == 0
    task = {"train": 64, "heldout": 16, "kmin": 2, "kmax": 3}
    made = groupwise.train(model, rewards=REWARD, task_args=task, run="keys", **SMALL)
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert (made.folder / name).read_bytes() == Path("runs/words", name).read_bytes()


def test_a_task_goes_through_a_file_unchanged(tmp_path):
    task = make("reduce", {"train": 30, "heldout": 6})
    given = sorted_out(None, None, task, (), {})
    run = given.fill(from_keywords(given.words, Run()), tmp_path)
    read = make(run.task, run.task_args)
    assert [(p.id, p.text, p.answer, dict(p.meta)) for p in (*read.train, *read.heldout)] == \
        [(p.id, p.text, p.answer, {**p.meta, "id": p.id.partition("/")[2], "split": split})
         for part, split in ((task.train, "train"), (task.heldout, "test")) for p in part]
    same = ("name", "verifier", "template", "max_tokens")
    assert [getattr(read, name) for name in same] == [getattr(task, name) for name in same]
    with pytest.raises(ConfigError, match="has an environment"):
        sorted_out(None, None, make("run_tasks:twice", {}), (), {})


def test_explanations_print_themselves():
    assert "clip(ρ, 0.8, 1.3)" in repr(groupwise.explain("dapo", clip_high=0.3))
    assert "Parts that differ" in repr(groupwise.diff("grpo", groupwise.explain("grpo", clip_low=0.1)))
    assert groupwise.explain("grpo").page.startswith("<!doctype html>")
    with pytest.raises(ConfigError, match="method 'dapo' needs 'max_tokens'"):
        groupwise.method("dapo")


def test_the_tutorial_runs_as_it_is_kept():
    book = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text())
    assert len(json.dumps(book)) < 300_000
    done = subprocess.run([sys.executable, str(ROOT / "bench" / "notebook.py"), "--check"], capture_output=True, text=True,
                          timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
