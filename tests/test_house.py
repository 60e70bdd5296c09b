import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
AGAIN = "the imports of the package have changed: run `python bench/house.py --markdown docs/house.md`"


@pytest.fixture(scope="module")
def house():
    spec = importlib.util.spec_from_file_location("bench_house", ROOT / "bench" / "house.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_the_edges_of_the_code(house):
    page = (ROOT / "docs" / "house.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (.*) \|$", page, re.MULTILINE)
    shown = {(part, target) for _, part, targets in rows for target in targets.split(", ") if target != "nothing"}
    assert shown == set(house.edges()), AGAIN
    assert {part: int(floor) for floor, part, _ in rows} == house.floors(), AGAIN
    assert page == house.markdown(), AGAIN


def test_figures_are_printed_and_written(house, tmp_path, capsys):
    assert house.main(["--json", str(tmp_path / "h.json"), "--markdown", str(tmp_path / "h.md")]) == 0
    figures = json.loads((tmp_path / "h.json").read_text())
    assert figures["wrong"] == []
    assert figures["parts"]["run"]["files"] == len(list((ROOT / "groupwise" / "run").glob("*.py")))
    assert {"from": "__main__", "to": "cli", "statements": 1} in figures["edges"]
    assert figures["methods"]["median"] <= figures["methods"]["largest"]["lines"]
    printed = capsys.readouterr().out
    assert [part for part in house.PARTS if part not in printed] == []
    assert (tmp_path / "h.md").read_text() == house.markdown()


def test_an_import_that_does_not_go_down_is_named(house, monkeypatch, capsys):
    monkeypatch.setattr(house, "edges", lambda: {("core", "run"): 1, ("run", "core"): 1})
    assert house.main([]) == 1
    assert capsys.readouterr().err == "not downwards: core -> run\n"
