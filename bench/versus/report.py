"""The report of a comparison: written anew after every stage, in few lines, and without the names of this machine's folders."""

import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from groupwise.kernels.build import KINDS, features
from groupwise.run.machine import cores
from versus.environment import cache, pins
from versus.figures import rounded
from versus.sides import ROOT

_NUMBERS = re.compile(r"\[\s+((?:-?[0-9][^\[\]{}\"]*|null[^\[\]{}\"]*))\]")


def machine() -> dict[str, Any]:
    """What is measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_PHYS_PAGES" in os.sysconf_names else 0
    return {"processor": name, "cores": cores(), "memory_gb": round(pages / 2**30, 1), "system": platform.platform(),
            "instructions": instructions(), "python": platform.python_version(), "torch": version("torch"),
            "transformers": version("transformers"), "trl": pins()["trl"], "load": [round(x, 2) for x in os.getloadavg()]}


def instructions() -> str:
    """The best kind of kernels that this processor could run."""
    return next(kind.name for kind in KINDS if kind.needs <= features())


def columns(value: Any) -> Any:
    """The same with every list of rows of numbers (steps, curves) as a table of columns."""
    if isinstance(value, Mapping):
        return {name: columns(one) for name, one in value.items()}
    if not isinstance(value, list | tuple):
        return value
    rows = all(isinstance(one, Mapping) and all(isinstance(x, int | float) for x in one.values()) for one in value)
    if rows and len(value) > 1 and len({tuple(one) for one in value}) == 1:
        return {name: [one[name] for one in value] for name in value[0]}
    return [columns(one) for one in value]


def document(report: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """The report as JSON, lists of numbers on one line; `names` stand for folders and programs of this machine."""
    text = json.dumps(rounded(columns(report)), indent=1)
    for path in sorted(names, key=len, reverse=True):
        text = text.replace(json.dumps(path)[1:-1], names[path])
    return _NUMBERS.sub(lambda found: "[" + " ".join(found.group(1).split()) + "]", text) + "\n"


def write(report: Mapping[str, Any], file: Path | None, room: Path) -> None:
    """The report so far, whole or not at all."""
    if file is None:
        return
    names = {f"{room}/": "", f"{ROOT}/": "", sys.executable: "python", str(cache()): "CACHE", str(Path.home()): "~"}
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    part.write_text(document(report, names))
    part.replace(file)
