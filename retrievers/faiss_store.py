"""`FaissStore`: a LangChain vector store on FAISS that can be trusted with data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from langchain_core.embeddings import Embeddings

from agentprm.errors import InputError
from agentprm.retrievers.generations import Generation
from agentprm.retrievers.index_core import IndexCore, IndexSettings
from agentprm.retrievers.index_files import contents, write_index
from agentprm.retrievers.metrics import Metric
from agentprm.retrievers.saved_store import SavedStore

__all__ = ["FaissStore"]


class FaissStore(SavedStore):
    """Documents in a FAISS index: upsert by id, filters before the search, atomic saves, no pickle.

    Searches may run at the same time from many threads; changes wait for them and exclude each other.

    Args:
        embedding: Turns texts into vectors.
        factory: A string of the FAISS index factory, such as `Flat` (exact), `HNSW32`, `IVF256,Flat`
            or `IVF256,SQ8`. Indexes that need training are trained on the first documents added.
        metric: `cosine`, `ip` (inner product) or `l2` (Euclidean); applied to documents and queries.
        ef_search: Breadth of a search in an HNSW index; `None` means 64.
        nprobe: Lists that a search in an IVF index visits; `None` means a sixteenth, at least 16.
        async_workers: Threads that serve the async methods.

    Raises:
        ConfigurationError: The metric is unknown or a number is not positive. An unknown factory is
            found when the first documents give the dimension.

    Example:
        >>> from langchain_core.embeddings import DeterministicFakeEmbedding
        >>> store = FaissStore(DeterministicFakeEmbedding(size=8))
        >>> store.add_texts(["first text", "second text"], ids=["a", "b"])
        ['a', 'b']
        >>> store.similarity_search("second text", k=1)[0].id
        'b'
    """

    def __init__(
        self,
        embedding: Embeddings,
        *,
        factory: str = "Flat",
        metric: Metric = "cosine",
        ef_search: int | None = None,
        nprobe: int | None = None,
        async_workers: int = 4,
    ) -> None:
        settings = IndexSettings(factory, metric, ef_search, nprobe)
        super().__init__(embedding, [IndexCore(settings)], async_workers)

    def _place(self, name: str) -> int:
        return 0

    def _write(self, folder: Path) -> dict[str, Any]:
        write_index(self._cores[0], folder)
        return contents(self._cores[0])

    @classmethod
    def _parts(cls, generation: Generation) -> list[Generation]:
        if "shards" in generation.manifest:
            raise InputError(
                f"{generation.folder.parent} holds a sharded store: open it with ShardedFaissStore.load."
            )
        return [generation]
