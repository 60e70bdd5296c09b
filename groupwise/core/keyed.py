"""Keyed random numbers: a draw is a pure function of its key, so it does not depend on batching or order.

A key is a seed and any number of further words, such as (prompt visit, sample, position). The mixing function
is SplitMix64's finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014),
applied once per word.
"""

import hashlib

import numpy as np
from jaxtyping import Float64, UInt64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ALL = 0xFFFFFFFFFFFFFFFF


def _mix(z: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _mix_one(z: int) -> int:
    """`_mix` of one word: numpy takes ten times as long for it."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _ALL
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _ALL
    return z ^ (z >> 31)


def word(value: int | str) -> int:
    """The 64-bit word of a key's part: integers as they are (modulo 2^64), strings hashed."""
    if isinstance(value, str):
        return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "little")
    return value & 0xFFFFFFFFFFFFFFFF


def fold(*key: int | str) -> int:
    """One 64-bit word from a key; different keys give unrelated words.

    >>> fold(0, "prompt-1", 2) == fold(0, "prompt-1", 2), fold(0, 1) == fold(1, 0)
    (True, False)
    """
    state = 0
    for part in key:
        state = _mix_one((state + int(_GOLDEN) + _mix_one(word(part))) & _ALL)
    return state


def folds(*key: int | str | UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """`fold` of n keys at once: a part is one for all of them, or an array of their words.

    >>> folds(7, np.array([1, 2], dtype=np.uint64)).tolist() == [fold(7, 1), fold(7, 2)]
    True
    """
    state = np.zeros(1, dtype=np.uint64)
    for part in key:
        words = part if isinstance(part, np.ndarray) else np.array([word(part)], dtype=np.uint64)
        state = _mix(state + _GOLDEN + _mix(words))
    return state


def uniforms(streams: UInt64[np.ndarray, " n"], position: int | UInt64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """One number in [0, 1) per stream at a position, with 53 bits.

    `streams` are words made by `fold`, one per sequence being sampled.
    """
    with np.errstate(over="ignore"):
        offset = (np.uint64(position) if isinstance(position, int) else position) * _GOLDEN
        bits = _mix(_mix(streams + offset) + _GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def generator(*key: int | str) -> np.random.Generator:
    """A numpy generator of its own for a key: for shuffles and draws on the host."""
    return np.random.Generator(np.random.Philox(key=fold(*key)))
