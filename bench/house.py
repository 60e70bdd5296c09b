"""The house as the code has it: which part imports which, and how many lines stand where.

    python bench/house.py [--json FILE] [--markdown docs/house.md]

Parts are the folders and single modules of the package; the floors are those that tests/test_architecture.py enforces.
Exit code 1 if an import does not go down.
"""

import argparse
import ast
import json
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout is enough: nothing has to be installed

from groupwise.methods import METHODS  # noqa: E402
from groupwise.run.catalogue import code_lines  # noqa: E402

PACKAGE = ROOT / "groupwise"
WIDTH = 72
PAGE = """# The house

Parts of the package on their floors, and what each imports. A floor imports only lower floors, and parts of one floor do not
import one another: `tests/test_architecture.py` holds that. This page is made by

    python bench/house.py --markdown docs/house.md

which also prints how often each part imports another, and the lines of code of each; those change daily and are left out here.

{picture}

| floor | part | imports |
| ---: | --- | --- |
{rows}
"""


def part_of(file: Path) -> str:
    """The folder of the package that a file lies in, or its own name; empty for the package's `__init__`."""
    inside = file.relative_to(PACKAGE).with_suffix("").parts
    return "" if inside == ("__init__",) else inside[0]


FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if part_of(file)]
TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}
PARTS = sorted({part_of(file) for file in FILES})


def floors() -> dict[str, int]:
    """The floor of every part that is there, as the test of the architecture declares them."""
    tree = ast.parse((ROOT / "tests" / "test_architecture.py").read_text(encoding="utf-8"))
    declared = next(node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS")
    return {part: floor for floor, parts in enumerate(ast.literal_eval(declared)) for part in sorted(parts) if part in PARTS}


def imported(node: ast.AST) -> set[str]:
    """The parts that one statement imports."""
    names = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("groupwise.")} & set(PARTS)


def edges() -> Counter[tuple[str, str]]:
    """How many import statements lead from one part to another."""
    return Counter((part_of(file), target) for file, tree in TREES.items() for node in ast.walk(tree)
                   for target in imported(node) - {part_of(file)})


def sizes(part: str) -> dict[str, Any]:
    """Files and lines of code of a part; its longest file and function in lines of any kind, as the house rules count them."""
    files = {file: file.read_text(encoding="utf-8") for file in FILES if part_of(file) == part}
    longest = max(files, key=lambda file: files[file].count("\n"))
    functions = [((node.end_lineno or node.lineno) - node.lineno + 1, f"{file.stem}.{node.name}") for file in files
                 for node in ast.walk(TREES[file]) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lines, name = max(functions, default=(0, ""))
    return {"files": len(files), "code": sum(map(code_lines, files.values())),
            "longest_file": {"name": longest.relative_to(PACKAGE).as_posix(), "lines": files[longest].count("\n")},
            "longest_function": {"name": name, "lines": lines}}


def methods() -> dict[str, Any]:
    """Lines of code of the files that hold a method each."""
    files = [Path(sys.modules[factory.__module__].__file__ or "") for factory in METHODS.values()]
    lines = {file.stem: code_lines(file.read_text(encoding="utf-8")) for file in files}
    largest = max(lines, key=lambda name: lines[name])
    return {"files": len(lines), "median": statistics.median(lines.values()),
            "largest": {"name": largest, "lines": lines[largest]}}


def house() -> dict[str, Any]:
    """All figures as JSON values; `wrong` are the edges that do not go down."""
    floor, found = floors(), edges()
    return {
        "parts": {part: {"floor": floor[part], **sizes(part)} for part in sorted(PARTS, key=lambda p: (-floor[p], p))},
        "edges": [{"from": a, "to": b, "statements": n} for (a, b), n in sorted(found.items())],
        "wrong": [f"{a} -> {b}" for a, b in sorted(found) if floor[a] <= floor[b]],
        "methods": methods(),
    }


def picture(floor: dict[str, int]) -> str:
    """The floors, highest first, as a drawing of constant width."""
    storeys = [sorted(part for part in floor if floor[part] == level) for level in sorted(set(floor.values()), reverse=True)]
    wall = f"    +{'-' * WIDTH}+"
    rows = [f"    |{'     '.join(storey):^{WIDTH}}|  {floor[storey[0]]}" for storey in storeys]
    return "\n".join([wall, *(line for row in rows for line in (row, wall))])


def markdown() -> str:
    """The page of the documentation: floors and edges, no counts."""
    floor, found = floors(), edges()
    rows = [f"| {floor[part]} | `{part}` | {', '.join(b for b in PARTS if (part, b) in found) or 'nothing'} |"
            for part in sorted(PARTS, key=lambda p: (-floor[p], p))]
    return PAGE.format(picture=picture(floor), rows="\n".join(rows))


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [f"{'floor':>5}  {'part':<10} {'files':>5} {'code':>6}  {'longest file':<28} longest function"]
    for part, own in figures["parts"].items():
        file, function = (f"{own[key]['name']} {own[key]['lines']}" for key in ("longest_file", "longest_function"))
        lines.append(f"{own['floor']:>5}  {part:<10} {own['files']:>5} {own['code']:>6}  {file:<28} {function}")
    total = [sum(own[key] for own in figures["parts"].values()) for key in ("files", "code")]
    lines += [f"       {'all':<10} {total[0]:>5} {total[1]:>6}", "", "import statements from part to part"]
    for part in figures["parts"]:
        out = [f"{edge['to']} {edge['statements']}" for edge in figures["edges"] if edge["from"] == part]
        lines.append(f"  {part:<10} -> {', '.join(out) or 'nothing'}")
    own = figures["methods"]
    lines += ["", f"{own['files']} method files: {own['median']:g} lines of code in the median, the largest is "
                  f"{own['largest']['name']} with {own['largest']['lines']}"]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Which part of the package imports which, and how many lines stand where.")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--markdown", type=Path, help="write the page of the documentation to this file")
    options = parser.parse_args(argv)
    figures = house()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(markdown(), encoding="utf-8")
    print(picture(floors()), table(figures), sep="\n\n")
    for edge in figures["wrong"]:
        print(f"not downwards: {edge}", file=sys.stderr)
    return 1 if figures["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
