"""The environment that TRL runs in: a folder of its own with exactly the versions of `bench/trl-requirements.txt`."""

import json
import os
import subprocess
import sys
from pathlib import Path

from versus.watch import FailedError, Watched, environment

REQUIREMENTS = Path(__file__).resolve().parent.parent / "trl-requirements.txt"
DEADLINE = 1800.0
_VERSIONS = ("import json, sys; from importlib.metadata import version, PackageNotFoundError\n"
             "def of(name):\n"
             "    try: return version(name)\n"
             "    except PackageNotFoundError: return ''\n"
             "print(json.dumps({name: of(name) for name in sys.argv[1:]}))")


def cache() -> Path:
    """Where what is made once is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "groupwise")


def pins() -> dict[str, str]:
    """The wanted version of every package."""
    lines = [line.partition("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines()]
    return {name: version for name, _, version in (line.partition("==") for line in lines if line)}


def missing(python: Path) -> list[str]:
    """What an environment has otherwise than wanted; builds of one version (such as +cpu) are the same."""
    if not python.is_file():
        return ["the environment"]
    wanted = pins()
    asked = subprocess.run([str(python), "-c", _VERSIONS, *wanted], capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(asked.stdout)
    return [f"{name}=={version}" for name, version in wanted.items() if found[name].partition("+")[0] != version]


def prepare(folder: Path | None = None) -> Path:
    """The python of an environment with TRL, made if it is not there. FailedError: pip could not.

    torch goes first and alone: the others only say that they need one, and pip is never to look for another build. Which build
    that is, is up to pip's settings (PIP_INDEX_URL and so on), as it is for this project's own environment.
    """
    folder = folder or cache() / "bench-trl"
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not missing(python):
        return python
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"making an environment for TRL in {folder} (once)", flush=True)
    pip = [str(python), "-m", "pip", "install", "--progress-bar", "off", "--constraint", str(REQUIREMENTS)]
    steps = ([] if python.is_file() else [[sys.executable, "-m", "venv", str(folder)]])
    for command in [*steps, [*pip, f"torch=={pins()['torch']}"], [*pip, "--requirement", str(REQUIREMENTS)]]:
        with Watched(command, log=folder.with_suffix(".log"), deadline=DEADLINE, cwd=folder.parent, env=environment()) as one:
            one.wait()
    if wrong := missing(python):
        raise FailedError(f"pip installed other versions than {', '.join(wrong)} in {folder}")
    return python
