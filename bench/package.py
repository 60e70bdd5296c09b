"""What installing the package takes: wheel and sdist, a clean environment, no network, no compiler, no make.

    python bench/package.py [--constraints constraints-torch211.txt] [--json bench/results/package.json]

Builds both, downloads what they need, installs from that folder alone into a new environment, and runs it there with nothing but
that environment on the PATH, without network where `unshare -n` is allowed (else with proxies that lead nowhere). Needs
the network for the downloads only.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
NOWHERE = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "PIP_CONFIG_FILE": os.devnull}
MODULES = """
import importlib, pathlib, groupwise
root = pathlib.Path(groupwise.__file__).parent
names = [".".join(("groupwise", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
         for path in root.rglob("*.py") if path.stem not in ("__main__", "inside")]  # the latter imports vllm
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def environment(folder: Path) -> Path:
    """A new virtual environment; returns its folder of programs."""
    venv.create(folder, with_pip=True)
    return folder / ("Scripts" if os.name == "nt" else "bin")


def timed(words: list, **options: Any) -> tuple[float, str]:
    """Seconds that a command took, and what it printed; what it said if it failed ends this program."""
    print("...", *[Path(word).name for word in words[:6] if "\n" not in str(word)], file=sys.stderr, flush=True)
    began = time.perf_counter()
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"{words} ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return round(time.perf_counter() - began, 1), done.stdout


def build(folder: Path) -> tuple[Path, Path, bool]:
    """The wheel made of the tree, the sdist, and whether the wheel made of the sdist holds the same bytes."""
    python = environment(folder / "builder") / "python"
    tree = folder / "tree"  # a copy: what an earlier build left beside the sources would go into the wheel
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "__pycache__"))
    timed([python, "-m", "pip", "install", "build", "setuptools>=77"])
    for kind in ("--sdist", "--wheel"):
        timed([python, "-m", "build", "--no-isolation", kind, "--outdir", folder / "dist", tree])
    (wheel,), (sdist,) = (list((folder / "dist").glob(end)) for end in ("*.whl", "*.tar.gz"))
    timed([python, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder / "again", sdist])
    return wheel, sdist, held(wheel) == held(next((folder / "again").glob("*.whl")))


def held(wheel: Path) -> dict[str, str]:
    """The files of a wheel with digests of their bytes."""
    with zipfile.ZipFile(wheel) as file:
        return {name: hashlib.sha256(file.read(name)).hexdigest() for name in file.namelist()}


def apart() -> list[str]:
    """Words before a command that take the network away; none where that is not allowed."""
    words = ["unshare", "-r", "-n"]
    try:
        return words if subprocess.run([*words, "true"], capture_output=True).returncode == 0 else []
    except FileNotFoundError:
        return []


def megabytes(folder: Path) -> float:
    """What a file or the files of a folder take."""
    files = [folder] if folder.is_file() else [path for path in folder.rglob("*") if path.is_file()]
    return round(sum(path.stat().st_size for path in files) / 1e6, 1)


def measure(folder: Path, constraints: Path) -> dict:
    """Build, download, install and run, all in a folder."""
    wheel, sdist, same = build(folder)
    wheels, clean = folder / "wheels", environment(folder / "clean")
    downloading, _ = timed([clean / "python", "-m", "pip", "download", "-q", "-d", wheels, "-c", constraints, wheel])
    empty = megabytes(folder / "clean")
    # Only what stands here: no compiler, no make, no other Python, no home with built kernels or cached models, no pip settings.
    bare = {"PATH": str(clean), "HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", **NOWHERE,
            **{name: os.environ[name] for name in ("SYSTEMROOT", "TEMP", "TMP") if name in os.environ}}
    away = [str(word) for word in apart()]
    if away:
        away[0] = subprocess.run(["which", "unshare"], capture_output=True, text=True, check=True).stdout.strip()
    work = folder / "work"
    work.mkdir()

    def run(*words: str | Path) -> tuple[float, str]:
        return timed([*away, *words], env=bare, cwd=work)

    python = clean / "python"
    installing, _ = run(python, "-m", "pip", "install", "-q", "--no-index", "--find-links", wheels, "groupwise")
    helping, said = run(python, "-m", "groupwise", "--help")
    assert "usage: groupwise COMMAND" in said, said
    importing, modules = run(python, "-c", MODULES)
    training, told = run(clean / "groupwise", "train", "--steps", "2", "--run", "first", "--eval-prompts", "50")
    assert "no C++ compiler was found" in told, told
    assert (work / "runs" / "first" / "summary.json").is_file()
    return {
        "python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count(),
        "constraints": constraints.name, "network": "none (unshare -n)" if away else "proxies that lead nowhere",
        "wheel_mb": megabytes(wheel), "sdist_mb": megabytes(sdist), "sdist_builds_the_same_wheel": same,
        "downloads": len(list(wheels.iterdir())), "downloads_mb": megabytes(wheels),
        "installed_mb": round(megabytes(folder / "clean") - empty, 1), "modules_imported": int(modules),
        "seconds": {"download": downloading, "install": installing, "help": helping, "import": importing, "train": training}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--constraints", type=Path, default=ROOT / "constraints.txt")
    parser.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "package.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="groupwise-package-") as folder:
        found = measure(Path(folder), given.constraints.resolve())
    given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    return 0 if found["sdist_builds_the_same_wheel"] else 1


if __name__ == "__main__":
    sys.exit(main())
