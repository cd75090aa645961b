"""Relevance feedback on vectors: new queries from a query and the passages it found."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from agentprm.errors import ConfigurationError, InputError
from agentprm.retrievers.vector_index import FloatArray

__all__ = ["average", "rocchio"]


def average(query: npt.ArrayLike, docs: npt.ArrayLike) -> FloatArray:
    """Mean of the query and the feedback passages, all with equal weight (Li et al., arXiv 2108.11044).

    Args:
        query: Query vector (d).
        docs: Vectors of feedback passages (n x d); none leaves the query as it is.

    Returns:
        The new query vector (d), not normalised again.

    Raises:
        InputError: The shapes do not fit.
    """
    q = _vector(query)
    rows = np.vstack([q[None, :], _matrix(docs, len(q))])
    return np.asarray(rows.mean(axis=0, dtype=np.float64), dtype=np.float32)


def rocchio(
    query: npt.ArrayLike,
    positives: npt.ArrayLike,
    negatives: npt.ArrayLike | None = None,
    alpha: float = 0.5,
    beta: float = 0.5,
    gamma: float = 0.0,
    *,
    weights: npt.ArrayLike | None = None,
) -> FloatArray:
    """`alpha · query + beta · mean(positives) - gamma · mean(negatives)` (Rocchio, 1971).

    Args:
        query: Query vector (d).
        positives: Vectors of relevant passages (n x d); none of them leaves the query as it is.
        negatives: Vectors of irrelevant passages (m x d).
        alpha: Weight of the query.
        beta: Weight of the positives' mean.
        gamma: Weight of the negatives' mean.
        weights: A weight of each positive in the mean (n), for instance by rank; equal when `None`.

    Returns:
        The new query vector (d), not normalised again.

    Raises:
        ConfigurationError: A weight is negative or not finite.
        InputError: The shapes do not fit.
    """
    for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
        if not 0 <= value < float("inf"):
            raise ConfigurationError(f"{name} must be a number of at least 0, not {value}.")
    q = _vector(query)
    good = _matrix(positives, len(q))
    bad = _matrix([] if negatives is None else negatives, len(q))
    if not len(good) and not (len(bad) and gamma):
        return q.copy()
    new = (alpha if len(good) else 1.0) * q.astype(np.float64)
    if len(good):
        new += beta * np.average(good, axis=0, weights=_weights(weights, len(good)))
    if len(bad):
        new -= gamma * bad.mean(axis=0, dtype=np.float64)
    return new.astype(np.float32)


def _vector(query: npt.ArrayLike) -> FloatArray:
    q = np.asarray(query, dtype=np.float32)
    if q.ndim != 1:
        raise InputError(f"The query must be one vector (d), not an array of shape {q.shape}.")
    return q


def _matrix(docs: npt.ArrayLike, dimension: int) -> FloatArray:
    matrix = np.asarray(docs, dtype=np.float32)
    if matrix.size == 0:
        return np.empty((0, dimension), dtype=np.float32)
    if matrix.ndim != 2 or matrix.shape[1] != dimension:
        raise InputError(f"Passages of shape {matrix.shape} do not fit a query of {dimension} dimensions.")
    return matrix


def _weights(weights: npt.ArrayLike | None, count: int) -> npt.NDArray[np.float64] | None:
    if weights is None:
        return None
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (count,) or not (values >= 0).all() or not values.sum() > 0:
        raise ConfigurationError(f"weights must be {count} numbers of at least 0, not all 0.")
    return values
