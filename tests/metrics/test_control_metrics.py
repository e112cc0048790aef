"""Interquartile means, bootstrap intervals and rates of success, against known values."""

import math

import numpy as np
import pytest

from worldkit.errors import ShapeError
from worldkit.metrics import bootstrap_interval, interquartile_mean, success_rate
from worldkit.metrics.control import mean


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 23, 100])
def test_the_interquartile_mean_is_the_trimmed_one(n):
    stats = pytest.importorskip("scipy.stats")
    scores = np.random.default_rng(n).normal(size=(3, n))
    np.testing.assert_allclose(interquartile_mean(scores), stats.trim_mean(scores, 0.25, axis=-1))


def test_the_interquartile_mean_by_hand():
    assert interquartile_mean(np.array([4.0, 1, 1000, -1000, 2, 3, 5, 0])) == (1 + 2 + 3 + 4) / 4
    with pytest.raises(ShapeError, match="at least one score"):
        interquartile_mean(np.array([]))


@pytest.mark.parametrize("successes, n, low, high", [  # Wilson score intervals as statsmodels prints them
    (8, 10, 0.490162, 0.943318), (1, 30, 0.005909, 0.166709), (30, 30, 0.886483, 1.0), (0, 10, 0.0, 0.277533),
])
def test_success_rates(successes, n, low, high):
    found = success_rate(successes, n)
    assert found.mean == successes / n and found.n == n
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5)


def test_impossible_rates():
    for successes, n in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ShapeError):
            success_rate(successes, n)


def test_the_bootstrap_of_a_mean_is_the_normal_one():
    scores = np.random.default_rng(0).normal(3, 2, 400)
    found = bootstrap_interval([scores], mean)
    half = 1.96 * scores.std() / math.sqrt(400)
    assert found.mean == scores.mean()
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.02)


def test_strata_are_not_chance():
    """Two tasks whose runs agree: no uncertainty at all; thrown together there would be some."""
    tasks = [np.full(5, 0.0), np.full(5, 10.0)]
    found = bootstrap_interval(tasks, mean)
    assert (found.mean, found.low, found.high, found.n) == (5, 5, 5, 10)
    together = bootstrap_interval([np.concatenate(tasks)], mean)
    assert together.low < 4 < 6 < together.high


def test_strata_of_two_sizes_and_repeatable():
    strata = [np.arange(3.0), np.arange(10.0), np.array([])]
    one, two = bootstrap_interval(strata), bootstrap_interval(strata)
    assert one == two and one.n == 13 and one.low < one.mean < one.high
    assert one.mean == interquartile_mean(np.concatenate(strata))
    assert bootstrap_interval(strata, seed=1) != one


def test_the_interval_covers():
    """About 95% of intervals hold the true mean (of 40 scores in 4 strata; the bootstrap is a little short)."""
    random, held = np.random.default_rng(0), 0
    for trial in range(150):
        strata = [random.normal(size=10) for _ in range(4)]
        found = bootstrap_interval(strata, mean, resamples=500, seed=trial)
        held += found.low < 0 < found.high
    assert 0.87 < held / 150 <= 1


def test_single_scores_have_no_interval():
    found = bootstrap_interval([np.array([2.0]), np.array([4.0])])
    assert found.mean == 3 and math.isnan(found.low) and math.isnan(found.high)
    with pytest.raises(ShapeError, match="at least one score"):
        bootstrap_interval([])
