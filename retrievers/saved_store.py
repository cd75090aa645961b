"""What stores with an index of their own share: changes in one step, searches, saving and loading.

A store has one index or several (shards). A change is prepared for all of them, switched to in one
step, and then put into effect; every access first finishes a change that was interrupted. So an
interrupt, a full memory or a failing library leaves the documents of before or those of after.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from heapq import nlargest
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from agentprm.errors import IndexCorruptError
from agentprm.forking import ForkSafeLock, ReadWriteLock
from agentprm.retrievers.document_table import StoredDocument
from agentprm.retrievers.filters import Filter
from agentprm.retrievers.fingerprint import Fingerprint, check_fingerprint, fingerprint, parse_fingerprint
from agentprm.retrievers.generations import Generation, commit, read_current
from agentprm.retrievers.index_core import Change, IndexCore
from agentprm.retrievers.index_files import open_index
from agentprm.retrievers.kept_text import KeptText
from agentprm.retrievers.lexical import LexicalIndex
from agentprm.retrievers.mentions import MentionIndex
from agentprm.retrievers.store_base import Hit, VectorSearchStore, check_k, listed_ids
from agentprm.retrievers.vectors import FloatArray, Metric, distance

__all__ = ["SavedStore"]

T = TypeVar("T")

_PAGE = 500


class _Pending(NamedTuple):
    """A change of the whole store."""

    changes: list[tuple[IndexCore, Change]]
    removed: list[Document]
    added: list[Document]


class SavedStore(VectorSearchStore):
    """A store over one index or several that is saved to a folder.

    Args:
        embedding: Turns texts into vectors.
        cores: The indexes, all with the same settings.
        async_workers: Threads that serve the async methods.
    """

    def __init__(self, embedding: Embeddings, cores: list[IndexCore], async_workers: int) -> None:
        super().__init__(embedding, async_workers)
        self._kept = KeptText()
        self._lock = ReadWriteLock()
        self._settling = ForkSafeLock()
        self._saving = ForkSafeLock()
        self._pending: _Pending | None = None
        self._fingerprint: Fingerprint | None = None
        # The folder that it was loaded from or last saved to, and pointers to its own generations there.
        self._folder: Path | None = None
        self._own: set[str] = set()
        self._use(cores)

    # What a kind of store provides

    def _place(self, name: str) -> int:
        """Number of the index that the document of an id belongs to."""
        return 0

    @abstractmethod
    def _write(self, folder: Path) -> dict[str, Any]:
        """Writes all indexes into the empty folder of a generation; returns what its manifest says."""

    @classmethod
    @abstractmethod
    def _parts(cls, generation: Generation) -> list[Generation]:
        """Where the indexes of a generation lie.

        Raises:
            InputError: It holds another kind of store.
        """

    # Properties

    @property
    def metric(self) -> Metric:
        """The metric."""
        return self._cores[0].settings.metric

    @property
    def factory(self) -> str:
        """The FAISS factory string."""
        return self._cores[0].settings.factory

    @property
    def dimension(self) -> int | None:
        """Length of a vector; `None` before the first document."""
        return next((core.dimension for core in self._cores if core.dimension is not None), None)

    @property
    def mentions(self) -> MentionIndex:
        """Titles of the documents, for link feedback.

        Collected at first use in one pass over the texts; kept up to date and saved from then on.
        """
        with self._reading():
            return self._kept.titles(self._everything)

    @property
    def lexical(self) -> LexicalIndex:
        """BM25 over the documents, for hybrid search; collected and kept up to date as `mentions`."""
        with self._reading():
            words = self._kept.words(self._everything)
        return LexicalIndex.over(words, self.get_by_ids)

    def __len__(self) -> int:
        with self._reading():
            return sum(len(core) for core in self._cores)

    def __iter__(self) -> Iterator[Document]:
        """All documents, in the order in which they were added; changes meanwhile may or may not show."""
        for core in self._cores:
            with self._reading():
                keys = core.live_keys()
            for start in range(0, len(keys), _PAGE):
                with self._reading():
                    found = core.documents.get(keys[start : start + _PAGE])
                yield from (found[key] for key in keys[start : start + _PAGE] if key in found)

    # Changing

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Removes documents by id, or all of them when `ids` is `None`; unknown ids are ignored."""
        wanted = None if ids is None else listed_ids(ids)

        def prepare() -> _Pending:
            removed: list[Document] = []
            if self._kept.in_use:
                removed = list(self._everything()) if wanted is None else self._found(wanted)
            if wanted is None:
                return _Pending([(core, core.prepare_deletion(None)) for core in self._cores], removed, [])
            spread = self._spread(wanted).items()
            changes = [
                (core, core.prepare_deletion([wanted[place] for place in places])) for core, places in spread
            ]
            return _Pending(changes, removed, [])

        self._change(prepare)
        return True

    def compact(self) -> None:
        """Frees the space of deleted documents; rebuilds an approximate index without them."""
        self._change(lambda: _Pending([(c, c.prepare_compaction()) for c in self._cores if c.dead], [], []))

    def train(self, vectors: FloatArray) -> None:
        """Trains an index that needs it on a sample of vectors (n x d), before the first documents.

        Raises:
            InputError: There are too few vectors.
        """
        matrix = self._matrix(vectors)

        def prepare() -> _Pending:
            self._check_dimension(matrix)
            if self._cores[0].is_trained:
                return _Pending([], [], [])
            trained = self._trained(matrix)
            wide = matrix.shape[1]
            return _Pending(
                [(c, c.prepare_training(t, wide)) for c, t in zip(self._cores, trained, strict=True)], [], []
            )

        self._change(prepare)

    def to_gpu(self, device: int = 0) -> None:
        """Searches without filters on a GPU from now on, until the next change of the documents.

        Args:
            device: Number of the GPU; shards are spread over the GPUs from there on. Beyond the last one the
                count starts again.

        Raises:
            CapabilityError: This build of FAISS has no GPU, or cannot put this kind of index on one.
        """
        with self._lock.write():
            self._settle()
            for number, core in enumerate(self._cores):
                core.to_gpu(device + number)

    # Reading

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Documents of the ids that exist, in the order of `ids`."""
        wanted = listed_ids(ids)
        with self._reading():
            return self._found(wanted)

    def vectors_for(self, ids: Sequence[str]) -> FloatArray:
        """Stored vectors of documents, one row each (n x d), of unit length for cosine.

        Raises:
            InputError: There is no document with one of the ids.
        """
        wanted = listed_ids(ids)
        with self._reading():
            rows = np.empty((len(wanted), self.dimension or 0), dtype=np.float32)
            for core, places in self._spread(wanted).items():
                rows[places] = core.vectors_for([wanted[place] for place in places])
        return rows

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
        with self._reading():
            parts = self._everywhere(lambda core: _hits(core, queries, k, filter))
        if len(parts) == 1:
            return parts[0]
        return [nlargest(k, chain.from_iterable(rows), key=_score) for rows in zip(*parts, strict=True)]

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
            StorageError: The disk is full or fails; the index in the folder is as it was.
            WriterConflictError: Another writer holds the folder, or has changed it meanwhile.
        """
        folder = Path(path)
        with self._saving:
            if self._fingerprint is None:
                self._fingerprint = fingerprint(self._embedding)
            mark = dict(self._fingerprint)
            if any(core.wants_compaction for core in self._cores):
                self.compact()

            def write(generation: Path) -> dict[str, Any]:
                with self._reading():
                    contents = self._write(generation)
                    self._kept.write(generation, self._everything)
                return {**contents, "embedding": mark}

            base = self._own if self._folder == folder.resolve() else None
            pointer = commit(folder, write, base=base, lock_timeout_s=lock_timeout_s)
            self._folder, self._own = folder.resolve(), {pointer}

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
            InputError: There is no such folder, or it holds another kind of store.
            IndexCorruptError: The index is incomplete, damaged, or of another format version.
            IndexMismatchError: It was built with other embeddings.
        """
        folder = Path(path)
        store = cls(embedding, async_workers=async_workers)  # type: ignore[call-arg]

        def read(generation: Generation) -> tuple[Fingerprint, list[IndexCore], KeptText, str]:
            parts = cls._parts(generation)
            mark = parse_fingerprint(generation.manifest.get("embedding"))
            if mark is None:
                raise IndexCorruptError(f"The manifest of {folder} lacks the embedding; index again.")
            for part in {part.folder: part for part in (generation, *parts)}.values():
                part.verify(everything=verify_all)
            cores = [open_index(part, mmap=mmap, ef_search=ef_search, nprobe=nprobe) for part in parts]
            kinds = {(core.settings.metric, core.settings.factory) for core in cores}
            if len(kinds) != 1 or len({core.dimension for core in cores} - {None}) > 1:
                raise IndexCorruptError(f"The shards of {folder} contradict each other; index again.")
            return mark, cores, KeptText(generation), generation.pointer

        store._fingerprint, cores, store._kept, pointer = read_current(folder, read)
        check_fingerprint(store._fingerprint, embedding)
        store._use(cores)
        store._folder, store._own = folder.resolve(), {pointer}
        return store

    # Helpers

    def _use(self, cores: list[IndexCore]) -> None:
        self._cores = cores
        self._searchers = (
            ThreadPoolExecutor(len(cores), thread_name_prefix="agentprm-shard") if len(cores) > 1 else None
        )

    def _upsert(self, records: list[StoredDocument], matrix: FloatArray) -> None:
        last = {record.id: place for place, record in enumerate(records)}
        if len(last) < len(records):  # of two with one id the last counts
            places = sorted(last.values())
            records, matrix = [records[place] for place in places], matrix[places]

        def prepare() -> _Pending:
            self._check_dimension(matrix)
            names = [record.id for record in records]
            removed, added = [], []
            if self._kept.in_use:
                removed, added = self._found(names), [record.document() for record in records]
            spread = self._spread(names)
            changes = []
            for core, trained in zip(self._cores, self._trained(matrix), strict=True):
                own = spread.get(core, [])
                if own or trained is not None:
                    rows = matrix if len(own) == len(matrix) else matrix[own]
                    change = core.prepare_upsert([records[place] for place in own], rows, trained)
                    changes.append((core, change))
            return _Pending(changes, removed, added)

        self._change(prepare)

    def _trained(self, vectors: FloatArray) -> list[Any]:
        """For each index a trained one of its own to start with, `None` where there is nothing to train."""
        trained = self._cores[0].trained_index(vectors)
        return [trained, *(None if trained is None else trained.copy() for _ in self._cores[1:])]

    def _change(self, prepare: Callable[[], _Pending]) -> None:
        with self._lock.write():
            self._settle()
            self._pending = prepare()  # from here on the change counts, whatever interrupts it
            self._settle()
            crowded = [core for core in self._cores if core.is_crowded]
            if crowded:
                self._pending = _Pending([(core, core.prepare_compaction()) for core in crowded], [], [])
                self._settle()

    def _settle(self) -> None:
        """Finishes a change that was interrupted, and mends what one that failed has left."""
        pending = self._pending
        if pending is not None:
            for core, change in pending.changes:
                core.apply(change)
            told = self._kept.change(pending.removed, pending.added)
            self._pending = None
            if told:
                self._kept.confirm()
        for core in self._cores:
            core.mend()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Holds the lock together with other readers; begins with `_settle` where that is needed."""
        with self._lock.read():
            if self._pending is not None or not all(core.sound for core in self._cores):
                with self._settling:
                    self._settle()
            yield

    def _spread(self, ids: Sequence[str]) -> Mapping[IndexCore, Sequence[int]]:
        """Places in `ids`, in ascending order, by the index that they belong to."""
        if len(self._cores) == 1:
            return {self._cores[0]: range(len(ids))}
        places: dict[IndexCore, list[int]] = {}
        for place, name in enumerate(ids):
            places.setdefault(self._cores[self._place(name)], []).append(place)
        return places

    def _found(self, ids: Sequence[str]) -> list[Document]:
        found: dict[str | None, Document] = {}
        for core, places in self._spread(ids).items():
            keys = core.documents.keys_of([ids[place] for place in places])
            documents = core.documents.get(key for key in keys if key is not None)
            found.update({document.id: document for document in documents.values()})
        return [found[name] for name in dict.fromkeys(ids) if name in found]

    def _everything(self) -> Iterable[Document]:
        return (record.document() for core in self._cores for _, record in core.documents.records())

    def _everywhere(self, work: Callable[[IndexCore], T]) -> list[T]:
        if self._searchers is None:
            return [work(core) for core in self._cores]
        return [job.result() for job in [self._searchers.submit(work, core) for core in self._cores]]


def _hits(core: IndexCore, queries: FloatArray, k: int, filter: Filter) -> list[list[Hit]]:
    found = core.search(queries, k, filter)
    documents = core.documents.get(key for row in found for key, _ in row)
    seen: set[int] = set()
    hits: list[list[Hit]] = []
    for row in found:
        hits.append([])
        for key, score in row:
            if key not in documents:
                raise IndexCorruptError(f"The document of key {key} is missing; index again.")
            document = documents[key] if key not in seen else documents[key].model_copy(deep=True)
            seen.add(key)
            hits[-1].append(Hit(document, score, distance(score, core.settings.metric)))
    return hits


def _score(hit: Hit) -> float:
    return hit.score
