"""`FaissStore`: a LangChain vector store on FAISS that can be trusted with data."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from agentprm.errors import ConfigurationError, IndexCorruptError, InputError
from agentprm.forking import ForkSafeLock
from agentprm.retrievers.document_table import Record
from agentprm.retrievers.filters import Filter
from agentprm.retrievers.fingerprint import Fingerprint, check_fingerprint, fingerprint, parse_fingerprint
from agentprm.retrievers.generations import Generation, commit, read_current
from agentprm.retrievers.index_core import IndexCore, IndexSettings
from agentprm.retrievers.lexical import LexicalIndex
from agentprm.retrievers.locking import ReadWriteLock
from agentprm.retrievers.mentions import MentionIndex
from agentprm.retrievers.metrics import Metric, distance
from agentprm.retrievers.store_base import Hit, VectorSearchStore, check_k, listed_ids
from agentprm.retrievers.vector_index import FloatArray

__all__ = ["FaissStore", "Hit"]


class FaissStore(VectorSearchStore):
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
        for name, value in (("ef_search", ef_search), ("nprobe", nprobe)):
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {value}.")
        super().__init__(embedding, async_workers)
        self._core = IndexCore(IndexSettings(factory, metric, ef_search, nprobe))
        self._lock = ReadWriteLock()
        self._saving = ForkSafeLock()
        self._fingerprint: Fingerprint | None = None
        self._source: tuple[Path, int] | None = None

    # Properties

    @property
    def metric(self) -> Metric:
        """The metric."""
        return self._core.settings.metric

    @property
    def factory(self) -> str:
        """The FAISS factory string."""
        return self._core.settings.factory

    @property
    def dimension(self) -> int | None:
        """Length of a vector; `None` before the first document."""
        return self._core.dimension

    @property
    def mentions(self) -> MentionIndex:
        """Titles of the documents, for link feedback.

        Collected at first use in one pass over the texts; kept up to date and saved from then on.
        """
        with self._lock.read():
            core = self._core
            return core.mentions.get(lambda: (r.document() for _, r in core.documents.records()))

    @property
    def lexical(self) -> LexicalIndex:
        """BM25 over the documents, for hybrid search; collected and kept up to date as `mentions`."""
        with self._lock.read():
            core = self._core
            words = core.mentions.words(lambda: (r.document() for _, r in core.documents.records()))
        return LexicalIndex.over(words, self.get_by_ids)

    def __len__(self) -> int:
        with self._lock.read():
            return len(self._core)

    def __iter__(self) -> Iterator[Document]:
        """All documents, in the order in which they were added; changes meanwhile may or may not show."""
        with self._lock.read():
            keys = self._core.keys()
        for start in range(0, len(keys), 500):
            with self._lock.read():
                found = self._core.documents.get(keys[start : start + 500])
            yield from (found[key] for key in keys[start : start + 500] if key in found)

    # Changing

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Removes documents by id, or all of them when `ids` is `None`; unknown ids are ignored."""
        wanted = None if ids is None else listed_ids(ids)
        with self._lock.write():
            self._core.delete(wanted)
        return True

    def compact(self) -> None:
        """Frees the space of deleted documents; rebuilds an approximate index without them."""
        with self._lock.write():
            self._core.compact()

    def train(self, vectors: FloatArray) -> None:
        """Trains an index that needs it on a sample of vectors (n x d), before the first documents.

        Raises:
            InputError: There are too few vectors.
        """
        matrix = self._matrix(vectors)
        with self._lock.write():
            self._core.train(matrix)

    def to_gpu(self, device: int = 0, *, offset: int = 0) -> None:
        """Searches without filters on a GPU from now on, until the next change of the documents.

        Args:
            device: Number of the GPU.
            offset: Added to it; beyond the last GPU the count starts again.

        Raises:
            CapabilityError: This build of FAISS has no GPU, or cannot put this kind of index on one.
        """
        with self._lock.write():
            self._core.to_gpu(device + offset)

    # Reading

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Documents of the ids that exist, in the order of `ids`."""
        wanted = listed_ids(ids)
        with self._lock.read():
            keys = [key for key in self._core.documents.keys_of(wanted) if key is not None]
            found = self._core.documents.get(keys)
        return [found[key] for key in dict.fromkeys(keys)]

    def vectors_for(self, ids: Sequence[str]) -> FloatArray:
        """Stored vectors of documents, one row each (n x d), of unit length for cosine.

        Raises:
            InputError: There is no document with one of the ids.
        """
        wanted = listed_ids(ids)
        with self._lock.read():
            return self._core.vectors_for(wanted)

    # Searching

    def search_hits(self, vectors: FloatArray, k: int = 4, filter: Filter = None) -> list[list[Hit]]:
        """Best `k` documents for each query vector, with score and raw distance.

        Args:
            vectors: Query vectors (q x d); made unit length here for cosine.
            k: Documents wanted; all that match come back when they are fewer.
            filter: Which documents may come back, decided before the search; see `compile_filter`.

        Raises:
            ConfigurationError: `k` is not positive or the filter is malformed.
            IndexMismatchError: The vectors have another length than those of the index.
        """
        k = check_k(k)
        queries = self._query_matrix(vectors)
        with self._lock.read():
            found = self._core.search(queries, k, filter)
            documents = self._core.documents.get(key for row in found for key, _ in row)
        seen: set[int] = set()
        hits: list[list[Hit]] = []
        for row in found:
            hits.append([])
            for key, score in row:
                if key not in documents:
                    raise IndexCorruptError(f"The document of key {key} is missing; index again.")
                document = documents[key] if key not in seen else documents[key].model_copy(deep=True)
                seen.add(key)
                hits[-1].append(Hit(document, score, distance(score, self.metric)))
        return hits

    # Persistence

    def save(self, path: str | os.PathLike[str], *, lock_timeout_s: float = 30.0) -> None:
        """Writes the store to a folder, atomically: a reader sees the old state or the new one.

        Saving to the folder that the store was loaded from or last saved to needs that nobody else has
        saved there since; saving anywhere else replaces an index that is there.

        Args:
            path: The folder; made when missing.
            lock_timeout_s: Seconds to wait for another writer.

        Raises:
            InputError: The path is a file.
            WriterConflictError: Another writer holds the folder, or has changed it meanwhile.
        """
        folder = Path(path)
        with self._saving:
            if self._fingerprint is None:
                self._fingerprint = fingerprint(self._embedding)
            if self._core.wants_compaction:
                self.compact()
            same = self._source is not None and self._source[0] == folder.resolve()
            mark = dict(self._fingerprint)

            def write(generation: Path) -> dict[str, Any]:
                with self._lock.read():
                    self._core.write_files(generation)
                    return {**self._core.contents(), "embedding": mark}

            number = commit(
                folder,
                write,
                expected=self._source[1] if same and self._source else None,
                lock_timeout_s=lock_timeout_s,
            )
            self._source = (folder.resolve(), number)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        embedding: Embeddings,
        *,
        mmap: bool = True,
        verify_all: bool = False,
        ef_search: int | None = None,
        nprobe: int | None = None,
        async_workers: int = 4,
    ) -> Self:
        """Opens a folder that `save` wrote.

        Args:
            path: The folder.
            embedding: The embeddings that the index was built with.
            mmap: Leave the vectors on disk and read what a search needs.
            verify_all: Check the checksums of large files too. Files up to 64 MiB, and whatever FAISS
                parses, are always checked.
            ef_search: As in the constructor.
            nprobe: As in the constructor.
            async_workers: As in the constructor.

        Raises:
            InputError: There is no such folder.
            IndexCorruptError: The index is incomplete, damaged, or of another format version.
            IndexMismatchError: It was built with other embeddings.
        """
        folder = Path(path)

        def read(generation: Generation) -> tuple[Fingerprint, IndexCore, int]:
            if "shards" in generation.manifest:
                raise InputError(f"{folder} holds a sharded store: open it with ShardedFaissStore.load.")
            seen = parse_fingerprint(generation.manifest.get("embedding"))
            if seen is None:
                raise IndexCorruptError(f"The manifest of {folder} lacks the embedding; index again.")
            generation.verify(everything=verify_all)
            core = IndexCore.open(generation, mmap=mmap, ef_search=ef_search, nprobe=nprobe)
            return seen, core, generation.number

        store = cls(embedding, ef_search=ef_search, nprobe=nprobe, async_workers=async_workers)
        store._fingerprint, store._core, number = read_current(folder, read)
        check_fingerprint(store._fingerprint, embedding)
        store._source = (folder.resolve(), number)
        return store

    @classmethod
    def _of(cls, core: IndexCore, embedding: Embeddings) -> Self:
        """Store of an opened index."""
        store = cls(embedding)
        store._core = core
        return store

    def _upsert(self, records: list[Record], matrix: FloatArray) -> None:
        with self._lock.write():
            self._check_dimension(matrix)
            self._core.upsert(records, matrix)
