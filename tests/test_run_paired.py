import math

import numpy as np
import pytest

from groupwise.errors import ConfigError
from groupwise.run.paired import band, crossed, detectable, expanded, more_seeds, paired, sign_flip, student

A = np.array([0.96, 0.948, 0.96, 0.97, 0.955])
B = np.array([0.94, 0.95, 0.945, 0.951, 0.949])


@pytest.mark.parametrize(("p", "df", "expected"), [  # scipy 1.16.3: stats.t.ppf
    (0.975, 1, 12.706204736432095), (0.975, 2, 4.302652729696142), (0.975, 4, 2.7764451051977987),
    (0.975, 9, 2.2621571628540993), (0.8, 4, 0.9409645772445783), (0.975, 30, 2.0422724563012373)])
def test_quantiles_of_student(p, df, expected):
    assert student(p, df) == pytest.approx(expected, rel=1e-8)


def test_a_paired_difference():
    found = paired(A, B)
    assert (found.value, found.sd, found.n) == (pytest.approx((A - B).mean()), pytest.approx((A - B).std(ddof=1)), 5)
    assert found.p == 0.125  # scipy 1.16.3: stats.permutation_test((A - B,), np.sum, permutation_type="samples")
    assert found.least_p == 2 / 2**5
    assert (A - B).min() <= found.low < found.value < found.high <= (A - B).max()
    assert paired(B, A).value == -found.value
    assert paired(A, A).p == 1.0
    assert paired(A + 0.1, A).more == 0


@pytest.mark.parametrize(("n", "exact"), [(3, 3.26404), (4, 2.12795), (5, 1.68200), (8, 1.15604), (20, 0.66044)])
def test_what_is_detectable_is_near_the_noncentral_t(n, exact):
    # scipy 1.16.3: the effect at which 1 - stats.nct.cdf(t.ppf(0.975, n - 1), n - 1, effect * sqrt(n)) is 0.8
    assert detectable(1.0, n) == pytest.approx(exact, rel=0.06)


def test_more_seeds_are_the_fewest_that_detect_it():
    more = more_seeds(0.5, 1.0, 5)
    assert detectable(1.0, 5 + more) <= 0.5 < detectable(1.0, 4 + more)
    assert more_seeds(1e-6, 1.0, 5) is None
    assert more_seeds(10.0, 1.0, 5) == 0


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    random, held = np.random.default_rng(0), 0
    for _ in range(400):
        d = random.normal(size=8)
        low, high = expanded(random.multinomial(8, np.full(8, 1 / 8), size=1000) @ d / 8, float(d.mean()), 8)
        held += low <= 0.0 <= high
    assert 0.89 < held / 400 < 0.97


def test_sign_flips_of_many_pairs_are_drawn_and_agree_with_all():
    d = np.random.default_rng(1).normal(0.3, 1.0, size=16)
    exact, _ = sign_flip(d)
    drawn, least = sign_flip(np.append(d, 0.0))  # one pair more without a difference changes nothing
    assert drawn == pytest.approx(exact, abs=0.02)
    assert least == 1 / 10_001


def test_crossed_intervals_know_both_seeds_and_problems():
    random = np.random.default_rng(2)
    b = random.random((6, 40))
    same = crossed(b + 0.1, b)
    assert same == (pytest.approx(0.1), pytest.approx(0.1))
    by_seed = crossed(b + random.normal(0.1, 0.1, (6, 1)), b)
    by_problem = crossed(b + random.normal(0.1, 0.4, (1, 40)), b)
    assert by_seed[1] - by_seed[0] > 0.1
    assert by_problem[1] - by_problem[0] > 0.1


def test_one_seed_says_nothing_and_other_seeds_are_no_pairs():
    found = paired(A[:1], B[:1])
    assert math.isnan(found.low)
    assert math.isnan(found.detectable)
    assert (found.more, found.p) == (None, 1.0)
    with pytest.raises(ConfigError, match="the same seeds for both, got 5 and 4"):
        paired(A, B[:4])


def test_bands_are_student_s():
    (centre, low, high), = band(A[:, None])
    half = 2.7764451 * A.std(ddof=1) / math.sqrt(5)
    assert (centre, low, high) == (pytest.approx(A.mean()), pytest.approx(A.mean() - half), pytest.approx(A.mean() + half))
    assert band(A[:1, None]) == [(0.96, 0.96, 0.96)]
