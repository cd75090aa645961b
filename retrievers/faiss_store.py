"""LangChain vector stores on FAISS that can be trusted with data: of one index, and of several."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from langchain_core.embeddings import Embeddings

from agentprm.errors import ConfigurationError, IndexCorruptError, InputError
from agentprm.retrievers.generations import Generation, open_part, seal_part
from agentprm.retrievers.index_core import IndexCore, IndexSettings
from agentprm.retrievers.index_files import contents, write_index
from agentprm.retrievers.saved_store import SavedStore
from agentprm.retrievers.vectors import Metric

__all__ = ["FaissStore", "ShardedFaissStore", "shard_parts"]


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


class ShardedFaissStore(SavedStore):
    """Several indexes that act as one; a document's id decides where it lives.

    A save writes every shard into one generation and switches to it when all of them are on disk, so a
    reader never meets shards of two states. A change excludes searches until it has reached all shards.

    Args:
        embedding: Turns texts into vectors.
        shards: How many shards.
        factory: As for `FaissStore`; all shards get the same training.
        metric: As for `FaissStore`.
        ef_search: As for `FaissStore`.
        nprobe: As for `FaissStore`.
        async_workers: Threads that serve the async methods.

    Raises:
        ConfigurationError: There are no shards, or an option is wrong.
    """

    def __init__(
        self,
        embedding: Embeddings,
        *,
        shards: int = 4,
        factory: str = "Flat",
        metric: Metric = "cosine",
        ef_search: int | None = None,
        nprobe: int | None = None,
        async_workers: int = 4,
    ) -> None:
        if shards < 1:
            raise ConfigurationError(f"shards must be at least 1, not {shards}.")
        settings = IndexSettings(factory, metric, ef_search, nprobe)
        super().__init__(embedding, [IndexCore(settings) for _ in range(shards)], async_workers)

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Documents in each shard."""
        with self._reading():
            return tuple(len(core) for core in self._cores)

    def _place(self, name: str) -> int:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") % len(self._cores)

    def _write(self, folder: Path) -> dict[str, Any]:
        numbers = {core: number for number, core in enumerate(self._cores)}

        def write(core: IndexCore) -> str:
            return seal_part(
                folder, numbers[core], lambda own: write_index(core, own), lambda: contents(core)
            )

        return {"shards": self._everywhere(write)}

    @classmethod
    def _parts(cls, generation: Generation) -> list[Generation]:
        return shard_parts(generation)


def shard_parts(generation: Generation) -> list[Generation]:
    """The shards of a generation that a sharded store saved.

    Raises:
        InputError: The store is not sharded.
        IndexCorruptError: The list of shards, or the manifest of one, is damaged.
    """
    digests = generation.manifest.get("shards")
    if digests is None:
        raise InputError(
            f"{generation.folder.parent} holds a store that is not sharded: open it with FaissStore.load."
        )
    if not isinstance(digests, list) or not digests or not all(isinstance(d, str) for d in digests):
        raise IndexCorruptError(f"The list of shards in {generation.folder} is damaged; index again.")
    return [open_part(generation, place, digest) for place, digest in enumerate(digests)]
