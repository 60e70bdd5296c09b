"""The one set of operations on the units and keys of a ragged batch, for numpy (credit) and torch (terms) alike.

`x` has one entry per child unit, `ids` the cell of each (from `Layout.ids`), `size` the number of cells. `mask` leaves
entries out. All operations are differentiable for torch inputs. No other file does index arithmetic.
"""

from types import ModuleType
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from groupwise.errors import ObjectiveError

A = TypeVar("A", np.ndarray, Tensor)
How = Literal["sum", "mean", "max", "min", "std", "logsumexp", "power_mean"]


def reduce(x: A, ids: A, size: int, how: How, *, mask: A | None = None, ddof: int = 1, power: float = 1.0) -> A:
    """One value per cell: [size].

    Empty cells give 0 (max and min too), cells with no more than `ddof` entries a std of 0. `power` is the exponent of the
    power mean (1: arithmetic; its limit at 0 is geometric).

    >>> reduce(np.array([1.0, 3.0, 5.0]), np.array([0, 0, 1]), 2, "mean").tolist()
    [2.0, 5.0]
    """
    if mask is not None:
        x, ids = x[mask], ids[mask]
    if how == "sum":
        return _sum(x, ids, size)
    if how == "max":
        return _largest(x, ids, size)
    if how == "min":
        return -_largest(-x, ids, size)
    count = _sum(_ones(x), ids, size)
    at_least_one = _library(x).where(count > 0, count, _ones(count))
    if how == "mean":
        return _sum(x, ids, size) / at_least_one
    if how == "std":
        centred = x - (_sum(x, ids, size) / at_least_one)[ids]
        degrees = count - ddof
        enough = degrees > 0
        variance = _sum(centred * centred, ids, size) / _library(x).where(enough, degrees, _ones(count))
        positive = enough & (variance > 0)
        root: A = _library(x).sqrt(_library(x).where(positive, variance, _ones(count)))
        return root * positive
    if how == "logsumexp":
        top = _detached(_largest(x, ids, size))
        total = _sum(_library(x).exp(x - top[ids]), ids, size)
        return _library(x).log(_library(x).where(count > 0, total, _ones(count))) + top * (count > 0)
    if how == "power_mean":
        if power == 0.0:
            return _library(x).exp(_sum(_library(x).log(x), ids, size) / at_least_one) * (count > 0)
        mean = _sum(x**power, ids, size) / at_least_one
        return _library(x).where(count > 0, mean, _ones(count)) ** (1.0 / power) * (count > 0)
    raise ObjectiveError(f"unknown reduction {how!r}; valid: sum, mean, max, min, std, logsumexp, power_mean")


def broadcast(y: A, ids: A) -> A:
    """Every child gets the value of its cell: the inverse of `reduce`."""
    return y[ids]


def scan(x: A, ids: A, size: int, direction: Literal["prefix", "suffix"], *, mask: A | None = None, gamma: float = 1.0,
         window: int | None = None) -> A:
    """Running sum within each cell, in flat order, each entry included: s_t = x_t + gamma * s_(t-1) (or t+1 for suffix).

    Masked entries add nothing and do not decay the sum; they get the running value. `window` keeps the last (next) so
    many unmasked entries only.

    >>> scan(np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1]), 2, "suffix").tolist()
    [3.0, 2.0, 3.0]
    """
    if direction == "suffix":
        seen = None if mask is None else _flip(mask)
        return _flip(scan(_flip(x), _flip(ids), size, "prefix", mask=seen, gamma=gamma, window=window))
    by_cell = _stable(ids)
    keep = (_ones(ids) > 0 if mask is None else mask)[by_cell]
    kept = by_cell[keep]
    if not len(kept):
        return _zeros(x, len(x))
    place = order(ids[kept], size)
    total = _windows(x[kept], place, gamma, len(kept) if window is None else window)
    # A masked entry gets the value of the last kept one before it in its cell: `at` counts the kept ones up to each entry.
    at = keep.cumsum(0) - 1
    found = (at >= 0) & (ids[kept][at] == ids[by_cell])
    return _library(x).where(found, total[at], _zeros(x, len(x)))[_stable(by_cell)]


