"""Methods over many tasks, a few runs each: aggregates, performance profiles, probability of improvement.

After Agarwal et al., "Deep RL at the edge of the statistical precipice" (arXiv:2108.13264), from its description.
Scores of a method are one array of runs for every task; all tasks weigh alike. Intervals are those of a stratified
bootstrap: tasks are given, runs are chance. With two or three runs a task they are too narrow; say how many there were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import ShapeError
from .control import interquartile_mean, resampled
from .report import Interval

Runs = Sequence[np.ndarray]
"""Scores of each task's runs, ``[n_i]``; or of many drawings of them, ``[R, n_i]``."""


def mean_of_tasks(runs: Runs) -> np.ndarray:
    """Mean over tasks of the mean over runs, along the last axis."""
    return np.stack([np.asarray(scores, float).mean(-1) for scores in runs], -1).mean(-1)


def median_of_tasks(runs: Runs) -> np.ndarray:
    """Median over tasks of the mean over runs."""
    return np.median(np.stack([np.asarray(scores, float).mean(-1) for scores in runs], -1), -1)


def iqm_of_runs(runs: Runs) -> np.ndarray:
    """Mean of the middle half of all runs of all tasks."""
    return interquartile_mean(np.concatenate([np.asarray(scores, float) for scores in runs], -1))


AGGREGATES: dict[str, Callable[[Runs], np.ndarray]] = {
    "mean": mean_of_tasks, "median": median_of_tasks, "IQM": iqm_of_runs}
"""What one number may say of all tasks."""


def aggregate(runs: Runs, kind: str = "IQM", *, resamples: int = 2000, seed: int = 0) -> Interval:
    """One number over all tasks and its 95% interval by stratified bootstrap.

    Args:
        runs: Scores of each task's runs, ``[n_i]``.
        kind: One of `AGGREGATES`.
        resamples: How often runs are drawn anew, within each task.
        seed: Of the drawing: the same scores give the same interval.
    Raises:
        ShapeError: no task, or a task without a run.
    Example:
        >>> found = aggregate([np.array([0.0, 1.0, 2.0]), np.array([10.0, 11.0, 12.0])], "mean")
        >>> found.mean, 5 < found.low < 6 < found.high < 7, found.n
        (6.0, True, 6)
    """
    runs, statistic = _checked(runs), AGGREGATES[kind]
    return _interval(float(statistic(runs)), runs, lambda: statistic(resampled(runs, resamples, seed)))


def performance_profile(runs: Runs, thresholds: Sequence[float], *, resamples: int = 2000,
                        seed: int = 0) -> list[Interval]:
    """Share of runs with a score above each threshold, all tasks alike, with pointwise 95% intervals.

    Args:
        runs: Scores of each task's runs; a run that failed may be ``-inf``: it is above nothing.
        thresholds: Scores.
        resamples, seed: Of the bootstrap.
    Example:
        >>> [point.mean for point in performance_profile([np.array([0.0, 1.0]), np.array([2.0, 3.0])], [0.5, 2.5])]
        [0.75, 0.25]
    """
    runs = _checked(runs, finite=False)
    drawn = resampled(runs, resamples, seed)
    return [_interval(float(mean_of_tasks([scores > at for scores in runs])), runs,
                      lambda at=at: mean_of_tasks([scores > at for scores in drawn])) for at in thresholds]


def probability_of_improvement(one: Runs, other: Runs, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """How likely a run of one method is above a run of the other, mean over tasks; ties count half.

    Args:
        one, other: Scores of each task's runs, the same tasks in the same order; ``-inf`` for runs that failed.
        resamples, seed: Of the bootstrap.
    Raises:
        ShapeError: other tasks.
    Example:
        >>> probability_of_improvement([np.array([1.0, 2.0])], [np.array([0.0, 1.0])]).mean
        0.875
    """
    one, other = _checked(one, finite=False), _checked(other, finite=False)
    if len(one) != len(other):
        raise ShapeError(f"{len(one)} tasks of one method and {len(other)} of the other: give the same tasks")
    found = _interval(float(_improved(one, other)), [*one, *other], lambda: _improved(
        resampled(one, resamples, seed), resampled(other, resamples, seed + 1)))
    return found


def _improved(one: Runs, other: Runs) -> np.ndarray:
    """Mean over tasks of the share of pairs in which the first is above."""
    shares = []
    for x, y in zip(one, other, strict=True):
        x, y = x[..., :, None], y[..., None, :]
        shares.append(((x > y) + 0.5 * (x == y)).mean((-2, -1)))
    return np.stack(shares, -1).mean(-1)


def _checked(runs: Runs, *, finite: bool = True) -> list[np.ndarray]:
    checked = [np.asarray(scores, float).ravel() for scores in runs]
    if not checked or any(len(scores) == 0 for scores in checked):
        raise ShapeError("scores of at least one run of every task are needed")
    bad = np.isnan(np.concatenate(checked)) if not finite else ~np.isfinite(np.concatenate(checked))
    if bad.any():
        raise ShapeError("scores must be finite numbers; a run that failed has none, and no number stands for it")
    return checked


def _interval(found: float, runs: Runs, draw: Callable[[], np.ndarray]) -> Interval:
    """A number with the percentiles of its drawings; without an interval where no task has two runs."""
    count = sum(len(scores) for scores in runs)
    if all(len(scores) < 2 for scores in runs):
        return Interval(found, float("nan"), float("nan"), count)
    low, high = np.percentile(draw(), [2.5, 97.5])
    return Interval(found, float(low), float(high), count)
