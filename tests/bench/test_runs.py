"""Aggregates, profiles and probabilities of improvement against cases that are known."""

import numpy as np
import pytest
import scipy.stats

from worldkit.errors import ShapeError
from worldkit.metrics import aggregate, bootstrap_interval, performance_profile, probability_of_improvement
from worldkit.metrics.runs import AGGREGATES


def test_one_task_of_many_runs_has_the_interval_of_a_normal_mean():
    """The bootstrap of a mean of many runs comes to mean ± 1.96 standard errors."""
    runs = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = aggregate([runs], "mean", resamples=4000)
    half = 1.96 * runs.std() / np.sqrt(len(runs))
    assert found.mean == pytest.approx(runs.mean()) and found.n == 400
    assert (found.low, found.high) == pytest.approx((runs.mean() - half, runs.mean() + half), abs=0.1 * half)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(1)
    inside = 0
    for trial in range(200):
        runs = [random.normal(centre, 1.0, 30) for centre in (0.0, 10.0)]
        found = aggregate(runs, "mean", resamples=400, seed=trial)
        inside += found.low <= 5.0 <= found.high
    assert 180 <= inside <= 199  # 95% of 200, a little fewer for so few resamples and runs


def test_tasks_are_strata():
    """Tasks far apart make no interval wide: what is drawn anew are runs within each."""
    runs = [np.array([0.0, 0.2]), np.array([100.0, 100.2])]
    found = aggregate(runs, "mean")
    assert found.mean == pytest.approx(50.1) and (found.low, found.high) == pytest.approx((50.0, 50.2))
    mixed = aggregate([np.concatenate(runs)], "mean")
    assert mixed.high - mixed.low > 50


def test_aggregates_are_those_of_the_paper():
    runs = [np.array([0.0, 1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0, 99.0]), np.array([7.0, 8.0, 9.0, 10.0])]
    assert aggregate(runs, "IQM").mean == pytest.approx(scipy.stats.trim_mean(np.concatenate(runs), 0.25))
    assert aggregate(runs, "mean").mean == pytest.approx(np.mean([r.mean() for r in runs]))
    assert aggregate(runs, "median").mean == pytest.approx(8.5)  # of the tasks' means 1.5, 28.5, 8.5
    same = bootstrap_interval(runs, resamples=2000)
    found = aggregate(runs, "IQM", resamples=2000)
    assert (found.low, found.high, found.n) == (same.low, same.high, same.n)


def test_tasks_weigh_alike_whatever_their_runs():
    runs = [np.zeros(1), np.ones(9)]
    assert aggregate(runs, "mean").mean == 0.5
    assert performance_profile(runs, [0.5])[0].mean == 0.5


def test_a_profile_falls_from_one_to_nothing_and_failed_runs_are_above_nothing():
    runs = [np.array([1.0, 2.0, -np.inf]), np.array([3.0, 4.0, 5.0])]
    shares = [point.mean for point in performance_profile(runs, [-100.0, 1.5, 3.5, 9.0])]
    assert shares == pytest.approx([5 / 6, 4 / 6, 2 / 6, 0])
    points = performance_profile(runs, [1.5])
    assert 0 <= points[0].low < points[0].mean < points[0].high <= 1


def test_improvement_counts_pairs_within_tasks():
    one, other = [np.array([1.0, 3.0]), np.array([10.0, 10.0])], [np.array([2.0, 2.0]), np.array([10.0, 9.0])]
    found, back = probability_of_improvement(one, other), probability_of_improvement(other, one)
    assert found.mean == pytest.approx((0.5 + 0.75) / 2) and found.mean + back.mean == pytest.approx(1)
    x = np.random.default_rng(0).normal(1, 1, 500)
    y = np.random.default_rng(1).normal(0, 1, 500)
    truth = scipy.stats.norm.cdf(1 / np.sqrt(2))
    assert probability_of_improvement([x], [y], resamples=200).mean == pytest.approx(truth, abs=0.03)
    assert probability_of_improvement([np.array([-np.inf])], [np.array([-5.0])]).mean == 0


def test_one_run_a_task_has_no_interval():
    found = aggregate([np.array([1.0]), np.array([2.0])], "mean")
    assert found.mean == 1.5 and np.isnan(found.low) and np.isnan(found.high)


@pytest.mark.parametrize("runs", [[], [np.array([])], [np.array([1.0]), np.array([np.nan])], [np.array([-np.inf])]])
@pytest.mark.parametrize("kind", AGGREGATES)
def test_what_has_no_number_has_no_aggregate(runs, kind):
    with pytest.raises(ShapeError):
        aggregate(runs, kind)


def test_other_tasks_are_no_pairs():
    with pytest.raises(ShapeError, match="1 tasks of one method and 2"):
        probability_of_improvement([np.ones(2)], [np.ones(2), np.ones(2)])
