"""Searching on a GPU, where a GPU build of FAISS is installed and sees one."""

from __future__ import annotations

from typing import Any

import faiss as faiss_module
import numpy as np
import numpy.typing as npt

from agentprm.errors import CapabilityError, ConfigurationError
from agentprm.retrievers.vectors import FloatArray, GrowingArray, pair_scores

__all__ = ["MOST_RESULTS", "GpuClone", "gpu_count"]

faiss: Any = faiss_module  # the CPU build lacks what is asked for here

_BLOCK = 65_536
# Candidates beyond those wanted: the GPU's numbers may differ in the last bits.
_SPARE = 16
# Most results that FAISS's GPU indexes give for a query.
MOST_RESULTS = 2048


def gpu_count() -> int:
    """GPUs that FAISS can use; 0 with a CPU build."""
    if not hasattr(faiss, "StandardGpuResources"):
        return 0
    return int(faiss.get_num_gpus())


class GpuClone:
    """A copy of an index on a GPU. It answers searches without a filter; scores come from the store.

    Args:
        table: The stored vectors (n x d).
        metric: FAISS's metric.
        index: A FAISS index over them to clone; `None` makes an exact one.
        device: Number of the GPU; counted on from 0 again beyond the last one.

    Raises:
        CapabilityError: This build of FAISS has no GPU, or cannot put this kind of index on one.
        ConfigurationError: `device` is negative.
    """

    def __init__(self, table: GrowingArray, metric: int, index: Any, device: int) -> None:
        count = gpu_count()
        if not count:
            raise CapabilityError(
                "FAISS sees no GPU here: install a GPU build such as faiss-gpu-cu12, and check the driver."
            )
        if device < 0:
            raise ConfigurationError(f"device must be at least 0, not {device}.")
        self._table = table
        self._metric = metric
        self._resources = faiss.StandardGpuResources()  # must live as long as the clone
        if index is None:
            index = faiss.IndexFlat(table.row_shape[0], metric)
            for _, block in table.blocks(_BLOCK):
                index.add(np.ascontiguousarray(block))
        try:
            self._index = faiss.index_cpu_to_gpu(self._resources, device % count, index)
        except Exception as error:
            raise CapabilityError(
                f"FAISS cannot put a {type(index).__name__} on a GPU ({error}); search on the CPU."
            ) from None

    def search(self, queries: FloatArray, k: int) -> list[tuple[FloatArray, npt.NDArray[np.int64]]]:
        """Values and rows, best first, for each query (q x d)."""
        wanted = min(k + _SPARE, len(self._table), MOST_RESULTS)
        _, rows = self._index.search(queries, wanted)
        results = []
        for query, found in zip(queries, rows, strict=True):
            kept = np.unique(found[found >= 0])
            values = pair_scores(query, self._table.take(kept), self._metric)
            order = np.lexsort((kept, -values))[:k]
            results.append((values[order], kept[order]))
        return results
