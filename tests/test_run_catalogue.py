from pathlib import Path

import pytest

import groupwise
from groupwise.errors import ConfigError
from groupwise.methods import METHODS
from groupwise.run.catalogue import as_json, catalogue, code_lines, entry


def test_every_method_says_where_it_comes_from():
    entries = catalogue()
    assert [one.name for one in entries] == list(METHODS)
    for one in entries:
        assert (Path(groupwise.__file__).parent / one.file).is_file()
        assert one.title
        assert one.source
        assert one.departs
        assert "=" in one.equation
        assert 5 <= one.lines <= 40
        assert " at 0x" not in "".join(one.parts)
    assert len({one.hash for one in entries}) == len(entries)
    assert as_json(entries)["methods"][0]["name"] == entries[0].name


def nameless():
    return METHODS["grpo"]()


def test_a_method_without_its_lines_is_named():
    with pytest.raises(ConfigError, match=r"'mine'.*Departs from the paper"):
        entry("mine", nameless)


def test_code_lines_leave_out_docstrings_comments_and_blank_lines():
    text = '"""Title.\n\nMore.\n"""\n\n# why\nx = """kept\n\nkept"""\n\n\ndef f():\n    """Doc."""\n    return 1  # here\n'
    assert code_lines(text) == 4
