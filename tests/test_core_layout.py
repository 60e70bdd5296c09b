"""The ids of units and keys."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives_support import ragged

from groupwise.core.layout import UNITS, Key, Layout
from groupwise.errors import ObjectiveError


def small():
    """Two groups; the first episode has two sequences, its first sequence two segments."""
    ids = [np.array(x, dtype=np.int64) for x in ([0, 0, 1, 2, 3, 3], [0, 0, 1, 2], [0, 0, 1], [0, 1])]
    return Layout(*ids, groups=2, keys={"state": Key.of("segment", ["x", "y", "x", "y"]), "role": Key.of("episode", ["a", "a"])})


def test_sizes():
    layout = small()
    assert [layout.size(u) for u in UNITS] == [6, 4, 3, 2, 2]
    assert (layout.size("state"), layout.size("role")) == (2, 1)


def test_ids_go_up_the_tree_and_into_keys():
    layout = small()
    assert layout.ids("token", "token").tolist() == [0, 1, 2, 3, 4, 5]
    assert layout.ids("token", "sequence").tolist() == [0, 0, 0, 1, 2, 2]
    assert layout.ids("token", "group").tolist() == [0, 0, 0, 0, 1, 1]
    assert layout.ids("segment", "episode").tolist() == [0, 0, 0, 1]
    assert layout.ids("token", "state").tolist() == [0, 0, 1, 0, 1, 1]
    assert layout.ids("sequence", "role").tolist() == [0, 0, 0]


def test_first_token():
    layout = small()
    assert layout.first_token("sequence").tolist() == [0, 3, 4, 6]
    assert layout.first_token("sequence", "segment").tolist() == [0, 2, 3, 4]
    assert layout.first_token("group").tolist() == [0, 4, 6]


@pytest.mark.parametrize(("child", "parent", "message"), [
    ("group", "token", "the other way round"), ("episode", "state", "the other way round"),
    ("token", "sequense", "did you mean 'sequence'"), ("token", "rolle", "did you mean 'role'"),
])
def test_impossible_ids_are_refused(child, parent, message):
    with pytest.raises(ObjectiveError, match=message):
        small().ids(child, parent)


def test_an_unknown_unit_has_no_size():
    with pytest.raises(ObjectiveError, match="unknown unit or key"):
        small().size("paragraph")


def test_keys_are_numbered_by_first_appearance():
    key = Key.of("episode", [("g", 2), ("g", 1), ("g", 2), None])
    assert (key.ids.tolist(), key.size) == ([0, 1, 0, 2], 3)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 50), data=st.data())
def test_take_keeps_who_belongs_to_whom(seed, data):
    layout = ragged(seed).batch().layout
    chosen = data.draw(st.lists(st.sampled_from(range(layout.size("sequence"))), unique=True))
    part, kept = layout.take(chosen)
    assert kept["sequence"].tolist() == chosen
    for name in (*UNITS, *layout.keys):
        assert part.size(name) == len(kept[name])
        assert len(set(kept[name].tolist())) == len(kept[name])
    for child, high in pairwise(UNITS):
        np.testing.assert_array_equal(kept[high][part.ids(child, high)], layout.ids(child, high)[kept[child]])
    for name, key in part.keys.items():
        assert key.unit == layout.keys[name].unit
        np.testing.assert_array_equal(kept[name][key.ids], layout.keys[name].ids[kept[key.unit]])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 50))
def test_taking_twice_is_taking_once(seed):
    batch = ragged(seed).batch()
    rng = np.random.default_rng(seed)
    first = rng.permutation(batch.layout.size("sequence"))
    second = rng.permutation(len(first))[: max(1, len(first) // 2)]
    once, twice = batch.take(first[second]), batch.take(first).take(second)
    assert once.tokens.tolist() == twice.tokens.tolist()
    assert once.contexts == twice.contexts
    for name in ("segment", "sequence", "episode", "group"):
        np.testing.assert_array_equal(getattr(once.layout, name), getattr(twice.layout, name))
    assert {n: k.ids.tolist() for n, k in once.layout.keys.items()} == {n: k.ids.tolist() for n, k in twice.layout.keys.items()}
