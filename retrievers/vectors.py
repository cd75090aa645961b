"""Vectors of an index: what asks for them, the metrics that compare them, arrays that grow, exact search."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, cast, get_args, runtime_checkable

import faiss
import numpy as np
import numpy.typing as npt
from langchain_core.documents import Document

from agentprm.errors import ConfigurationError

__all__ = [
    "FloatArray",
    "GrowingArray",
    "Metric",
    "RankedList",
    "VectorIndex",
    "check_metric",
    "distance",
    "exact_search",
    "faiss_metric",
    "pair_scores",
    "prepare",
    "relevance_fn",
    "to_scores",
    "unit",
]

FloatArray = npt.NDArray[np.float32]

# Rows at a time whose numbers in double precision stay in the processor's cache.
_CACHED = 256

RankedList = Sequence[tuple[Document, float]]
"""Documents with scores, best first. Their ids tell them apart."""


@runtime_checkable
class VectorIndex(Protocol):
    """Search by vector, and give back stored vectors, so that feedback need not embed again."""

    def search_vectors(
        self, vectors: FloatArray, k: int, filter: Any = None
    ) -> list[list[tuple[Document, float]]]:
        """Best `k` documents with scores (higher is better) for each row of `vectors` (n x d)."""
        ...

    def vectors_for(self, ids: Sequence[str]) -> FloatArray:
        """Stored vectors of the documents `ids`, one row each, as the metric compares them."""
        ...

    def embed_query(self, text: str) -> FloatArray:
        """Vector of a query (d), normalised as the metric asks."""
        ...


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
    """New vectors (n x d) as the metric compares them: of unit length for cosine. Zero vectors stay zero."""
    if metric != "cosine":
        return vectors.copy()
    out = np.empty_like(vectors)
    for start in range(0, len(vectors), _CACHED):
        wide = vectors[start : start + _CACHED].astype(np.float64)
        norms = np.linalg.norm(wide, axis=1, keepdims=True)
        out[start : start + _CACHED] = wide / np.where(norms > 0, norms, 1.0)
    return out


def unit(vectors: FloatArray) -> FloatArray:
    """Vectors (… x d) of unit length; a zero vector stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1), dtype=np.float32)


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


_SMALLEST = 64


