"""The three metrics: how vectors are prepared, and how FAISS's numbers become scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, cast, get_args

import faiss
import numpy as np
import numpy.typing as npt

from agentprm.errors import ConfigurationError

__all__ = ["Metric", "check_metric", "distance", "faiss_metric", "prepare", "relevance_fn", "to_scores"]

Metric = Literal["cosine", "ip", "l2"]


def check_metric(metric: str) -> Metric:
    """The metric's name itself.

    Raises:
        ConfigurationError: There is no such metric.
    """
    if metric not in get_args(Metric):
        raise ConfigurationError(
            f"metric must be 'cosine', 'ip' (inner product) or 'l2' (Euclidean), not {metric!r}."
        )
    return cast("Metric", metric)


def faiss_metric(metric: Metric) -> int:
    """FAISS's constant for the metric; cosine is the inner product of unit vectors."""
    return int(faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)


def prepare(vectors: npt.NDArray[np.float32], metric: Metric) -> npt.NDArray[np.float32]:
    """Vectors (n x d) as the metric compares them: of unit length for cosine. A zero vector stays zero."""
    if metric != "cosine":
        return vectors
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def to_scores(inner: npt.NDArray[np.float32], metric: Metric) -> npt.NDArray[np.float64]:
    """Scores, higher is better, of inner products or negated squared distances.

    The cosine is clipped to [-1, 1]; for l2 the score is the negated Euclidean distance.
    """
    wide = inner.astype(np.float64)
    if metric == "l2":
        return cast("npt.NDArray[np.float64]", -np.sqrt(np.maximum(-wide, 0.0)))
    return np.clip(wide, -1.0, 1.0) if metric == "cosine" else wide


def distance(score: float, metric: Metric) -> float:
    """Raw distance of a score: Euclidean for l2, 1 - cosine for cosine, the negated product for ip."""
    return 1.0 - score if metric == "cosine" else -score


def relevance_fn(metric: Metric) -> Callable[[float], float]:
    """Function from a score to a relevance in [0, 1] that keeps the order of the scores."""
    if metric == "cosine":
        return lambda score: min(1.0, max(0.0, (1.0 + score) / 2.0))
    if metric == "l2":
        return lambda score: 1.0 / (1.0 + max(0.0, -score))
    return lambda score: 0.5 * (1.0 + math.tanh(score / 2.0))
