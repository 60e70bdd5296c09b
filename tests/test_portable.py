"""What a run needs of the system: nothing that only some systems have, without another way or a message.

Windows and macOS are played here as far as Python lets them: their names, and without what they lack.
"""

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from run_support import tiny_folder, tiny_run

from groupwise import cli
from groupwise.kernels import build
from groupwise.run import finish, plot
from groupwise.run.disk import read_lines
from groupwise.run.loop import train

ROOT = Path(__file__).parent.parent
PLAY = '''
import importlib, os, pathlib, signal, socket, subprocess, sys, types
names = [".".join(("groupwise", *p.relative_to("groupwise").with_suffix("").parts)).removesuffix(".__init__")
         for p in sorted(pathlib.Path("groupwise").rglob("*.py")) if p.stem != "__main__"
         and p.stem != "inside"  # which runs in the environment of vLLM only
         and (p.parent.name != "inside" or p.stem == "wire")]  # the rest runs in a sandbox only, which Linux alone has
for name in names:  # with all that they import of others
    importlib.import_module(name)

def again(system, modules, lacking):
    for name in [name for name in sys.modules if name.split(".")[0] == "groupwise"]:
        del sys.modules[name]
    sys.platform = system
    for name in modules:
        sys.modules[name] = None
    kept = [(of, name, vars(of).pop(name)) for of, some in lacking.items() for name in some if name in vars(of)]
    for name in names:
        importlib.import_module(name)
    from groupwise.run import disk, machine
    disk.publish(pathlib.Path(sys.argv[1], system, "build"), pathlib.Path(sys.argv[1], system, "final"))
    disk.write(pathlib.Path(sys.argv[1], system, "file"), b"whole")
    assert machine.cores() >= 1
    for of, name, value in kept:
        setattr(of, name, value)

for system in ("darwin", "win32"):
    pathlib.Path(sys.argv[1], system, "build").mkdir(parents=True)
again("darwin", (), {os: ("memfd_create", "sched_getaffinity")})
sys.modules["msvcrt"] = types.ModuleType("msvcrt")
subprocess.CREATE_NEW_PROCESS_GROUP = 512
again("win32", ("fcntl", "resource", "pwd", "grp", "termios", "pty"),
      {os: ("fork", "register_at_fork", "killpg", "setsid", "memfd_create", "sched_getaffinity", "getuid", "O_DIRECTORY"),
       signal: ("SIGKILL", "SIGHUP", "SIGALRM", "setitimer", "ITIMER_REAL"), socket: ("AF_UNIX",)})
print(len(names))
'''


def test_every_module_loads_and_writes_where_systems_lack_what_linux_has(tmp_path):
    done = subprocess.run([sys.executable, "-c", PLAY, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 100


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            yield name, isinstance(node.func, ast.Name), node


def test_texts_are_read_and_written_as_utf8_on_every_system():
    wrong = []
    for path in sorted((ROOT / "groupwise").rglob("*.py")):
        for name, plain, node in calls(ast.parse(path.read_text(encoding="utf-8"))):
            mode = ast.unparse(node.args[1]) if len(node.args) > 1 else ""
            text = name in ("read_text", "write_text") or (name == "open" and plain and "b" not in mode)
            if text and "encoding" not in {keyword.arg for keyword in node.keywords}:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []


def test_file_names_can_be_kept_on_every_system():
    folders = [ROOT / part for part in ("groupwise", "tests", "docs", "bench")]
    names = [path.relative_to(ROOT).as_posix() for folder in folders for path in folder.rglob("*")]
    assert [name for name in names if set(name) & set('<>:"\\|?*') or name.endswith((".", " "))] == []
    assert len({name.lower() for name in names}) == len(names)


def test_the_constraints_differ_in_what_the_second_is_for():
    first, second = ([line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
                     for name in ("constraints.txt", "constraints-torch211.txt"))
    differ = [b for a, b in zip(first, second, strict=True) if a != b]
    assert differ == ["huggingface_hub==1.33.0", "torch==2.11.0", "transformers==5.17.0"], "make constraints-torch211.txt"


def test_a_letter_that_a_terminal_lacks_ends_nothing(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setitem(cli.COMMANDS, "methods", lambda words: print("ratio \N{GREEK SMALL LETTER RHO} = 1"))
    assert cli.main(["methods"]) == 0
    out.flush()
    assert out.buffer.getvalue().decode("cp1252").strip() == "ratio ? = 1"


def test_a_path_on_another_drive_is_shown_whole(monkeypatch, tmp_path):
    def no_way(path):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", no_way)
    assert finish.near(tmp_path) == str(tmp_path)


def test_on_windows_the_modules_run_and_that_is_said(monkeypatch):
    build.find.cache_clear()
    monkeypatch.setattr(sys, "platform", "win32")
    assert build.find() == "they are built on Linux and macOS"
    build.find.cache_clear()


def test_without_matplotlib_a_run_is_whole_but_for_its_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    folder = train(tiny_run(tiny_folder(tmp_path / "model")), tmp_path / "runs")
    assert len(read_lines(folder / "metrics.jsonl")) == 2
    assert (folder / "summary.json").is_file()
    assert (folder / "model" / "model.safetensors").is_file()
    assert not (folder / "curve.png").exists()
    assert "not drawn, for want of matplotlib: pip install 'groupwise[plots]'" in capsys.readouterr().out


UNGUARDED = '''
from groupwise.lab.ranks import across
from groupwise.lab.samples import generate
from groupwise.lab.subjects import subject_of
subject = subject_of("grpo", {})
across([subject], [[generate(0, subject.wishes, "old")]], (2,))
'''


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_of_it(tmp_path):
    (tmp_path / "script.py").write_text(UNGUARDED, encoding="utf-8")
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert 'put this call under `if __name__ == "__main__":`' in done.stderr