class GrowingArray:
    """Rows that are read and never changed; more of them make another array.

    The base may be a memory map: it is only ever read, and only where rows of it are asked for.

    Args:
        base: The first rows (n x …); not copied.
    """

    def __init__(self, base: npt.NDArray[Any]) -> None:
        self._base = base
        self._tail = np.empty((0, *base.shape[1:]), dtype=base.dtype)
        self._tail_size = 0

    def __len__(self) -> int:
        return len(self._base) + self._tail_size

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(self._base.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""
        return self._base.dtype

    def extended(self, rows: npt.NDArray[Any]) -> GrowingArray:
        """This array with rows (m x …) at its end; this one stays as it is.

        Both share their memory, so only one of the longer arrays made of this one may be kept. The first
        rows are not copied.
        """
        if not len(self):
            return GrowingArray(rows)
        longer = GrowingArray(self._base)
        longer._tail_size = self._tail_size + len(rows)
        if longer._tail_size > len(self._tail):
            room = max(longer._tail_size, 2 * len(self._tail), _SMALLEST)
            longer._tail = np.empty((room, *self.row_shape), self.dtype)
            longer._tail[: self._tail_size] = self._tail[: self._tail_size]
        else:
            longer._tail = self._tail
        longer._tail[self._tail_size : longer._tail_size] = rows
        return longer

    def parts(self) -> list[tuple[int, npt.NDArray[Any]]]:
        """The contiguous parts, each with the number of its first row; empty parts left out."""
        tail = self._tail[: self._tail_size]
        both = [(0, self._base), (len(self._base), tail)]
        return [(start, part) for start, part in both if len(part)]

    def blocks(self, size: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """All rows in order, at most `size` at a time, each block with the number of its first row."""
        for start, part in self.parts():
            for offset in range(0, len(part), size):
                yield start + offset, part[offset : offset + size]

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Copy of the given rows, in the given order."""
        split = len(self._base)
        if not self._tail_size:
            return np.asarray(self._base[rows])
        out = np.empty((len(rows), *self._base.shape[1:]), self._base.dtype)
        in_base = rows < split
        out[in_base] = self._base[rows[in_base]]
        out[~in_base] = self._tail[rows[~in_base] - split]
        return out

    def locate(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Rows of `values` in a strictly ascending one-dimensional array; -1 where a value is missing."""
        found = np.full(len(values), -1, dtype=np.int64)
        for start, part in self.parts():
            place = np.minimum(np.searchsorted(part, values), len(part) - 1)
            hit = part[place] == values
            found[hit] = place[hit] + start
        return found


BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

_BLOCK = 8192
# From this many queries on, a blocked matrix product is faster than FAISS's own scan (measured).
_BATCH = 8


def exact_search(
    queries: FloatArray, table: GrowingArray, k: int, metric: int, allowed: BoolArray | None = None
) -> tuple[FloatArray, IntArray]:
    """Best `k` rows of a table for each query.

    Args:
        queries: Query vectors (q x d).
        table: Stored vectors (n x d).
        k: Rows wanted for each query.
        metric: `faiss.METRIC_INNER_PRODUCT` or `faiss.METRIC_L2`.
        allowed: Which of the n rows may come back; `None` for all.

    Returns:
        Values (inner products, or negated squared distances) and rows, both q x m with m <= k, best
        first; m is smaller where fewer rows are allowed. Equal values come in the order of the rows.
    """
    wide = metric == faiss.METRIC_INNER_PRODUCT and len(queries) >= _BATCH
    values = np.empty((len(queries), 0), dtype=np.float32)
    rows = np.empty((len(queries), 0), dtype=np.int64)
    whole = max(len(table), 1)
    for start, block in table.blocks(_BLOCK if wide or allowed is not None else whole):
        mask = None if allowed is None else allowed[start : start + len(block)]
        numbers = None if mask is None or mask.all() else np.flatnonzero(mask)
        chosen = np.asarray(block if numbers is None else block[numbers])
        if not len(chosen):
            continue
        found, places = (_product if wide else _scan)(queries, chosen, k, metric)
        rows_here = (places if numbers is None else numbers[places]) + start
        values, rows = _merge(values, rows, found, rows_here, k)
    return values, rows


def pair_scores(query: FloatArray, vectors: FloatArray, metric: int) -> FloatArray:
    """Value (inner product or negated squared distance) of one query (d) and each vector (n x d)."""
    if metric == faiss.METRIC_INNER_PRODUCT:
        products: FloatArray = vectors @ query
        return products
    squares: FloatArray = np.square(vectors - query).sum(axis=1)
    return -squares


def _scan(queries: FloatArray, block: FloatArray, k: int, metric: int) -> tuple[FloatArray, IntArray]:
    values, places = faiss.knn(queries, block, min(k, len(block)), metric=metric)
    return (-values if metric == faiss.METRIC_L2 else values), places


def _product(queries: FloatArray, block: FloatArray, k: int, metric: int) -> tuple[FloatArray, IntArray]:
    values = queries @ block.T
    if k >= len(block):
        return values, np.broadcast_to(np.arange(len(block)), values.shape)
    places = np.argpartition(values, -k, axis=1)[:, -k:]
    return np.take_along_axis(values, places, axis=1), places


def _merge(
    values: FloatArray, rows: IntArray, more_values: FloatArray, more_rows: IntArray, k: int
) -> tuple[FloatArray, IntArray]:
    values = np.concatenate([values, more_values], axis=1)
    rows = np.concatenate([rows, more_rows], axis=1)
    order = np.lexsort((rows, -values), axis=1)[:, :k]
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(rows, order, axis=1)
