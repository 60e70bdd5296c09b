"""The command line: one small function per command, each of which hands over to the module that does the work."""

import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro

import groupwise
from groupwise.commands.audit import audit
from groupwise.commands.common import FAILED, check_report
from groupwise.commands.compares import ablate, compare, replay
from groupwise.commands.evals import evaluate
from groupwise.commands.looks import diagnose, show
from groupwise.commands.methods import check, conformance, diff, explain
from groupwise.commands.starts import count, data, show_recipes
from groupwise.commands.verdicts import audit_verifier, grade
from groupwise.errors import ConfigError, GroupwiseError, PreflightError, nearest
from groupwise.run import recipes
from groupwise.run.config import from_file, from_words
from groupwise.run.disk import read_json, write_json
from groupwise.run.look import run_folder
from groupwise.run.settings import Run

# The modules that do the work load torch, which takes seconds. They are imported inside the commands, so that help, a mistyped
# setting and a missing file are answered at once. Nowhere else in the package are imports deferred.

REFUSED, INTERRUPTED, UNREAD = 2, 130, 141
"""Exit codes: an error raised on purpose, Ctrl-C, and a reader that went away (as in
`groupwise methods | head -1`)."""


def train(words: Sequence[str]) -> None:
    """Train a policy (`groupwise train --help` lists the settings); --json FILE also writes the run's summary there."""
    rest, file = _option(list(words), "--json", "a file to write")
    run = settings(rest)
    check_report(file)
    from groupwise.lab.preflight import before_training
    from groupwise.run.loop import train as start

    _report(start(run, before=before_training), file)


def resume(words: Sequence[str]) -> None:
    """Go on with a run that was stopped: RUN is its folder, or its name; --json FILE as in train."""

    def arguments(run: tyro.conf.Positional[str], json: str = "",
                  accept_equation: tyro.conf.FlagCreatePairsOff[bool] = False) -> tuple[Path, str, bool]:
        """Go on with a run from its last checkpoint.

        Args:
            run: the run's folder, or its name if it lies in runs/.
            json: also write the run's summary to this file.
            accept_equation: go on although the method composes another equation than when the run was started.

        """
        return run_folder(run), json, accept_equation

    folder, file, accept = tyro.cli(arguments, args=list(words), prog="groupwise resume")
    check_report(file)
    from groupwise.run.loop import resume as go_on

    _report(go_on(folder, accept_equation=accept), file)


def plan(words: Sequence[str]) -> int:
    """Say what a run would take: memory by component, tokens, seconds (the settings of train); --json FILE writes it."""
    rest, file = _option(list(words), "--json", "a file to write")
    run = settings(rest)
    check_report(file)
    if shape := recipes.shape_of(run.model):
        return count(run, shape, file)
    from groupwise.lab.plan import as_json, lines
    from groupwise.lab.plan import plan as measured

    found = measured(run)
    if file:
        write_json(Path(file), as_json(found))
    print("\n".join(lines(found)))
    return 0 if found.fits and not found.lowered else FAILED


def preflight(words: Sequence[str]) -> int:
    """Say whether a run will learn, before it starts (the settings of train); exit code 1 if not; --json FILE writes it."""
    rest, file = _option(list(words), "--json", "a file to write")
    run = settings(rest)
    check_report(file)
    from rich.console import Console

    from groupwise.lab import preflight as lab

    report = lab.preflight(run)
    lab.show(report, Console())
    if file:
        write_json(Path(file), lab.as_json(report))
    return 0 if report.learns else FAILED


def methods(words: Sequence[str]) -> None:
    """List the methods with their sources; --json FILE writes what they are composed of."""

    def arguments(json: str = "") -> str:
        """List the methods.

        Args:
            json: write the list to this file, with the parts that each method is composed of.

        """
        return json

    file = tyro.cli(arguments, args=list(words), prog="groupwise methods")
    from groupwise.run.catalogue import as_json, catalogue

    entries = catalogue()
    if file:
        write_json(Path(file), as_json(entries))
        return
    width = max(len(one.name) for one in entries)
    for one in entries:
        print(f"{one.name:<{width}}  {one.title}\n{'':<{width}}  source: {one.source} ({one.file}, {one.lines} lines)")


def warmup(words: Sequence[str]) -> None:
    """Supervised training on traces of problems with solutions; --json FILE also writes what was measured there."""
    rest, file = _option(list(words), "--json", "a file to write")
    check_report(file)
    from groupwise.run.warmup import Warmup
    from groupwise.run.warmup import warmup as make

    folder = make(tyro.cli(Warmup, args=rest, prog="groupwise warmup"))
    if file:
        write_json(Path(file), read_json(folder / "warmup.json"))


COMMANDS: dict[str, Callable[[Sequence[str]], int | None]] = {
    "train": train, "resume": resume, "methods": methods, "explain": explain, "diff": diff, "check": check,
    "conformance": conformance, "audit": audit, "show": show, "diagnose": diagnose, "eval": evaluate, "plan": plan,
    "preflight": preflight, "compare": compare, "ablate": ablate, "replay": replay, "warmup": warmup, "recipes": show_recipes,
    "data": data, "grade": grade, "audit-verifier": audit_verifier}


def settings(words: Sequence[str]) -> Run:
    """The run that command-line words describe: defaults, then the file of --config, then the words."""
    rest, name = _option(list(words), "--config", "a TOML file")
    return from_words(rest, from_file(name) if name else Run())


def _option(words: list[str], flag: str, meaning: str) -> tuple[list[str], str]:
    """The words without a flag and its value, and the value; empty if the flag is not there."""
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == flag:
            value = value if equals else "".join(words[i + 1:i + 2])
            if not value or value.startswith("--"):
                raise ConfigError(f"{flag} needs {meaning} after it")
            return words[:i] + words[i + (1 if equals else 2):], value
    return words, ""


def _report(folder: Path, file: str) -> None:
    """Write the summary of a run to a file of the user's choice as well."""
    if file:
        write_json(Path(file), read_json(folder / "summary.json"))


def usage() -> str:
    """The commands, one line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: groupwise COMMAND ...", "", *lines, "", "groupwise COMMAND --help says more."])


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
    elif words[0] == "--version":
        print(groupwise.__version__)
    elif words[0] in COMMANDS:
        return COMMANDS[words[0]](words[1:]) or 0
    else:
        raise ConfigError(f"unknown command {words[0]!r}; {nearest(words[0], COMMANDS)}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. An error raised on purpose is a message on stderr, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without a letter, as of an equation, shows "?" there
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except PreflightError as error:
        print(f"groupwise: {error}", file=sys.stderr)
        return FAILED
    except GroupwiseError as error:
        print(f"groupwise: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt as stop:
        print(f"groupwise: {str(stop) or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more on its way out, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
