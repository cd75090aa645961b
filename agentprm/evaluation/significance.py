"""Is one system better than another on the same questions? Paired tests of a difference of means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from agentprm.errors import InputError
from agentprm.evaluation.bootstrap import Interval, interval_of, resampled_means

__all__ = ["PairedComparison", "compare_paired", "randomisation_test"]

_BLOCK = 1_000_000  # signs held at a time
_MANY = 3_000  # pairs from which on equal ones are exchanged together
_EQUAL = 1e-12  # sums that differ by rounding alone are equal


class PairedComparison(NamedTuple):
    """Mean difference of two systems, and how surprising it would be if they were equally good.

    Attributes:
        difference: Mean of `first - second` with its bootstrap interval.
        bootstrap_p: Two-sided p-value of the paired bootstrap: twice the share of resamples on the other side
            of 0.
        randomisation_p: Two-sided p-value of Fisher's paired randomisation test.
    """

    difference: Interval
    bootstrap_p: float
    randomisation_p: float


def compare_paired(
    first: Sequence[float],
    second: Sequence[float],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedComparison:
    """Compares two systems question by question.

    Args:
        first: Scores of one system.
        second: Scores of the other on the same questions, in the same order.
        level: Coverage of the interval.
        resamples: How often to resample, and to exchange.
        seed: Same seed, same scores: same result.

    Raises:
        InputError: If the lengths differ, or there is no finite score.
    """
    pairs = _differences(first, second)
    means = resampled_means(pairs, resamples=resamples, seed=seed)
    # One is added to both counts (Davison and Hinkley, 1997): no p-value of 0 from finitely many resamples.
    tail = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    return PairedComparison(
        interval_of(pairs, means, level),
        min(1.0, 2 * (int(tail) + 1) / (resamples + 1)),
        randomisation_test(first, second, resamples=resamples, seed=seed),
    )


def randomisation_test(
    first: Sequence[float], second: Sequence[float], *, resamples: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p-value of the paired randomisation test (Fisher, 1935; Smucker et al., 2007).

    If both systems are equally good, whose score is whose is chance. The p-value is the share of exchanges
    within the pairs whose mean difference is at least as large as the one that was seen: of all of them where
    there are at most `resamples`, else of that many random ones.

    Args:
        first: Scores of one system.
        second: Scores of the other on the same questions, in the same order.
        resamples: How many exchanges to look at.
        seed: Of the random ones.

    Raises:
        InputError: If the lengths differ, or there is no finite score.
    """
    pairs = np.asarray(_differences(first, second))
    pairs = pairs[pairs != 0]  # to exchange equals changes nothing
    seen = abs(pairs.sum())
    least = seen - _EQUAL * max(1.0, float(np.abs(pairs).sum()))
    if pairs.size < 60 and 2**pairs.size <= resamples:
        codes = np.arange(2**pairs.size)[:, None] >> np.arange(pairs.size)
        return float(np.mean(np.abs((1 - 2 * (codes & 1)) @ pairs) >= least))
    generator = np.random.default_rng(seed)
    sizes, counts = np.unique(np.abs(pairs), return_counts=True)
    if pairs.size > _MANY and sizes.size * 10 <= pairs.size:
        kept = generator.binomial(counts, 0.5, size=(resamples, sizes.size))  # how many keep their sign
        return (int(np.count_nonzero(np.abs((2 * kept - counts) @ sizes) >= least)) + 1) / (resamples + 1)
    block = max(1, _BLOCK // pairs.size)
    hits = 0
    for start in range(0, resamples, block):
        signs = generator.integers(0, 2, size=(min(block, resamples - start), pairs.size)) * 2 - 1
        hits += int(np.count_nonzero(np.abs(signs @ pairs) >= least))
    return (hits + 1) / (resamples + 1)


def _differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    if len(first) != len(second):
        raise InputError(
            f"A paired test needs the same questions on both sides, not {len(first)} and {len(second)}."
        )
    pairs = [float(a) - float(b) for a, b in zip(first, second, strict=True)]
    if not pairs or not np.isfinite(pairs).all():
        raise InputError("A paired test needs a list of at least one finite number on both sides.")
    return pairs
