"""How sure one can be about scores of acting: interquartile means, stratified bootstrap, rates of success.

After Agarwal et al., "Deep RL at the edge of the statistical precipice" (arXiv:2108.13264), written from its
description: a mean of the middle half is moved less by lucky episodes than a mean and wastes less than a median, and an
interval says what other episodes might have brought.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..errors import ShapeError
from .report import Interval

Statistic = Callable[[np.ndarray], np.ndarray]
"""Scores ``[R, n]`` -> a number for each row, ``[R]``."""
_Z = 1.959963984540054  # of a normal distribution, 97.5%


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean of the middle half along the last axis: a quarter of the scores, rounded down, is left out at either end.

    The same as ``scipy.stats.trim_mean(scores, 0.25)``, which rliable uses.

    Example:
        >>> float(interquartile_mean(np.array([0.0, 1.0, 2.0, 3.0, 100.0])))
        2.0
    """
    scores = np.sort(np.asarray(scores, float), -1)
    n = scores.shape[-1]
    if n == 0:
        raise ShapeError("a mean needs at least one score")
    cut = n // 4
    return scores[..., cut : n - cut].mean(-1)


def mean(scores: np.ndarray) -> np.ndarray:
    """Plain mean along the last axis."""
    return np.asarray(scores, float).mean(-1)


def bootstrap_interval(
    strata: Sequence[np.ndarray], statistic: Statistic = interquartile_mean, *, resamples: int = 5000, seed: int = 0
) -> Interval:
    """A statistic of all scores, and its 95% interval by stratified bootstrap (percentiles).

    Every stratum is drawn from anew, with replacement and as often as it has scores, and the statistic is taken over
    all of them together. Strata are what is not chance: tasks, of which each has several runs (as in rliable), or
    seeds, of which each has episodes of its own.

    Args:
        strata: Scores of each, ``[n_i]``.
        statistic: Of scores ``[R, n]``, along the last axis.
        resamples: How often.
        seed: Of the drawing: the same scores give the same interval.
    Returns:
        The statistic as ``mean``, its interval, and the number of scores; without an interval where no stratum has two.
    Example:
        >>> found = bootstrap_interval([np.arange(8.0), np.arange(8.0)])
        >>> found.mean, 1 < found.low < found.mean < found.high < 6
        (3.5, True)
    """
    strata = [np.asarray(scores, float).ravel() for scores in strata]
    strata = [scores for scores in strata if len(scores)]
    if not strata:
        raise ShapeError("an interval needs at least one score")
    whole = np.concatenate(strata)
    found = float(statistic(whole[None])[0])
    if all(len(scores) < 2 for scores in strata):
        return Interval(found, math.nan, math.nan, len(whole))
    drawn = resampled(strata, resamples, seed)
    low, high = np.percentile(statistic(np.concatenate(drawn, -1)), [2.5, 97.5])
    return Interval(found, float(low), float(high), len(whole))


def resampled(strata: Sequence[np.ndarray], resamples: int, seed: int) -> list[np.ndarray]:
    """Every stratum drawn from anew, with replacement and as often as it has scores: ``[resamples, n_i]`` each."""
    random = np.random.default_rng(seed)
    return [scores[random.integers(0, len(scores), (resamples, len(scores)))] for scores in strata]


def success_rate(successes: int, n: int) -> Interval:
    """Share of successes and its 95% interval (Wilson's, which holds for few episodes, and for none or all of them).

    Example:
        >>> found = success_rate(0, 10)
        >>> found.mean, round(found.low, 3), round(found.high, 3)
        (0.0, 0.0, 0.278)
    """
    if not 0 <= successes <= n or n < 1:
        raise ShapeError(f"{successes} successes of {n} episodes")
    rate = successes / n
    middle = (rate + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(rate * (1 - rate) / n + _Z**2 / (4 * n**2))
    return Interval(rate, max(0.0, middle - half), min(1.0, middle + half), n)
