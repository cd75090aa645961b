"""Puts ranked lists together: reciprocal ranks, weighted scores, Borda counts; hybrid search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables.config import run_in_executor
from pydantic import ConfigDict

from agentprm.errors import CapabilityError, ConfigurationError
from agentprm.retrievers.adapters import vector_index
from agentprm.retrievers.filters import document_test
from agentprm.retrievers.lexical import LexicalIndex
from agentprm.retrievers.vectors import FloatArray, VectorIndex

__all__ = ["HybridRetriever", "RankedList", "borda", "combine_scores", "reciprocal_ranks", "rrf", "weighted"]

RankedList = Sequence[tuple[Document, float]]
"""Documents with scores, best first. Their ids tell them apart."""

_RRF_K = 60  # Cormack et al., SIGIR 2009


def rrf(
    rankings: Sequence[RankedList], weights: Sequence[float] | None = None
) -> list[tuple[Document, float]]:
    """Reciprocal rank fusion: the sum of weight / (60 + rank) over the lists.

    Args:
        rankings: The lists.
        weights: One for each list; 1 when `None`.
    """
    totals = [
        reciprocal_ranks(len(ranking), weight)
        for ranking, weight in zip(rankings, _weights(rankings, weights), strict=True)
    ]
    return _summed(rankings, totals)


def reciprocal_ranks(count: int, weight: float = 1.0) -> list[float]:
    """What each place of a list, best first, counts in reciprocal rank fusion."""
    return [weight / (_RRF_K + rank) for rank in range(1, count + 1)]


def weighted(
    rankings: Sequence[RankedList], weights: Sequence[float] | None = None
) -> list[tuple[Document, float]]:
    """Weighted sum of scores that are scaled to [0, 1] within each list; a missing document scores 0."""
    totals = []
    for ranking, weight in zip(rankings, _weights(rankings, weights), strict=True):
        scores = [score for _, score in ranking]
        low, high = min(scores, default=0.0), max(scores, default=0.0)
        totals.append([weight * ((s - low) / (high - low) if high > low else 1.0) for s in scores])
    return _summed(rankings, totals)


def borda(rankings: Sequence[RankedList]) -> list[tuple[Document, float]]:
    """Borda count: a document of rank r among n gets (n - r + 1) / n points from a list (r from 1)."""
    totals = [[(len(r) - rank) / len(r) for rank in range(len(r))] for r in rankings]
    return _summed(rankings, totals)


def combine_scores(rankings: Sequence[RankedList], how: str) -> list[tuple[Document, float]]:
    """Fuses lists that share one score scale.

    Args:
        rankings: The lists.
        how: `average` (a missing document counts with the lowest score of that list), `max` or `borda`.

    Raises:
        ConfigurationError: There is no such way.
    """
    if how == "borda":
        return borda(rankings)
    if how not in ("average", "max"):
        raise ConfigurationError(f"The aggregation must be 'average', 'max' or 'borda', not {how!r}.")
    documents = {str(d.id): d for ranking in rankings for d, _ in ranking}
    tables = [{str(d.id): score for d, score in ranking} for ranking in rankings if ranking]
    totals: dict[str, float] = {}
    for i in documents:
        if how == "max":
            totals[i] = max(table[i] for table in tables if i in table)
        else:
            totals[i] = sum(table.get(i, min(table.values())) for table in tables) / len(tables)
    return [(documents[i], totals[i]) for i in sorted(totals, key=lambda i: -totals[i])]


def _weights(rankings: Sequence[RankedList], weights: Sequence[float] | None) -> Sequence[float]:
    if weights is None:
        return [1.0] * len(rankings)
    if len(weights) != len(rankings) or min(weights, default=0.0) < 0:
        raise ConfigurationError(f"There must be {len(rankings)} weights of at least 0, not {weights}.")
    return weights


def _summed(
    rankings: Sequence[RankedList], points: Sequence[Sequence[float]]
) -> list[tuple[Document, float]]:
    documents: dict[str, Document] = {}
    totals: dict[str, float] = {}
    for ranking, values in zip(rankings, points, strict=True):
        for (document, _), value in zip(ranking, values, strict=True):
            documents.setdefault(str(document.id), document)
            totals[str(document.id)] = totals.get(str(document.id), 0.0) + value
    return [(documents[i], totals[i]) for i in sorted(totals, key=lambda i: -totals[i])]


class HybridRetriever(BaseRetriever):
    """Fuses the lists of a vector store and of BM25 over the same documents.

    Attributes:
        store: A `VectorIndex` such as `FaissStore`, or a store that `vector_index` can adapt.
        lexical: The BM25 index; `None` takes the one that the store keeps, as `FaissStore` does.
        fusion: `weighted` (scores scaled to [0, 1]) or `rrf` (reciprocal ranks).
        dense_weight: Weight of the vectors; the words get the rest.
        k: Documents to return; a call may ask for another number, `invoke(query, k=…)`.
        depth: Length of the two lists.
        filter: Which documents may come back; see the store.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    store: Any
    lexical: Any = None
    fusion: Literal["rrf", "weighted"] = "weighted"
    dense_weight: float = 0.5
    k: int = 5
    depth: int = 100
    filter: Any = None

    def __init__(self, store: Any, lexical: LexicalIndex | None = None, **fields: Any) -> None:
        super().__init__(**{"store": store, "lexical": lexical, **fields})
        if not 0 <= self.dense_weight <= 1:
            raise ConfigurationError(f"dense_weight must lie in [0, 1], not {self.dense_weight}.")
        if self.k < 1 or self.depth < 1:
            raise ConfigurationError(f"k and depth must be at least 1, not {self.k} and {self.depth}.")
        self.store = vector_index(self.store)
        if self.lexical is None and not hasattr(type(self.store), "lexical"):
            raise CapabilityError(
                f"A {type(self.store).__name__} keeps no words: pass LexicalIndex(documents) as lexical."
            )
        document_test(self.store, self.filter)

    def search(self, query: str, k: int | None = None) -> list[tuple[Document, float]]:
        """The best `k` documents with fused scores."""
        wanted = self.k if k is None else k
        return self.ranked(query, self.store.embed_query(query), max(wanted, self.depth))[:wanted]

    def ranked(self, query: str, vector: FloatArray, depth: int) -> list[tuple[Document, float]]:
        """All documents of the two lists with fused scores.

        Args:
            query: The query.
            vector: Its vector (d).
            depth: Length of the two lists.
        """
        index: VectorIndex = self.store
        lexical: LexicalIndex = self.store.lexical if self.lexical is None else self.lexical
        dense = index.search_vectors(vector[None, :], depth, self.filter)[0]
        words = lexical.search(query, depth, self.filter)
        fuse = rrf if self.fusion == "rrf" else weighted
        return fuse([dense, words], [self.dense_weight, 1 - self.dense_weight])

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return [document for document, _ in self.search(query, k)]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return [document for document, _ in await run_in_executor(None, self.search, query, k)]
