"""The command line: one small function per command, each of which hands over to the module that does the work."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro

import groupwise
from groupwise.errors import ConfigError, GroupwiseError, nearest
from groupwise.run.config import Run, Words, from_toml, from_words
from groupwise.run.disk import read_json, write_json

# The modules that do the work load torch, which takes seconds. They are imported inside the commands, so that help, a mistyped
# setting and a missing file are answered at once. Nowhere else in the package are imports deferred.

FAILED, REFUSED, INTERRUPTED, UNREAD = 1, 2, 130, 141
"""Exit codes: a check that failed, an error raised on purpose, Ctrl-C, and a reader that went away (as in
`groupwise methods | head -1`)."""


def train(words: Sequence[str]) -> None:
    """Train a policy (`groupwise train --help` lists the settings); --json FILE also writes the run's summary there."""
    rest, file = _option(list(words), "--json", "a file to write")
    run = settings(rest)
    _check_report(file)
    from groupwise.run.loop import train as start

    _report(start(run), file)


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
        return (Path(run) if Path(run).is_dir() else Path("runs") / run), json, accept_equation

    folder, file, accept = tyro.cli(arguments, args=list(words), prog="groupwise resume")
    if not folder.is_dir():
        known = [path.parent.name for path in Path("runs").glob("*/run.toml")]
        there = nearest(folder.name, known) if known else "there are no runs here yet"
        raise ConfigError(f"there is no run folder {str(folder)!r}; {there}")
    _check_report(file)
    from groupwise.run.loop import resume as go_on

    _report(go_on(folder, accept_equation=accept), file)


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


def conformance(words: Sequence[str]) -> None:
    """Run golden vectors of other frameworks through our objectives; exit code 1 if one does not agree."""

    def arguments(file: tyro.conf.Positional[str] = "", only: str = "", json: str = "") -> tuple[str, str, str]:
        """Run golden vectors through the objectives.

        Args:
            file: a file of vectors in the format of docs/conformance.md; without one, the vectors of the package.
            only: run vectors with this in their id.
            json: write the report to this file.

        """
        return file, only, json

    file, only, report = tyro.cli(arguments, args=list(words), prog="groupwise conformance")
    _check_report(report)
    from groupwise.lab.conformance import as_json, check, load
    from groupwise.lab.matrix import show

    data = load(file)
    rows = check(data, only)
    if report:
        write_json(Path(report), as_json(rows))
    show(data, rows)
    if any(row.status != "pass" for row in rows):
        raise SystemExit(1)


def warmup(words: Sequence[str]) -> None:
    """Make the small base policy of a task by supervised training."""
    from groupwise.run.warmup import Warmup
    from groupwise.run.warmup import warmup as make

    make(tyro.cli(Warmup, args=list(words), prog="groupwise warmup"))


def check(words: Sequence[str]) -> int:
    """Check a method or objective: NAME, module:function or file.py:function; --all checks the shipped ones."""

    def arguments(name: tyro.conf.Positional[str] = "", /, *, args: Words = {}, all: bool = False,  # noqa: B006
                  quick: bool = False, json: str = "") -> tuple[list[tuple[str, dict[str, Any]]], bool, str]:
        """Check what must hold for every method, on toy batches; exit code 1 if anything fails.

        Args:
            name: a shipped method, or module:function or file.py:function that gives a Method or an Objective.
            args: its arguments, such as clip_high=0.28.
            all: check all shipped methods.
            quick: leave out the rank split over real processes.
            json: also write the reports to this file.

        """
        if bool(name) == all:
            raise ConfigError("give the method to check (a name, module:function or file.py:function), or --all for the shipped "
                              "ones")
        return ([] if all else [(name, args)]), quick, json

    wanted, quick, file = tyro.cli(arguments, args=list(words), prog="groupwise check")
    _check_report(file)
    from groupwise.lab.check import as_json, as_text, check_all
    from groupwise.lab.subjects import shipped, subject_of

    subjects, reports = [subject_of(*one) for one in wanted] or shipped(), []
    for report in check_all(subjects, processes=() if quick else (2, 3)):
        print(as_text(report), end="\n\n", flush=True)
        reports.append(report)
    if file:
        write_json(Path(file), {"reports": [as_json(one) for one in reports]} if len(subjects) > 1 else as_json(reports[0]))
    return 0 if all(one.ok for one in reports) else FAILED


COMMANDS: dict[str, Callable[[Sequence[str]], int | None]] = {
    "train": train, "resume": resume, "methods": methods, "check": check, "conformance": conformance, "warmup": warmup}


def settings(words: Sequence[str]) -> Run:
    """The run that command-line words describe: defaults, then the file of --config, then the words."""
    rest, name = _option(list(words), "--config", "a TOML file")
    file, run = Path(name), Run()
    if name:
        if not file.is_file():
            raise ConfigError(f"--config {file}: there is no such file")
        run = _unused(from_toml(file.read_text(encoding="utf-8"), str(file)))
    return from_words(rest, run)


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


def _check_report(file: str) -> None:
    """Refuse, before any work, a file that could not be written after it."""
    if file and Path(file).is_dir():
        raise ConfigError(f"--json {file} is a folder; give a file to write")


def _report(folder: Path, file: str) -> None:
    """Write the summary of a run to a file of the user's choice as well."""
    if file:
        write_json(Path(file), read_json(folder / "summary.json"))


def _unused(run: Run) -> Run:
    """The run of a file under a name that is free: a run's own file repeats it beside the first."""
    names = [run.name, *(f"{run.name}-{n}" for n in range(2, 1000))]
    return replace(run, name=next(name for name in names if not name or not (Path("runs") / name / "run.toml").exists()))


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
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except GroupwiseError as error:
        print(f"groupwise: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("groupwise: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more on its way out, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
