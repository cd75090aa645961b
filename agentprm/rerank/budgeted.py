"""A tournament that spends a given number of comparisons where they settle the top."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from agentprm.rerank.base import Ranked
from agentprm.rerank.tournaments import Left, Pair, Tournament, checked_k, unbounded
from agentprm.rewards.base import sigmoid

__all__ = ["active"]

_Floats = npt.NDArray[np.float64]

# Chosen on TREC DL 2019 with simulated judges; a factor of two changes nDCG@10 by a few hundredths.
_SLOPE = 0.5  # drop of the prior mean per e-fold of the incoming rank
_SPREAD = 1.5  # standard deviation of the prior
_PER_ROUND = 0.25  # most comparisons of a round, per document
_ROUNDS = 12  # fewest rounds: with one large round nothing could be learned between
_PER_DOCUMENT = 3  # comparisons in all, per document, where no bound is given


def active(n: int, k: int = 10, left: Left = unbounded) -> Tournament:
    """The best `k` for a given number of comparisons, by what they are expected to tell.

    Documents have Bradley-Terry strengths with a Gaussian prior whose mean falls with the logarithm of
    the incoming rank. Each round compares up to a quarter as many pairs as there are documents, nobody
    twice, and all at once: greedily those with the largest expected information about their order (Laplace
    approximation) times the probabilities that both belong to the top. Then the strengths are fitted
    anew. A verdict of p counts as p of a win; one that contradicts others is outweighed, not obeyed. No
    pair is compared twice.

    Args:
        n: Documents.
        k: Ranks that matter.
        left: Bound of the comparisons; without one, three per document.

    Returns:
        All documents by fitted strength; the score is the probability to beat an average one.
    """
    checked_k(k)
    model = _Strengths(n)
    bounded, spent = not math.isinf(left()), 0
    most = min(n * _PER_ROUND, (left() if bounded else _PER_DOCUMENT * n) / _ROUNDS)
    while n > 1 and (bounded or spent < _PER_DOCUMENT * n):
        # Without budget one pair is still named: its verdict may be known already.
        size = int(max(1, min(most, left())))
        pairs = model.most_telling(k, size)
        if not pairs:
            break
        verdicts = yield pairs
        spent += len(pairs)
        model.learn(pairs, verdicts)
        if None in verdicts:
            break
    return Ranked(model.order(), model.scores())


class _Strengths:
    """Gaussian posterior of the documents' strengths, given verdicts on pairs."""

    def __init__(self, n: int) -> None:
        prior = -_SLOPE * np.log1p(np.arange(n, dtype=np.float64))
        self.prior: _Floats = prior - prior.mean() if n else prior
        self.mean: _Floats = self.prior.copy()
        self.precision: _Floats = np.eye(n) / _SPREAD**2
        self.closed = np.tri(n, dtype=bool)  # pairs that are no pairs, or that were compared
        self.first: list[int] = []
        self.second: list[int] = []
        self.p: list[float] = []

    def order(self) -> list[int]:
        """Best first; equals in incoming order."""
        return [int(i) for i in np.argsort(-np.round(self.mean, 9), kind="stable")]

    def scores(self) -> list[float]:
        """Probability of each to beat a document of average strength."""
        return [sigmoid(x) for x in self.mean.tolist()]

    def most_telling(self, k: int, size: int) -> list[Pair]:
        """Up to `size` disjoint pairs, the most telling first."""
        covariance: _Floats = np.asarray(np.linalg.inv(self.precision), dtype=np.float64)
        value = self._information(covariance) * self._importance(covariance, k)
        value[self.closed] = -1.0
        # Rounded, so that the last digits of a float do not choose between equals.
        flat = np.round(value, 12).ravel()
        met: set[int] = set()
        pairs: list[Pair] = []
        for index in np.argsort(-flat, kind="stable"):
            if flat[index] < 0 or len(pairs) == size:
                break
            a, b = divmod(int(index), len(self.mean))
            if a not in met and b not in met:
                met.update((a, b))
                pairs.append((a, b))
        return pairs

    def _information(self, covariance: _Floats) -> _Floats:
        """Of each pair, what its verdict is expected to tell about the difference of strengths."""
        variance = np.diag(covariance)
        spread = variance[:, None] + variance[None, :] - 2 * covariance
        gap = np.abs(self.mean[:, None] - self.mean[None, :])
        weight = np.exp(-gap) / (1 + np.exp(-gap)) ** 2
        return np.asarray(np.log1p(weight * np.maximum(0.0, spread)))

    def _importance(self, covariance: _Floats, k: int) -> _Floats:
        """Of each pair, the probability that both belong to the best `k`, taken as independent."""
        ranked = np.sort(self.mean)[::-1]
        cut = min(k, len(ranked) - 1)
        bar = (ranked[cut - 1] + ranked[cut]) / 2
        deviation = np.sqrt(np.diag(covariance))
        # The logistic function with slope 1.7 stands in for the normal distribution's.
        inside = 1 / (1 + np.exp(-1.7 * np.clip((self.mean - bar) / deviation, -300, 300)))
        return np.asarray(np.outer(inside, inside))

    def learn(self, pairs: list[Pair], verdicts: Sequence[float | None]) -> None:
        """Fits the strengths to the verdicts so far; missing ones are passed over."""
        for (a, b), verdict in zip(pairs, verdicts, strict=True):
            if verdict is not None:
                self.closed[min(a, b), max(a, b)] = True
                self.first.append(a)
                self.second.append(b)
                self.p.append(verdict)
        first, second, p = np.array(self.first, int), np.array(self.second, int), np.array(self.p)
        for _ in range(20):
            expected = 1 / (1 + np.exp(self.mean[second] - self.mean[first]))
            slope = -(self.mean - self.prior) / _SPREAD**2
            np.add.at(slope, first, p - expected)
            np.add.at(slope, second, expected - p)
            weight = expected * (1 - expected)
            self.precision = np.eye(len(self.mean)) / _SPREAD**2
            for rows, columns, sign in (
                (first, first, 1),
                (second, second, 1),
                (first, second, -1),
                (second, first, -1),
            ):
                np.add.at(self.precision, (rows, columns), sign * weight)
            # The posterior is concave; short steps keep Newton's method from overshooting.
            step = np.clip(np.linalg.solve(self.precision, slope), -2, 2)
            self.mean = self.mean + step
            if np.abs(step).max() < 1e-6:
                break
