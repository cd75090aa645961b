"""Builds large indexes: in batches, with progress, embedding only what is new or has changed.

A build that is killed goes on where it stopped; one over an index that is there takes its vectors.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from agentprm.errors import ConfigurationError, IndexCorruptError, IndexMismatchError, InputError
from agentprm.retrievers.document_table import StoredDocument, make_record
from agentprm.retrievers.faiss_store import FaissStore
from agentprm.retrievers.files import FolderLock, refuse_link, storage_errors
from agentprm.retrievers.fingerprint import Fingerprint, check_fingerprint, fingerprint, parse_fingerprint
from agentprm.retrievers.generations import current_pointer, is_own_name
from agentprm.retrievers.vectors import FloatArray, Metric, check_metric
from agentprm.text import clean_text

__all__ = ["BuildProgress", "build_index", "holds_only_index"]

_logger = logging.getLogger(__name__)

_STAGING, _LOCK = "building", ".build.lock"
_VECTORS, _DOCUMENTS = "vectors.f32", "documents.sqlite"
_BLOCK = 50_000
# FAISS samples its training vectors itself beyond 256 a centroid; this many serve 1,024 centroids.
_TRAINING = 262_144

_EmbedBatches: TypeAlias = Callable[[Iterable[list[str]]], Iterable[FloatArray]]


class BuildProgress(NamedTuple):
    """How far a build is.

    Attributes:
        seen: Documents read from the input.
        embedded: Documents embedded by this run.
        resumed: Documents whose vectors were there: an earlier run had left them, or the index had them.
    """

    seen: int
    embedded: int
    resumed: int


def build_index(
    path: str | os.PathLike[str],
    documents: Iterable[Document],
    embedding: Embeddings,
    *,
    factory: str = "Flat",
    metric: Metric = "cosine",
    batch_size: int = 256,
    progress: Callable[[BuildProgress], None] | None = None,
    lock_timeout_s: float = 30.0,
    embed_batches: _EmbedBatches | None = None,
) -> FaissStore:
    """Embeds documents batch by batch and saves them as an index folder.

    Every batch is checkpointed under `path/building`. A build that is killed goes on from there when it
    is called again. Where an index of the same embeddings and metric is there, the vectors of its texts are
    taken over, under whatever id; so only what is new or has changed is embedded, and what is no longer
    given is dropped. The index itself appears at the end, atomically, with the titles for link feedback
    and the words for hybrid search, and replaces one that was there.

    Args:
        path: The index folder.
        documents: What to index. A document without an id gets one from its text and metadata.
        embedding: Turns texts into vectors.
        factory: See `FaissStore`; trained on a random sample of all vectors.
        metric: See `FaissStore`.
        batch_size: Documents per embedding call and checkpoint.
        progress: Called after every batch.
        lock_timeout_s: Seconds to wait for another build of the same folder.
        embed_batches: Embeds in place of `embedding`, which then only says what the vectors must be: takes
            batches of n texts, in the caller's thread and some in advance if it likes, and gives an array
            of n vectors (n x d) for each, in their order. `agentprm.scale.batch_embedder` makes one that
            spreads them over a cluster.

    Returns:
        The store, opened from the folder.

    Raises:
        ConfigurationError: `batch_size` is not positive.
        InputError: Metadata cannot be stored, the embeddings gave no finite vectors, or there are too few
            documents to train the index.
        IndexMismatchError: The interrupted build used other embeddings; remove its folder to start anew.
            Or `embed_batches` gives other vectors than `embedding`.
        StorageError: The disk is full or fails; what has been embedded is kept.
        WriterConflictError: Another process builds in the same folder.
    """
    if batch_size < 1:
        raise ConfigurationError(f"batch_size must be at least 1, not {batch_size}.")
    folder = Path(path)
    staging = folder / _STAGING
    try:
        with storage_errors(folder, "What has been embedded is kept; the same call goes on from there."):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise InputError(f"{folder} is, or lies in, a file: choose a folder for the index.") from None
            with FolderLock(folder / _LOCK, lock_timeout_s):
                refuse_link(staging).mkdir(exist_ok=True)
                with closing(_Staging(staging, embedding)) as stage:
                    previous = _Previous.of(folder, embedding, check_metric(metric))
                    embed = _checked(embed_batches, embedding) if embed_batches else _in_turn(embedding)
                    rows = _embed_all(stage, previous, documents, embed, batch_size, progress)
                    store = _assembled(stage, rows, FaissStore(embedding, factory=factory, metric=metric))
                    store.save(folder, lock_timeout_s=lock_timeout_s)
                shutil.rmtree(staging)
    except sqlite3.DatabaseError as error:
        raise IndexCorruptError(
            f"The unfinished build in {staging} is damaged ({error}): remove that folder and build again."
        ) from None
    return FaissStore.load(folder, embedding)


def holds_only_index(folder: Path, *also: str) -> bool:
    """Whether a folder has nothing in it but an index, finished or not.

    Args:
        folder: A folder that exists.
        also: Names of other files that may be there.
    """
    if current_pointer(folder) is not None:
        return True
    for entry in folder.iterdir():
        if entry.name == _STAGING and entry.is_dir():
            if not {path.name.split("-")[0] for path in entry.iterdir()} <= {_VECTORS, _DOCUMENTS}:
                return False
        elif entry.name != _LOCK and entry.name not in also and not is_own_name(entry.name):
            return False
    return True


def _assembled(stage: _Staging, rows: npt.NDArray[np.int64], store: FaissStore) -> FaissStore:
    """The store with what is staged in the given rows."""
    vectors = stage.vectors()
    if len(rows):
        sample = np.random.default_rng(0).choice(len(rows), min(len(rows), _TRAINING), replace=False)
        store.train(vectors[rows[np.sort(sample)]])
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        records = stage.records(block)
        store.add_embeddings(
            [r.text for r in records],
            vectors[block],
            [json.loads(r.metadata) for r in records],
            ids=[r.id for r in records],
        )
    _ = store.mentions, store.lexical  # collected now, and not in every process that opens the folder
    return store


class _Previous:
    """Vectors of an index that is about to be replaced, by the texts that they belong to."""

    def __init__(self, store: FaissStore | None) -> None:
        self._store = store
        self._ids = {} if store is None else {_digest(d.page_content): str(d.id) for d in store}

    @classmethod
    def of(cls, folder: Path, embedding: Embeddings, metric: Metric) -> _Previous:
        """Those of the index in a folder; none if there is no such index of these embeddings and metric."""
        if current_pointer(folder) is None:
            return cls(None)
        try:
            store = FaissStore.load(folder, embedding)
            return cls(store if store.metric == metric else None)
        except (IndexCorruptError, IndexMismatchError, InputError) as error:
            _logger.info("Embedding everything anew: %s", error)
            return cls(None)

    def __contains__(self, text: str) -> bool:
        return _digest(text) in self._ids

    def vectors(self, texts: Iterable[str]) -> FloatArray:
        """Vectors of texts that are in it (n x d)."""
        assert self._store is not None
        return self._store.vectors_for([self._ids[_digest(text)] for text in texts])


def _digest(text: str) -> bytes:
    return sha256(text.encode()).digest()[:16]


class _Batch(NamedTuple):
    """A batch on its way: rows it has already, by id, and records whose vectors are being computed."""

    seen: int
    known: dict[str, int]
    new: list[StoredDocument]
    ids: list[str]


def _embed_all(
    stage: _Staging,
    previous: _Previous,
    documents: Iterable[Document],
    embed_batches: _EmbedBatches,
    batch_size: int,
    progress: Callable[[BuildProgress], None] | None,
) -> npt.NDArray[np.int64]:
    """Stages all documents; rows of their vectors in the order of the input, without repetitions."""
    seen = embedded = resumed = 0
    order: dict[str, int] = {}
    under_way: deque[_Batch] = deque()
    # An id in there may get another row, so a repetition of it is embedded again: the last one wins.
    changing: Counter[str] = Counter()

    def settle(batch: _Batch, vectors: FloatArray | None) -> None:
        nonlocal seen, embedded, resumed
        if vectors is not None:
            batch.known.update(stage.add(batch.new, vectors))
            changing.subtract(record.id for record in batch.new)
            for record in batch.new:
                if not changing[record.id]:
                    del changing[record.id]
        order.update({name: batch.known[name] for name in batch.ids})
        seen, embedded = seen + batch.seen, embedded + len(batch.new)
        resumed += len(batch.ids) - len(batch.new)
        if progress is not None:
            progress(BuildProgress(seen, embedded, resumed))

    def texts() -> Iterator[list[str]]:
        for documents_of_batch in _batches(documents, batch_size):
            records = {record.id: record for record in map(_record, documents_of_batch)}
            known = stage.rows_of(records.values())
            new = [record for record in records.values() if record.id not in known or changing[record.id] > 0]
            same = [record for record in new if not changing[record.id] and record.text in previous]
            if same:
                known.update(stage.add(same, previous.vectors(record.text for record in same)))
                new = [record for record in new if record.id not in known or changing[record.id] > 0]
            batch = _Batch(len(documents_of_batch), known, new, list(records))
            if not new and not under_way:
                settle(batch, None)
                continue
            under_way.append(batch)
            changing.update(record.id for record in new)
            if new:
                yield [record.text for record in new]

    arrays = iter(embed_batches(texts()))
    try:
        for vectors in arrays:
            if not under_way:
                raise ConfigurationError("embed_batches gave more arrays than it was given batches.")
            settle(under_way.popleft(), np.asarray(vectors))
            while under_way and not under_way[0].new:
                settle(under_way.popleft(), None)
    finally:
        if isinstance(arrays, Generator):
            arrays.close()  # ends workers at once if the build fails
    if under_way:
        raise ConfigurationError("embed_batches gave fewer arrays than it was given batches.")
    return np.fromiter(order.values(), dtype=np.int64, count=len(order))


def _in_turn(embedding: Embeddings) -> _EmbedBatches:
    def embed(texts: list[str]) -> FloatArray:
        try:
            return np.asarray(embedding.embed_documents(texts), dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(f"The embeddings gave no matrix of numbers (n x d): {error}.") from None

    return lambda batches: map(embed, batches)


def _checked(embed_batches: _EmbedBatches, embedding: Embeddings) -> _EmbedBatches:
    """Compares the first vector with what the embeddings of the index make of the same text."""

    def embed(batches: Iterable[list[str]]) -> Iterator[FloatArray]:
        first: list[str] = []

        def watched() -> Iterator[list[str]]:
            for texts in batches:
                first.extend([] if first else texts[:1])
                yield texts

        for number, vectors in enumerate(embed_batches(watched())):
            if number == 0:
                own, given = np.asarray(embedding.embed_documents(first)), np.asarray(vectors)[:1]
                if given.shape != own.shape or not np.allclose(given, own, atol=0.01 * np.abs(own).max()):
                    raise IndexMismatchError(
                        "embed_batches gives other vectors than embedding does: give both the same model."
                    )
            yield vectors

    return embed


class _Staging:
    """Vectors and documents of an unfinished build: a raw file and the table that says what counts.

    The vectors of a batch are on disk before its rows are committed, so the table is always right.
    """

    def __init__(self, folder: Path, embedding: Embeddings) -> None:
        self._path = refuse_link(folder / _VECTORS)
        self._connection = sqlite3.connect(refuse_link(folder / _DOCUMENTS))
        try:
            mark, self._count = self._opened(folder, embedding)
        except BaseException:
            self._connection.close()
            raise
        self._dimension = len(mark["probe"])
        size = self._path.stat().st_size if self._path.exists() else 0
        if size < self._count * self._row_bytes:
            self._connection.close()
            raise IndexCorruptError(
                f"The unfinished build in {folder} lacks vectors: remove that folder and build again."
            )
        self._file = self._path.open("ab")
        self._file.truncate(self._count * self._row_bytes)
        if self._count:
            _logger.info("Going on with a build that holds %d documents.", self._count)

    def _opened(self, folder: Path, embedding: Embeddings) -> tuple[Fingerprint, int]:
        """What the vectors must be like, and how many of them count."""
        self._connection.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
            "CREATE TABLE IF NOT EXISTS origin (embedding TEXT);"
            "CREATE TABLE IF NOT EXISTS documents (row INTEGER PRIMARY KEY, id TEXT UNIQUE, text TEXT,"
            " metadata TEXT)"
        )
        stored = self._connection.execute("SELECT embedding FROM origin").fetchone()
        if stored is None:
            mark = fingerprint(embedding)
            with self._connection:
                self._connection.execute("INSERT INTO origin VALUES (?)", (json.dumps(mark),))
        else:
            known = parse_fingerprint(json.loads(stored[0]))
            if known is None:
                raise sqlite3.DatabaseError("it does not say which embeddings it used")
            mark = known
            try:
                check_fingerprint(mark, embedding)
            except IndexMismatchError as error:
                raise IndexMismatchError(
                    f"The unfinished build in {folder} used other embeddings: go on with those, or remove "
                    f"that folder to start anew. {error}"
                ) from None
        count = self._connection.execute("SELECT coalesce(max(row) + 1, 0) FROM documents").fetchone()[0]
        return mark, int(count)

    @property
    def _row_bytes(self) -> int:
        return 4 * self._dimension

    def rows_of(self, records: Iterable[StoredDocument]) -> dict[str, int]:
        """Rows of those records that are staged with the same text; their metadata is brought up to date."""
        known = {}
        with self._connection:
            for record in records:
                found = self._connection.execute(
                    "SELECT row, metadata FROM documents WHERE id = ? AND text = ?", record[:2]
                ).fetchone()
                if found:
                    known[record.id] = int(found[0])
                    if found[1] != record.metadata:
                        self._connection.execute(
                            "UPDATE documents SET metadata = ? WHERE row = ?", (record.metadata, found[0])
                        )
        return known

    def add(self, records: list[StoredDocument], vectors: FloatArray) -> dict[str, int]:
        """Stages records with their vectors (n x d)."""
        if vectors.shape != (len(records), self._dimension):
            raise ConfigurationError(
                f"The embeddings gave an array of shape {vectors.shape} for {len(records)} texts of "
                f"{self._dimension} dimensions."
            )
        if not np.isfinite(vectors).all():  # once staged, every later run would stumble over them
            raise InputError("The embeddings gave NaN or infinity; check them and the texts of this batch.")
        self._file.write(np.ascontiguousarray(vectors, dtype=np.float32).data)
        self._file.flush()
        os.fsync(self._file.fileno())
        rows = {record.id: self._count + place for place, record in enumerate(records)}
        with self._connection:
            self._connection.executemany(
                "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?)",
                ((rows[record.id], *record) for record in records),
            )
        self._count += len(records)
        return rows

    def vectors(self) -> FloatArray:
        """All staged vectors, mapped."""
        if not self._count:
            return np.empty((0, self._dimension), dtype=np.float32)
        return np.memmap(self._path, dtype=np.float32, mode="r", shape=(self._count, self._dimension))

    def records(self, rows: npt.NDArray[np.int64]) -> list[StoredDocument]:
        """Staged records by row."""
        sql = "SELECT id, text, metadata FROM documents WHERE row = ?"
        return [StoredDocument(*self._connection.execute(sql, (int(row),)).fetchone()) for row in rows]

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._connection.close()


def _batches(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    iterator = iter(documents)
    while batch := list(islice(iterator, size)):
        yield batch


def _record(document: Document) -> StoredDocument:
    """The record of a document; without an id, one is made of its text and metadata."""
    if document.id:
        return make_record(document.id, document.page_content, document.metadata)
    name = document.metadata.get("source") or document.page_content[:40]
    record = make_record(clean_text(str(name)), document.page_content, document.metadata)
    return record._replace(id=sha256(f"{record.text}\0{record.metadata}".encode()).hexdigest()[:32])
