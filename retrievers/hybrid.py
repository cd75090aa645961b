"""Dense and lexical search together."""

from __future__ import annotations

from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables.config import run_in_executor
from pydantic import ConfigDict

from agentprm.errors import ConfigurationError
from agentprm.retrievers.adapters import vector_index
from agentprm.retrievers.fusion import rrf, weighted
from agentprm.retrievers.lexical import LexicalIndex

__all__ = ["HybridRetriever"]


class HybridRetriever(BaseRetriever):
    """Fuses the lists of a vector store and of BM25 over the same documents.

    Attributes:
        store: A `VectorIndex` such as `FaissStore`, or a store that `vector_index` can adapt.
        lexical: The BM25 index.
        fusion: `rrf` (reciprocal ranks) or `weighted` (scores scaled to [0, 1]).
        dense_weight: Weight of the vectors; the words get the rest.
        k: Documents to return.
        depth: Length of the two lists.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    store: Any
    lexical: LexicalIndex
    fusion: Literal["rrf", "weighted"] = "rrf"
    dense_weight: float = 0.5
    k: int = 5
    depth: int = 100

    def __init__(self, store: Any, lexical: LexicalIndex, **fields: Any) -> None:
        super().__init__(**{"store": store, "lexical": lexical, **fields})
        if not 0 <= self.dense_weight <= 1:
            raise ConfigurationError(f"dense_weight must lie in [0, 1], not {self.dense_weight}.")
        if self.k < 1 or self.depth < 1:
            raise ConfigurationError(f"k and depth must be at least 1, not {self.k} and {self.depth}.")
        self.store = vector_index(self.store)

    def search(self, query: str) -> list[tuple[Document, float]]:
        """The best `k` documents with fused scores."""
        depth = max(self.k, self.depth)
        dense = self.store.search_vectors(self.store.embed_query(query)[None, :], depth)[0]
        fuse = rrf if self.fusion == "rrf" else weighted
        lists = [dense, self.lexical.search(query, depth)]
        return fuse(lists, [self.dense_weight, 1 - self.dense_weight])[: self.k]

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return [document for document, _ in self.search(query)]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        return [document for document, _ in await run_in_executor(None, self.search, query)]
