"""Bootstrap confidence intervals (Efron, 1979): how far a mean over so few questions can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from agentprm.errors import InputError

__all__ = ["Interval", "bootstrap_difference", "bootstrap_interval", "interval_of", "resampled_means"]

_BLOCK = 1_000_000  # resampled values held at a time
_MANY = 3_000  # values from which on equal ones are drawn together


class Interval(NamedTuple):
    """A mean and the bounds of its percentile bootstrap interval."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: Sequence[float], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean of `values` with its percentile bootstrap interval.

    Args:
        values: One number per question.
        level: Coverage of the interval, between 0 and 1.
        resamples: How often to resample with replacement.
        seed: Same seed, same values: same interval.

    Raises:
        InputError: If there are no values, one is not finite, or an argument is out of range.
    """
    if not 0 < level < 1:
        raise InputError("A bootstrap interval needs 0 < level < 1.")
    return interval_of(values, resampled_means(values, resamples=resamples, seed=seed), level)


def interval_of(values: Sequence[float], means: npt.NDArray[np.float64], level: float = 0.95) -> Interval:
    """The percentile interval of the mean of `values`, whose resampled means are known."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean(np.asarray(values, dtype=np.float64))), float(low), float(high))


def resampled_means(
    values: Sequence[float], *, resamples: int = 10_000, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Means of `resamples` samples of the values, drawn with replacement.

    Raises:
        InputError: If there are no values, one is not finite, or there is no resample.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size == 0 or not np.isfinite(data).all():
        raise InputError("A bootstrap interval needs a list of at least one finite number.")
    if resamples < 1:
        raise InputError("A bootstrap interval needs at least one resample.")
    generator = np.random.default_rng(seed)
    distinct, counts = np.unique(data, return_counts=True)
    # How often each distinct value is drawn is multinomial: the same means, without drawing every value.
    if data.size > _MANY and distinct.size * 10 <= data.size:
        drawn = generator.multinomial(data.size, counts / data.size, size=resamples)
        return np.asarray(drawn @ distinct / data.size, dtype=np.float64)
    block = max(1, _BLOCK // data.size)
    return np.concatenate(
        [
            data[generator.integers(data.size, size=(min(block, resamples - start), data.size))].mean(axis=1)
            for start in range(0, resamples, block)
        ]
    )


def bootstrap_difference(
    first: Sequence[float],
    second: Sequence[float],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Mean of `first - second`, question by question, with its interval.

    Pairing removes what both systems find equally hard, so this is the interval to read when asking
    whether one is better: an interval that excludes 0 says yes.

    Args:
        first: Scores of one system.
        second: Scores of the other on the same questions, in the same order.
        level: Coverage of the interval.
        resamples: How often to resample.
        seed: Seed of the resampling.

    Raises:
        InputError: If the lengths differ, or as `bootstrap_interval`.
    """
    if len(first) != len(second):
        raise InputError(
            f"A paired difference needs the same questions on both sides, not {len(first)} and {len(second)}."
        )
    pairs = [float(a) - float(b) for a, b in zip(first, second, strict=True)]
    return bootstrap_interval(pairs, level=level, resamples=resamples, seed=seed)
