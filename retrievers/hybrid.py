"""Dense and lexical search together."""

from __future__ import annotations

from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables.config import run_in_executor
from pydantic import ConfigDict

from agentprm.errors import CapabilityError, ConfigurationError
from agentprm.retrievers.adapters import document_test, vector_index
from agentprm.retrievers.fusion import rrf, weighted
from agentprm.retrievers.lexical import LexicalIndex
from agentprm.retrievers.vector_index import FloatArray, VectorIndex

__all__ = ["HybridRetriever"]


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
