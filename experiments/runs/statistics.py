"""Statistics over seeds: what Agarwal et al. (2021, "Deep RL at the edge of the statistical precipice") recommend."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.stats

_RESAMPLES = 2000
_SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A point estimate and its bootstrap 95% confidence interval; of one seed there is none, and both ends are NaN."""

    value: float
    low: float
    high: float


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half, along the first axis. Shapes (n, ...) -> (...)."""
    trimmed: np.ndarray = np.asarray(scipy.stats.trim_mean(values, 0.25, axis=0))
    return trimmed


def bootstrap(values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray] = interquartile_mean) -> list[Estimate]:
    """A statistic over seeds with its percentile bootstrap interval, seeds drawn with replacement.

    Args:
        values: (seeds, points).
        statistic: maps (seeds, ...) to (...).

    Returns:
        One estimate for each point.
    """
    chosen = np.random.default_rng(_SEED).integers(len(values), size=(len(values), _RESAMPLES))
    centres = statistic(values)
    spread = statistic(values[chosen])
    low, high = np.percentile(spread, (2.5, 97.5), axis=0) if len(values) > 1 else np.full((2, len(centres)), math.nan)
    return [Estimate(*map(float, numbers)) for numbers in zip(centres, low, high, strict=True)]


def relative_gain(finals: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Relative gain per seed, in percent of the other's absolute figure. Shapes (n,) -> (n,)."""
    gains: np.ndarray = 100.0 * (finals - others) / np.abs(others)
    return gains


def probability_of_improvement(better: np.ndarray, worse: np.ndarray) -> Estimate:
    """Probability of improvement: that a run of one kind ends above a run of another; ties count half.

    Args:
        better, worse: (seeds,), the final figures of each.
    """

    def share(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        pairs = (a[:, np.newaxis] > b) + 0.5 * (a[:, np.newaxis] == b)
        mean: np.ndarray = pairs.mean(axis=(0, 1))
        return mean

    generator = np.random.default_rng(_SEED)
    first = better[generator.integers(len(better), size=(len(better), _RESAMPLES))]
    second = worse[generator.integers(len(worse), size=(len(worse), _RESAMPLES))]
    several = min(len(better), len(worse)) > 1
    low, high = np.percentile(share(first, second), (2.5, 97.5)) if several else (math.nan, math.nan)
    return Estimate(float(share(better, worse)), float(low), float(high))
