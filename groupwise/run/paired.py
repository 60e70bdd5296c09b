"""Differences between two methods over several seeds: intervals, tests, what could have been detected, how many seeds that takes.

A seed is a pair: both methods begin with the same weights, see the same prompts and draw from the same streams of random numbers.
A claim about methods is a claim about seeds to come, so seeds are what is drawn; problems are drawn besides where their scores
are known.
"""

import itertools
import math
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from groupwise.core.keyed import generator
from groupwise.errors import ConfigError

RESAMPLES = 10_000
EXACT = 16
"""Up to so many pairs all sign patterns are tried."""
MOST = 1000
"""Seeds beyond which nobody counts."""
Values = Float64[np.ndarray, " n"]
Table = Float64[np.ndarray, " seeds problems"]


@dataclass(frozen=True)
class Paired:
    """The mean difference over `n` seeds with its 95 % interval (nan: one seed), its standard deviation between seeds, the `p` of
    a two-sided sign-flip test and the smallest p that so many seeds can give, the difference that they would detect in 80 % of
    cases at 5 %, and how many `more` seeds it would take to detect the effect that was asked about (None: beyond counting).
    """

    value: float
    low: float
    high: float
    sd: float
    p: float
    least_p: float
    n: int
    detectable: float
    effect: float
    more: int | None


def paired(a: Values, b: Float64[np.ndarray, " m"], *, effect: float = 0.0, seed: int = 0) -> Paired:
    """What `a` has more than `b`, seed by seed, in one order. `effect` is a difference that matters; 0: the one that was seen.

    ConfigError: the seeds are not the same number, or none.
    """
    if len(a) != len(b) or len(a) == 0:
        raise ConfigError(f"a paired difference needs the same seeds for both, got {len(a)} and {len(b)}")
    d, n = a - b, len(a)
    sd = float(d.std(ddof=1)) if n > 1 else math.nan
    low, high = expanded(_means(d, seed), float(d.mean()), n) if n > 1 else (math.nan, math.nan)
    p, least = sign_flip(d, seed=seed)
    wanted = abs(effect or float(d.mean()))
    return Paired(float(d.mean()), low, high, sd, p, least, n, detectable(sd, n), wanted, more_seeds(wanted, sd, n))


def crossed(a: Table, b: Table, *, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean difference of scores [seeds, problems], with seeds and problems drawn anew independently.

    Every seed has the same problems, so both are resampled whole (the pigeonhole bootstrap, Owen 2007, "The pigeonhole
    bootstrap", Ann. Appl. Stat. 1, section 4), which is somewhat too wide; for the small number of seeds as in `expanded`. (nan,
    nan): one seed.
    """
    d = a - b
    n, m = d.shape
    if n < 2:
        return math.nan, math.nan
    random = generator(seed, "crossed")
    rows = _counts(random, n, RESAMPLES) / n
    columns = _counts(random, m, RESAMPLES) / m
    return expanded(((rows @ d) * columns).sum(axis=1), float(d.mean()), n)


def expanded(means: Float64[np.ndarray, " times"], centre: float, n: int) -> tuple[float, float]:
    """A 95 % interval from bootstrap means of `n` things: percentiles taken farther out, so that for normal means they reach as
    far as Student's interval (Hesterberg 2015, "What teachers should know about the bootstrap", Am. Stat. 69, section 4.5.3).
    """
    reach = math.sqrt(n / (n - 1)) * student(0.975, n - 1)
    tail = 100.0 * 0.5 * math.erfc(reach / math.sqrt(2.0))
    low, high = np.percentile(means, [tail, 100.0 - tail])
    return min(float(low), float(centre)), max(float(high), float(centre))


def sign_flip(d: Values, *, seed: int = 0) -> tuple[float, float]:
    """The two-sided p of no difference, from turning the signs of the differences round, and the smallest p there can be.

    Exact for up to 16 pairs; beyond, 10,000 random patterns (and the pattern seen).
    """
    n, seen = len(d), abs(float(d.sum())) - 1e-12
    if n <= EXACT:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=n)))
        return float((np.abs(signs @ d) >= seen).mean()), 2.0 ** (1 - n)
    signs = np.where(generator(seed, "sign flips").random((RESAMPLES, n)) < 0.5, 1.0, -1.0)
    return (1 + int((np.abs(signs @ d) >= seen).sum())) / (1 + RESAMPLES), 1 / (1 + RESAMPLES)


def detectable(sd: float, n: int) -> float:
    """The difference that a paired t-test of `n` seeds at 5 % finds in 80 % of cases: (t_.975 + t_.8) sd / sqrt(n).

    Within 8 % of the value from the noncentral t for three seeds or more. nan for one seed.
    """
    return (student(0.975, n - 1) + student(0.8, n - 1)) * sd / math.sqrt(n) if n > 1 else math.nan


def more_seeds(effect: float, sd: float, n: int) -> int | None:
    """Seeds that are missing to detect an effect in 80 % of cases; None if they are more than 1000, or unknown (one seed)."""
    if n < 2 or not math.isfinite(sd):
        return None
    found = bisect_left(range(2, MOST + 1), True, key=lambda m: detectable(sd, m) <= effect) + 2
    return max(0, found - n) if found <= MOST else None


def band(values: Table) -> list[tuple[float, float, float]]:
    """Mean over seeds (rows) and Student's 95 % interval at every place; of one seed the value alone, thrice."""
    n = len(values)
    centre = values.mean(axis=0)
    half = student(0.975, n - 1) * values.std(axis=0, ddof=1) / math.sqrt(n) if n > 1 else np.zeros_like(centre)
    return [(float(c), float(c - h), float(c + h)) for c, h in zip(centre, half, strict=True)]


def student(p: float, df: int) -> float:
    """The p quantile of Student's t with a whole number of degrees of freedom, by bisection on its distribution function, which
    is a finite sum (Abramowitz and Stegun 26.7.3 and 26.7.4).

    >>> [round(student(0.975, df), 3) for df in (1, 4, 30)]
    [12.706, 2.776, 2.042]
    """
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _below(middle, df) < 2.0 * p - 1.0 else (low, middle)
    return low


def _below(t: float, df: int) -> float:
    """P(|T| < t)."""
    angle = math.atan(t / math.sqrt(df))
    cos2 = math.cos(angle) ** 2
    term, total = 1.0, 0.0
    for k in range(2 + df % 2, df + 1, 2):
        total += term
        term *= cos2 * (k - 1) / k
    if df % 2 == 0:
        return math.sin(angle) * total
    return 2.0 / math.pi * (angle + math.sin(angle) * math.cos(angle) * total)


def _means(d: Values, seed: int) -> Float64[np.ndarray, " times"]:
    """Means of resamples."""
    return _counts(generator(seed, "paired bootstrap"), len(d), RESAMPLES) @ d / len(d)


def _counts(random: np.random.Generator, n: int, times: int) -> Float64[np.ndarray, " times n"]:
    """How often each of n things is drawn, in so many resamples."""
    return random.multinomial(n, np.full(n, 1.0 / n), size=times).astype(np.float64)
