"""Builds large indexes: in batches, with progress, and going on where a killed build stopped."""

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
from typing import NamedTuple, TypeAlias, cast

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from agentprm.errors import ConfigurationError, IndexCorruptError, IndexMismatchError, InputError
from agentprm.retrievers.document_table import Record
from agentprm.retrievers.faiss_store import FaissStore
from agentprm.retrievers.fingerprint import Fingerprint, check_fingerprint, fingerprint
from agentprm.retrievers.locking import FolderLock
from agentprm.retrievers.metrics import Metric
from agentprm.retrievers.plain import metadata_json, stored_text
from agentprm.retrievers.vector_index import FloatArray

__all__ = ["BuildProgress", "build_index"]

_logger = logging.getLogger(__name__)

_STAGING = "building"
_BLOCK = 50_000
# FAISS samples its training vectors itself beyond 256 a centroid; this many serve 1,024 centroids.
_TRAINING = 262_144

_EmbedBatches: TypeAlias = Callable[[Iterable[list[str]]], Iterable[FloatArray]]


class BuildProgress(NamedTuple):
    """How far a build is.

    Attributes:
        seen: Documents read from the input.
        embedded: Documents embedded by this run.
        resumed: Documents whose vectors an earlier run had left.
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
    is called again with the same documents: only what has no vector yet, or has changed, is embedded.
    The index itself appears at the end, atomically, with the titles for link feedback, and replaces one
    that was there.

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
        WriterConflictError: Another process builds in the same folder.
    """
    if batch_size < 1:
        raise ConfigurationError(f"batch_size must be at least 1, not {batch_size}.")
    folder = Path(path)
    staging = folder / _STAGING
    staging.mkdir(parents=True, exist_ok=True)
    with FolderLock(folder / ".build.lock", lock_timeout_s):
        with closing(_Staging(staging, embedding)) as stage:
            embed = _checked(embed_batches, embedding) if embed_batches else _in_turn(embedding)
            rows = _embed_all(stage, documents, embed, batch_size, progress)
            store = FaissStore(embedding, factory=factory, metric=metric)
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
            _ = store.mentions  # collects the titles now, and not in every process that opens the folder
            store.save(folder, lock_timeout_s=lock_timeout_s)
        shutil.rmtree(staging)
    return FaissStore.load(folder, embedding)


class _Batch(NamedTuple):
    """A batch on its way: rows it has already, by id, and records whose vectors are being computed."""

    seen: int
    known: dict[str, int]
    new: list[Record]
    ids: list[str]


def _embed_all(
    stage: _Staging,
    documents: Iterable[Document],
    embed_batches: _EmbedBatches,
    batch_size: int,
    progress: Callable[[BuildProgress], None] | None,
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
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
        self._path = folder / "vectors.f32"
        self._connection = sqlite3.connect(folder / "documents.sqlite")
        try:
            self._connection.executescript(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                "CREATE TABLE IF NOT EXISTS origin (embedding TEXT);"
                "CREATE TABLE IF NOT EXISTS documents (row INTEGER PRIMARY KEY, id TEXT UNIQUE, text TEXT,"
                " metadata TEXT)"
            )
            stored = self._connection.execute("SELECT embedding FROM origin").fetchone()
            count = self._connection.execute("SELECT coalesce(max(row) + 1, 0) FROM documents").fetchone()[0]
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise IndexCorruptError(
                f"The unfinished build in {folder} is damaged ({error}): remove that folder and build again."
            ) from None
        if stored is None:
            mark = fingerprint(embedding)
            with self._connection:
                self._connection.execute("INSERT INTO origin VALUES (?)", (json.dumps(mark),))
        else:
            mark = cast("Fingerprint", json.loads(stored[0]))
            check_fingerprint(mark, embedding)
        self._dimension = len(mark["probe"])
        size = self._path.stat().st_size if self._path.exists() else 0
        if size < count * self._row_bytes:
            self._connection.close()
            raise IndexCorruptError(
                f"The unfinished build in {folder} lacks vectors: remove that folder and build again."
            )
        self._file = self._path.open("ab")
        self._file.truncate(count * self._row_bytes)
        self._count = int(count)
        if count:
            _logger.info("Going on with a build that holds %d documents.", count)

    @property
    def _row_bytes(self) -> int:
        return 4 * self._dimension

    def rows_of(self, records: Iterable[Record]) -> dict[str, int]:
        """Rows of those records that are staged unchanged."""
        known = {}
        for record in records:
            found = self._connection.execute(
                "SELECT row FROM documents WHERE id = ? AND text = ? AND metadata = ?", record
            ).fetchone()
            if found:
                known[record.id] = int(found[0])
        return known

    def add(self, records: list[Record], vectors: FloatArray) -> dict[str, int]:
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

    def records(self, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[Record]:
        """Staged records by row."""
        sql = "SELECT id, text, metadata FROM documents WHERE row = ?"
        return [Record(*self._connection.execute(sql, (int(row),)).fetchone()) for row in rows]

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._connection.close()


def _batches(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    iterator = iter(documents)
    while batch := list(islice(iterator, size)):
        yield batch


def _record(document: Document) -> Record:
    try:
        text = stored_text(document.page_content, "The text of a document")
        metadata = metadata_json(document.metadata)
    except InputError as error:
        name = document.id or document.metadata.get("source") or document.page_content[:40]
        raise InputError(f"Document {name!r}: {error}") from None
    return Record(document.id or sha256(f"{text}\0{metadata}".encode()).hexdigest()[:32], text, metadata)
