"""Exact search over stored vectors, all of them or a subset."""

from __future__ import annotations

import faiss
import numpy as np
import numpy.typing as npt

from agentprm.retrievers.growing_array import GrowingArray
from agentprm.retrievers.vector_index import FloatArray

__all__ = ["exact_search", "pair_scores"]

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
