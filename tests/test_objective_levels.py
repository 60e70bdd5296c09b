"""The operations on ragged units: numpy and torch agree with each other and with plain loops, and torch's gradients are right."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from groupwise.errors import ObjectiveError
from groupwise.objective import levels

HOWS = ["sum", "mean", "max", "min", "std", "logsumexp", "power_mean"]
SMOOTH = ["sum", "mean", "std", "logsumexp", "power_mean"]


@st.composite
def ragged(draw, low=-5.0, high=5.0):
    """(x, ids, size, mask): cells may be empty, or empty under the mask; ids are in no order."""
    n, size = draw(st.integers(0, 14)), draw(st.integers(1, 6))
    x = draw(st.lists(st.floats(low, high, width=32), min_size=n, max_size=n))
    ids = draw(st.lists(st.integers(0, size - 1), min_size=n, max_size=n))
    mask = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    return np.array(x), np.array(ids, dtype=np.int64), size, np.array(mask, dtype=bool)


def both(function, x, ids, size, *more, mask=None, **options):
    """The result of numpy, checked against that of torch."""
    if mask is not None:
        options = options | {"mask": mask}
    found = function(x, ids, size, *more, **options)
    if mask is not None:
        options["mask"] = torch.from_numpy(mask)
    twin = function(torch.from_numpy(x), torch.from_numpy(ids), size, *more, **options)
    assert isinstance(twin, torch.Tensor)
    np.testing.assert_allclose(found, twin.numpy(), rtol=1e-12, atol=1e-12)
    return found


def loop(cell, how, ddof, power):
    if not cell:
        return 0.0
    mean = sum(cell) / len(cell)
    if how == "std":
        return math.sqrt(sum((v - mean) ** 2 for v in cell) / (len(cell) - ddof)) if len(cell) > ddof else 0.0
    if how == "power_mean":
        if power == 0.0:
            return math.prod(cell) ** (1 / len(cell))
        return (sum(v**power for v in cell) / len(cell)) ** (1 / power)
    return {"sum": sum(cell), "mean": mean, "max": max(cell), "min": min(cell),
            "logsumexp": math.log(sum(math.exp(v) for v in cell))}[how]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("how", HOWS)
@settings(max_examples=40, deadline=None)
@given(case=ragged(), ddof=st.integers(0, 1), power=st.sampled_from([0.0, 1.0, 2.0, 3.0, -1.0]))
def test_reduce(how, masked, case, ddof, power):
    x, ids, size, mask = case
    if how == "power_mean":
        x = np.abs(x) + 0.1
    options = {"mask": mask} if masked else {}
    found = both(levels.reduce, x, ids, size, how, ddof=ddof, power=power, **options)
    keep = mask if masked else np.ones_like(mask)
    cells = [x[(ids == c) & keep].tolist() for c in range(size)]
    np.testing.assert_allclose(found, [loop(c, how, ddof, power) for c in cells], rtol=1e-9, atol=1e-7 if how == "std" else 1e-9)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("how", SMOOTH)
@settings(max_examples=15, deadline=None)
@given(case=ragged(), power=st.sampled_from([0.0, 2.0, 0.5]))
def test_gradients_of_reduce(how, case, power):
    x, ids, size, mask = case
    x = np.abs(x) + 0.5 + 0.37 * np.arange(len(x)) if how in ("power_mean", "std") else x  # a std of 0 has a kink
    leaf = torch.from_numpy(x).requires_grad_()

    def f(v):
        return levels.reduce(v, torch.from_numpy(ids), size, how, mask=torch.from_numpy(mask), power=power)

    assert torch.autograd.gradcheck(f, leaf, atol=1e-6)


def test_gradients_of_max_and_min_go_to_the_extreme_entry_alone():
    ids = torch.tensor([0, 1, 0, 1, 0])
    for how, expected in (("max", [0, 1, 1, 0, 0]), ("min", [0, 0, 0, 1, 1])):
        x = torch.tensor([2.0, 5.0, 3.0, 4.0, 1.0], dtype=torch.float64, requires_grad=True)
        levels.reduce(x, ids, 3, how).sum().backward()
        assert x.grad.tolist() == expected


def test_the_gradient_of_a_std_of_zero_is_finite():
    x = torch.tensor([2.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    levels.reduce(x, torch.tensor([0, 0, 1]), 3, "std").sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.0]


def test_an_unknown_reduction_is_refused():
    with pytest.raises((ObjectiveError, TypeCheckError), match="logsumexp"):  # whichever looks first
        levels.reduce(np.ones(1), np.zeros(1, dtype=np.int64), 1, "median")


def scanned(x, ids, direction, mask, gamma, window):
    """s_t = the sum of gamma^k x over the last (next) `window` kept entries of the cell, by definition."""
    out = np.zeros(len(x))
    for t in range(len(x)):
        past = range(t, -1, -1) if direction == "prefix" else range(t, len(x))
        seen = [i for i in past if ids[i] == ids[t] and mask[i]]
        out[t] = sum(gamma**k * x[i] for k, i in enumerate(seen[:window]))
    return out


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("direction", ["prefix", "suffix"])
@settings(max_examples=60, deadline=None)
@given(case=ragged(), gamma=st.sampled_from([1.0, 0.9, 0.5, 0.0]), window=st.sampled_from([None, 1, 2, 3, 20]))
def test_scan(direction, masked, case, gamma, window):
    x, ids, size, mask = case
    options = {"mask": mask} if masked else {}
    found = both(levels.scan, x, ids, size, direction, gamma=gamma, window=window, **options)
    expected = scanned(x, ids, direction, mask if masked else np.ones_like(mask), gamma, window)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("window", [None, 1, 37, 64, 150])
@pytest.mark.parametrize("direction", ["prefix", "suffix"])
def test_scan_over_long_cells(direction, window):
    random = np.random.default_rng(0)
    x, ids, mask = random.normal(size=300), random.integers(0, 3, 300), random.random(300) < 0.8
    found = both(levels.scan, x, ids, 3, direction, gamma=0.97, window=window, mask=mask)
    np.testing.assert_allclose(found, scanned(x, ids, direction, mask, 0.97, window), rtol=1e-12, atol=1e-12)


def test_what_is_not_finite_stays_in_its_cell():
    found = both(levels.scan, np.array([np.nan, 1.0, np.inf, 2.0]), np.array([0, 1, 0, 1]), 2, "prefix", gamma=0.5)
    np.testing.assert_array_equal(found, [np.nan, 1.0, np.nan, 2.5])


@pytest.mark.parametrize("window", [None, 2])
@settings(max_examples=10, deadline=None)
@given(case=ragged(), direction=st.sampled_from(["prefix", "suffix"]))
def test_gradients_of_scan(window, case, direction):
    x, ids, size, mask = case
    leaf = torch.from_numpy(x).requires_grad_()

    def f(v):
        return levels.scan(v, torch.from_numpy(ids), size, direction, mask=torch.from_numpy(mask), gamma=0.7, window=window)

    assert torch.autograd.gradcheck(f, leaf)


@settings(deadline=None)
@given(case=ragged())
def test_broadcast_is_the_inverse_of_reduce(case):
    _, ids, size, _ = case
    cells = np.arange(size, dtype=np.float64)
    spread = levels.broadcast(cells, ids)
    assert spread.tolist() == ids.tolist()
    np.testing.assert_array_equal(levels.broadcast(torch.from_numpy(cells), torch.from_numpy(ids)).numpy(), spread)
    filled = np.isin(np.arange(size), ids)
    np.testing.assert_allclose(levels.reduce(spread, ids, size, "mean"), np.where(filled, cells, 0.0))


@settings(deadline=None)
@given(case=ragged())
def test_order_counts_the_appearances_within_a_cell(case):
    _, ids, size, _ = case
    expected = [int((ids[:t] == ids[t]).sum()) for t in range(len(ids))]
    assert levels.order(ids, size).tolist() == expected
    assert levels.order(torch.from_numpy(ids), size).tolist() == expected


@settings(deadline=None)
@given(case=ragged())
def test_rank_counts_the_smaller_ones_and_the_earlier_ties_within_a_cell(case):
    x, ids, size, _ = case
    n = range(len(x))
    expected = [sum(ids[j] == ids[i] and (x[j] < x[i] or (x[j] == x[i] and j < i)) for j in n) for i in n]
    assert both(levels.rank, x, ids, size).tolist() == expected


def test_single_precision_stays_single():
    ids = np.array([0, 0, 1])
    for how in HOWS:
        assert levels.reduce(np.ones(3, dtype=np.float32), ids, 2, how).dtype == np.float32
        assert levels.reduce(torch.ones(3), torch.from_numpy(ids), 2, how).dtype == torch.float32
    assert levels.scan(np.ones(3, dtype=np.float32), ids, 2, "prefix").dtype == np.float32
