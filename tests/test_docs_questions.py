"""The commands of docs/questions.md exist: their names, their flags, and the scripts that they run."""

import contextlib
import re
from pathlib import Path

import pytest

from groupwise import cli
from groupwise.lab.arms import split
from groupwise.methods import METHODS
from groupwise.run import recipes
from groupwise.run.config import flags

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"`((?:groupwise|python) [^`]+)`", PAGE)))
_HELP = {}


def helped(command, capsys):
    if command not in _HELP:
        with contextlib.suppress(SystemExit):
            cli.main([command, "--help"])
        _HELP[command] = capsys.readouterr().out
    return _HELP[command]


def test_all_questions_are_there():
    assert [int(n) for n in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)] == list(range(1, 47))


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_exists(line, capsys):
    program, *words = line.split()
    if program == "python":
        place = f"{words[1].replace('.', '/')}.py" if words[0] == "-m" else words[0]
        assert (ROOT / place).is_file()
        return
    assert words[0] in cli.COMMANDS
    known = helped(words[0], capsys)
    for word in words[1:]:
        if word.startswith("--") and word != "--config":
            assert word in known or (words[0] in ("train", "compare", "ablate", "plan") and word in flags()), word
        if "recipe:" in word:
            name = word.partition("recipe:")[2]
            assert any(one.startswith(name) for one in recipes.names())
        if words[0] in ("compare", "diff", "audit", "explain", "replay") and re.fullmatch(r"[a-z_]+(:\w+=.*|,\w+=.*)?", word):
            assert split(word.partition(",")[0])[0].partition(":")[0] in METHODS, word
        if word.startswith("experiments/"):
            assert (ROOT / word.partition(":")[0]).is_file()
