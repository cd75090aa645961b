"""One store over several: documents are spread by their ids, searches run side by side."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from heapq import nlargest
from itertools import chain
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from agentprm.errors import ConfigurationError, IndexCorruptError, InputError
from agentprm.forking import ForkSafeLock
from agentprm.retrievers.document_table import Record
from agentprm.retrievers.faiss_store import FaissStore
from agentprm.retrievers.filters import Filter
from agentprm.retrievers.fingerprint import Fingerprint, check_fingerprint, fingerprint, parse_fingerprint
from agentprm.retrievers.generations import Generation, commit, open_part, read_current, seal_part
from agentprm.retrievers.index_core import IndexCore
from agentprm.retrievers.kept_mentions import KeptMentions
from agentprm.retrievers.lexical import LexicalIndex
from agentprm.retrievers.locking import ReadWriteLock
from agentprm.retrievers.mentions import MentionIndex
from agentprm.retrievers.metrics import Metric
from agentprm.retrievers.store_base import Hit, VectorSearchStore, listed_ids
from agentprm.retrievers.vector_index import FloatArray

__all__ = ["ShardedFaissStore"]

T = TypeVar("T")


class ShardedFaissStore(VectorSearchStore):
    """Several `FaissStore`s that act as one; a document's id decides where it lives.

    A save writes every shard into one generation and switches to it when all of them are on disk, so a
    reader never meets shards of two states. A change excludes searches until it has reached all shards.

    Args:
        embedding: Turns texts into vectors.
        shards: How many shards.
        async_workers: Threads that serve the async methods.
        **options: Arguments of `FaissStore` for each shard, such as `factory` and `metric`.

    Raises:
        ConfigurationError: There are no shards, or an option is wrong.
    """

    def __init__(
        self, embedding: Embeddings, *, shards: int = 4, async_workers: int = 4, **options: Any
    ) -> None:
        super().__init__(embedding, async_workers)
        if shards < 1:
            raise ConfigurationError(f"shards must be at least 1, not {shards}.")
        self._use([FaissStore(embedding, **options) for _ in range(shards)])
        self._mentions = KeptMentions()
        self._lock = ReadWriteLock()
        self._saving = ForkSafeLock()
        self._fingerprint: Fingerprint | None = None
        self._source: tuple[Path, int] | None = None

    def _use(self, shards: list[FaissStore]) -> None:
        self._shards = shards
        self._searchers = ThreadPoolExecutor(len(shards), thread_name_prefix="agentprm-shard")

    @property
    def metric(self) -> Metric:
        """The metric."""
        return self._shards[0].metric

    @property
    def dimension(self) -> int | None:
        """Length of a vector; `None` before the first document."""
        return next((s.dimension for s in self._shards if s.dimension is not None), None)

    @property
    def shards(self) -> tuple[FaissStore, ...]:
        """The stores, in order, for reading; change documents through this store only."""
        return tuple(self._shards)

    @property
    def mentions(self) -> MentionIndex:
        """Titles of the documents of all shards, for link feedback; see `FaissStore.mentions`."""
        with self._lock.read():
            return self._mentions.get(lambda: chain.from_iterable(self._shards))

    @property
    def lexical(self) -> LexicalIndex:
        """BM25 over the documents of all shards, for hybrid search; see `FaissStore.lexical`."""
        with self._lock.read():
            words = self._mentions.words(lambda: chain.from_iterable(self._shards))
        return LexicalIndex.over(words, self.get_by_ids)

    def __len__(self) -> int:
        with self._lock.read():
            return sum(len(shard) for shard in self._shards)

    def __iter__(self) -> Iterator[Document]:
        """All documents, shard after shard."""
        return chain.from_iterable(self._shards)

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Removes documents by id, or all of them when `ids` is `None`; unknown ids are ignored."""
        wanted = None if ids is None else listed_ids(ids)
        with self._lock.write():
            if self._mentions.kept:
                self._mentions.change(self._everything() if wanted is None else self._found(wanted), [])
            if wanted is None:
                self._everywhere(lambda shard: shard.delete(None))
            for number, places in self._places(wanted or []).items():
                self._shards[number].delete([wanted[place] for place in places] if wanted else [])
        return True

    def compact(self) -> None:
        """Frees the space of deleted documents in every shard."""
        self._everywhere(lambda shard: shard.compact())

    def train(self, vectors: FloatArray) -> None:
        """Trains every shard on the same sample of vectors (n x d), before the first documents.

        Raises:
            InputError: There are too few vectors.
        """
        matrix = self._matrix(vectors)
        with self._lock.write():
            self._train(matrix)

    def to_gpu(self, device: int = 0) -> None:
        """Searches on GPUs from now on, the shards spread over them from `device` on; see `FaissStore`."""
        for number, shard in enumerate(self._shards):
            shard.to_gpu(device, offset=number)

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Documents of the ids that exist, in the order of `ids`."""
        wanted = listed_ids(ids)
        with self._lock.read():
            return self._found(wanted)

    def vectors_for(self, ids: Sequence[str]) -> FloatArray:
        """Stored vectors of documents, one row each (n x d), of unit length for cosine.

        Raises:
            InputError: There is no document with one of the ids.
        """
        wanted = listed_ids(ids)
        with self._lock.read():
            rows = np.empty((len(wanted), self.dimension or 0), dtype=np.float32)
            for number, places in self._places(wanted).items():
                rows[places] = self._shards[number].vectors_for([wanted[place] for place in places])
        return rows

    def search_hits(self, vectors: FloatArray, k: int = 4, filter: Filter = None) -> list[list[Hit]]:
        """Best `k` documents of all shards for each query vector; see `FaissStore.search_hits`."""
        with self._lock.read():
            parts = self._everywhere(lambda shard: shard.search_hits(vectors, k, filter))
        return [nlargest(k, chain.from_iterable(rows), key=_score) for rows in zip(*parts, strict=True)]

    def save(self, path: str | os.PathLike[str], *, lock_timeout_s: float = 30.0) -> None:
        """Writes all shards to a folder, atomically; see `FaissStore.save`."""
        folder = Path(path)
        with self._saving:
            if self._fingerprint is None:
                self._fingerprint = fingerprint(self._embedding)
            mark = dict(self._fingerprint)

            def write(generation: Path) -> dict[str, Any]:
                with self._lock.read():
                    jobs = [
                        self._searchers.submit(_write_shard, shard, generation, number)
                        for number, shard in enumerate(self._shards)
                    ]
                    digests = [job.result() for job in jobs]
                    self._mentions.write(generation)
                return {"shards": digests, "embedding": mark}

            same = self._source is not None and self._source[0] == folder.resolve()
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
        """Opens a folder that `save` wrote; the arguments are those of `FaissStore.load`.

        Raises:
            InputError: There is no such folder, or it holds a store that is not sharded.
            IndexCorruptError: A shard is missing or damaged.
            IndexMismatchError: It was built with other embeddings.
        """
        folder = Path(path)

        def read(generation: Generation) -> tuple[Fingerprint, list[IndexCore], KeptMentions, int]:
            seen = parse_fingerprint(generation.manifest.get("embedding"))
            parts = shard_parts(generation)
            generation.verify(everything=verify_all)
            for part in parts:
                part.verify(everything=verify_all)
            cores = [IndexCore.open(p, mmap=mmap, ef_search=ef_search, nprobe=nprobe) for p in parts]
            kinds = {(c.settings.metric, c.settings.factory) for c in cores}
            dimensions = {c.dimension for c in cores} - {None}
            if seen is None or len(kinds) != 1 or len(dimensions) > 1:
                raise IndexCorruptError(f"The shards of {folder} contradict each other; index again.")
            return seen, cores, KeptMentions(generation), generation.number

        store = cls(embedding, shards=1, async_workers=async_workers)
        mark, cores, store._mentions, number = read_current(folder, read)
        check_fingerprint(mark, embedding)
        store._use([FaissStore._of(core, embedding) for core in cores])
        store._fingerprint = mark
        store._source = (folder.resolve(), number)
        return store

    def _upsert(self, records: list[Record], matrix: FloatArray) -> None:
        last = {record.id: place for place, record in enumerate(records)}
        places = sorted(last.values())
        kept = [records[place] for place in places]
        rows = np.ascontiguousarray(matrix[places])
        with self._lock.write():
            self._check_dimension(rows)
            self._train(rows)
            if self._mentions.kept:
                old = self._found([record.id for record in kept])
                self._mentions.change(old, [record.document() for record in kept])
            for number, own in self._places([record.id for record in kept]).items():
                self._shards[number]._upsert([kept[place] for place in own], rows[own])

    def _train(self, vectors: FloatArray) -> None:
        """Trains the first shard, unless it is trained, and gives the others the same training."""
        first = self._shards[0]._core
        if first.is_trained:
            return
        first.train(vectors)
        for shard in self._shards[1:]:
            shard._core.adopt_training(first)

    def _found(self, ids: Sequence[str]) -> list[Document]:
        found: dict[str, Document] = {}
        for number, places in self._places(ids).items():
            wanted = [ids[place] for place in places]
            found.update({str(d.id): d for d in self._shards[number].get_by_ids(wanted)})
        return [found[i] for i in dict.fromkeys(ids) if i in found]

    def _everything(self) -> list[Document]:
        return list(chain.from_iterable(self._shards))

    def _places(self, ids: Sequence[str]) -> dict[int, list[int]]:
        """Places in `ids` by the number of the shard that they belong to."""
        places: dict[int, list[int]] = {}
        for place, name in enumerate(ids):
            digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
            places.setdefault(int.from_bytes(digest[:8], "big") % len(self._shards), []).append(place)
        return places

    def _everywhere(self, work: Callable[[FaissStore], T]) -> list[T]:
        futures = [self._searchers.submit(work, shard) for shard in self._shards]
        return [future.result() for future in futures]


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


def _write_shard(shard: FaissStore, generation: Path, number: int) -> str:
    if shard._core.wants_compaction:
        shard.compact()
    with shard._lock.read():
        return seal_part(generation, number, shard._core.write_files, shard._core.contents)


def _score(hit: Hit) -> float:
    return hit.score
