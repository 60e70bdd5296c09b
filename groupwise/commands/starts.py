"""The commands about what a run starts from: recipes, data, and the plan of a model whose weights are not here.

They import what does the work when they are called.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from groupwise.commands.common import FAILED, check_files, check_report
from groupwise.engines.vllm.settings import EngineSettings
from groupwise.run import recipes
from groupwise.run.disk import write_json
from groupwise.run.settings import Run


def show_recipes(words: Sequence[str]) -> None:
    """List the shipped recipes, or print the file of one: NAME; --json FILE writes them all with their settings."""

    def arguments(name: tyro.conf.Positional[str] = "", json: str = "") -> tuple[str, str]:
        """List the shipped recipes.

        Args:
            name: print the file of this one instead, to start a file of your own from.
            json: write all of them, with their settings, to this file.

        """
        return name, json

    name, file = tyro.cli(arguments, args=list(words), prog="groupwise recipes")
    check_report(file)
    if name:
        print(recipes.text_of(name), end="")
        return
    found = recipes.catalogue()
    if file:
        write_json(Path(file), found)
    width = max(len(one["name"]) for one in found)
    print("\n".join(f"{one['name']:<{width}}  {one['title']}" for one in found))
    print(f"\n`groupwise train --config {recipes.PREFIX}NAME` runs one; with plan instead of train it says what "
          "that takes")


def count(run: Run, shape: dict[str, Any], file: str) -> int:
    """The plan of a model of which only the configuration is here."""
    from groupwise.lab import counted

    found = counted.count(run, shape)
    if file:
        write_json(Path(file), counted.as_json(found))
    print("\n".join(counted.lines(found)))
    return 0 if found.fits else FAILED


def data(words: Sequence[str]) -> None:
    """Change a file of data: `dapo-integers FILE --out FILE` turns answers into integers; --json FILE writes the counts."""

    def arguments(what: tyro.conf.Positional[Literal["dapo-integers"]], file: tyro.conf.Positional[Path], out: Path,
                  text: str = "", answer: str = "", json: str = "") -> tuple[Path, Path, str, str, str]:
        """Turn the answers of a file into integers where a rule can: fractions, surds, coordinates, and what is made of them.

        Args:
            what: dapo-integers.
            file: JSONL or Parquet, with a problem and an answer in each row.
            out: JSONL file to write the rows with integer answers to; what a row was before is kept in it.
            text: column of the problem; empty: the usual ones.
            answer: column of the answer; empty: answer.
            json: also write the counts to this file.

        """
        return file, out, text, answer, json

    source, out, text, answer, report = tyro.cli(arguments, args=list(words), prog="groupwise data")
    check_files(("--json", report), ("--out", str(out)))
    from groupwise.tasks.integers import convert

    counts = convert(str(source), out, text=text, answer=answer)
    if report:
        write_json(Path(report), counts)
    print("\n".join([f"{n:>8,}  {what}" for what, n in counts.items()]))


def serve(words: Sequence[str]) -> None:
    """Let runs on other machines sample here by vLLM (docs/vllm.md): --listen HOST:PORT, with a token in the environment."""

    def arguments(listen: str, python: str = "", threads: int = 0) -> tuple[str, str, int]:
        """Let a run on another machine sample here by vLLM, until interrupted.

        Args:
            listen: HOST:PORT; whoever reaches it and has the token in GROUPWISE_ENGINE_TOKEN may use this machine.
            python: the Python that has vLLM; empty: as `engine_python` of a run.
            threads: threads on a processor; 0: as many as there are cores, up to 16.

        """
        return listen, python, threads

    address, python, threads = tyro.cli(arguments, args=list(words), prog="groupwise serve")
    from groupwise.engines.vllm import listen
    from groupwise.run.machine import MAX_THREADS, cores

    listen.serve(address, EngineSettings(engine_python=python), threads or min(cores(), MAX_THREADS), print)
