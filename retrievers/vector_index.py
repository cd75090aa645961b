"""What relevance feedback needs of an index: vectors out, vectors in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from langchain_core.documents import Document

__all__ = ["FloatArray", "VectorIndex"]

FloatArray = npt.NDArray[np.float32]


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