def _windows(x: A, place: A, gamma: float, width: int) -> A:
    """Sums over the last `width` entries of each cell, cells lying in a row: put together from sums over 1, 2, 4, 8 ... entries,
    so that the longest cell costs its logarithm.
    """
    width = min(width, int(place.max()) + 1)
    total, done, block, reach = _zeros(x, len(x)), 0, x, 1
    while reach <= width:
        if width & reach:
            total = total + gamma**done * _earlier(block, place, done)
            done += reach
        block = block + gamma**reach * _earlier(block, place, reach)
        reach *= 2
    return total


def _earlier(x: A, place: A, k: int) -> A:
    """The entry k places before each in its cell; 0 where there is none."""
    return _library(x).where(place >= k, _library(x).roll(x, k), _zeros(x, len(x)))


def order(ids: A, size: int) -> A:
    """The place of each child within its cell by appearance: 0, 1, 2 ..."""
    if isinstance(ids, Tensor):
        return torch.from_numpy(order(ids.cpu().numpy(), size)).to(ids.device)
    by_cell = np.argsort(ids, kind="stable")
    counts = np.bincount(ids, minlength=size)
    starts = np.cumsum(counts) - counts
    places = np.empty(len(ids), dtype=np.int64)
    places[by_cell] = np.arange(len(ids)) - starts[ids[by_cell]]
    return places


def rank(x: A, ids: A, size: int) -> A:
    """The rank of each child within its cell by value, ascending, ties by appearance: 0 is the smallest."""
    if isinstance(x, Tensor):
        return torch.from_numpy(rank(x.detach().cpu().numpy(), ids.cpu().numpy(), size)).to(x.device)
    by_value = np.argsort(x, kind="stable")
    ranks = np.empty(len(x), dtype=np.int64)
    ranks[by_value] = order(ids[by_value], size)
    return ranks


def pairs(a: A, b: A) -> tuple[A, int]:
    """The cells of equal pairs (a_i, b_i) of whole numbers from 0 on: the id of each entry, and how many cells there are.

    >>> pairs(np.array([0, 0, 1]), np.array([2, 2, 2]))[0].tolist()
    [0, 0, 1]
    """
    _, ids = _library(a).unique(a * (b.max() + 1) + b, return_inverse=True)
    return ids, int(ids.max()) + 1


def _library(x: np.ndarray | Tensor) -> Any:
    module: ModuleType = torch if isinstance(x, Tensor) else np
    return module


def _ones(x: A) -> A:
    return torch.ones_like(x) if isinstance(x, Tensor) else np.ones_like(x)


def _zeros(x: A, size: int) -> A:
    return x.new_zeros(size) if isinstance(x, Tensor) else np.zeros(size, dtype=x.dtype)


def _detached(x: A) -> A:
    return x.detach() if isinstance(x, Tensor) else x


def _sum(x: A, ids: A, size: int) -> A:
    if isinstance(x, Tensor):
        return x.new_zeros(size).index_add(0, ids, x)
    return np.bincount(ids, weights=x, minlength=size).astype(x.dtype)


def _largest(x: A, ids: A, size: int) -> A:
    """Max per cell, 0 for empty ones."""
    if isinstance(x, Tensor):
        return x.new_zeros(size).scatter_reduce(0, ids, x, "amax", include_self=False)
    top = np.full(size, -np.inf, dtype=x.dtype)
    np.maximum.at(top, ids, x)
    return np.where(np.bincount(ids, minlength=size) > 0, top, np.zeros_like(top))


def _flip(x: A) -> A:
    return x.flip(0) if isinstance(x, Tensor) else x[::-1].copy()


def _stable(x: A) -> A:
    """The order that sorts, ties by appearance; of a permutation it is the inverse."""
    return torch.argsort(x, stable=True) if isinstance(x, Tensor) else np.argsort(x, kind="stable")
