"""The store without LangChain: vectors, keys, documents and an index over them, in step.

Every document version gets a new 63-bit key, counted upwards and never used twice. Rows are only
appended; a deleted row stays as a tombstone until `compact`. So no FAISS index ever has to remove
anything, and a key means the same document on every index type.

A change is prepared as a whole (`Change`) and then put into effect. Whatever interrupts the
preparation leaves the documents as they were; a change that was interrupted while it was put into effect
is put into effect again. Only the FAISS index is written to beforehand; it is filled anew when nothing
came of that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from agentprm.errors import ConfigurationError, InputError
from agentprm.forking import ForkSafeLock
from agentprm.retrievers.approximate import ApproximateIndex, canonical_factory, first_line, is_flat
from agentprm.retrievers.document_table import DocumentTable, StoredDocument, TableChange
from agentprm.retrievers.filters import Filter, compile_filter, compile_metadata_filter, signature
from agentprm.retrievers.gpu import MOST_RESULTS, GpuClone
from agentprm.retrievers.vectors import (
    FloatArray,
    GrowingArray,
    Metric,
    check_metric,
    exact_search,
    faiss_metric,
    to_scores,
)

__all__ = ["Change", "IndexCore", "IndexSettings"]

BoolArray = npt.NDArray[np.bool_]

# A filter that leaves at most this many rows, or this share of them, is answered by an exact scan.
_EXACT_ROWS = 20_000
_EXACT_SHARE = 0.1
# An index that cannot filter fetches up to this many rows more, to skip deleted ones.
_OVERFETCH = 1000
# Compacted by itself when at least this many rows are deleted, and they outnumber the others.
_COMPACT_ROWS = 1000
_MASKS = 16


class IndexSettings(NamedTuple):
    """How an index is built and searched; see `FaissStore`."""

    factory: str
    metric: Metric
    ef_search: int | None
    nprobe: int | None


class _Mask(NamedTuple):
    """Which rows passed a filter when there was no document from `next_key` on, and so many were deleted."""

    rows: BoolArray
    next_key: int
    dead: int


_NOTHING_KNOWN = _Mask(np.empty(0, dtype=np.bool_), 0, 0)


@dataclass(frozen=True)
class Change:
    """What becomes of an index, computed beforehand; in effect twice it is the same as once.

    Attributes:
        keys: All keys.
        vectors: All vectors.
        next_key: The key of the next document.
        dead: Rows of deleted documents.
        buried: Rows that are added to them.
        documents: What changes in the documents.
        index: The FAISS index over all vectors.
        dimension: Length of a vector.
    """

    keys: GrowingArray
    vectors: GrowingArray
    next_key: int
    dead: set[int]
    buried: list[int]
    documents: TableChange
    index: ApproximateIndex | None
    dimension: int | None


class IndexCore:
    """Documents with vectors, searched by vector. Not synchronised: the caller holds a lock.

    Args:
        settings: Factory, metric and search effort.

    Raises:
        ConfigurationError: The metric is unknown or a number is not positive.
    """

    def __init__(self, settings: IndexSettings) -> None:
        for name, value in (("ef_search", settings.ef_search), ("nprobe", settings.nprobe)):
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {value}.")
        self.settings = settings._replace(
            factory=canonical_factory(settings.factory), metric=check_metric(settings.metric)
        )
        self.documents = DocumentTable()
        self.keys = GrowingArray(np.empty(0, dtype=np.int64))
        self.vectors = GrowingArray(np.empty((0, 0), dtype=np.float32))
        self.dead: set[int] = set()
        self.next_key = 0
        self.dimension: int | None = None
        self.index: ApproximateIndex | None = None
        self.sound = True  # whether the FAISS index holds all vectors and no others
        self._metric = faiss_metric(settings.metric)
        self._masks: OrderedDict[str | None, _Mask] = OrderedDict()
        self._masks_lock = ForkSafeLock()
        self._gpu: GpuClone | None = None

    def __len__(self) -> int:
        return len(self.keys) - len(self.dead)

    # Changing

    def prepare_upsert(
        self, records: Sequence[StoredDocument], vectors: FloatArray, trained: ApproximateIndex | None = None
    ) -> Change:
        """The change that adds documents and replaces those with the same ids.

        Args:
            records: The documents, of distinct ids.
            vectors: Their vectors (n x d), prepared for the metric; kept, and never changed.
            trained: What `trained_index` gave for them, here or in another shard.

        Raises:
            InputError: FAISS cannot add the vectors.
        """
        known = self.documents.keys_of([record.id for record in records])
        removed = [key for key in known if key is not None]
        keys = np.arange(self.next_key, self.next_key + len(records), dtype=np.int64)
        change = Change(
            keys=self.keys.extended(keys),
            vectors=self.vectors.extended(vectors),
            next_key=self.next_key + len(records),
            dead=self.dead,
            buried=self._rows(removed),
            documents=self.documents.plan(removed, dict(zip(keys.tolist(), records, strict=True))),
            index=None,
            dimension=vectors.shape[1],
        )
        return replace(change, index=self._grown(vectors, change.vectors, trained))

    def prepare_deletion(self, ids: Sequence[str] | None) -> Change:
        """The change that removes documents; unknown ids are ignored; `None` removes everything."""
        if ids is None:
            removed = self.live_keys()
        else:
            removed = [key for key in self.documents.keys_of(list(dict.fromkeys(ids))) if key is not None]
        return replace(
            self._unchanged(), buried=self._rows(removed), documents=self.documents.plan(removed, {})
        )

    def prepare_compaction(self) -> Change:
        """The change that drops the rows of deleted documents."""
        live = np.flatnonzero(self._live())
        vectors, keys = GrowingArray(self.vectors.take(live)), GrowingArray(self.keys.take(live))
        if self.index is not None:
            self.sound = False
            self.index.refill(vectors)
        return replace(self._unchanged(), keys=keys, vectors=vectors, dead=set())

    def prepare_training(self, trained: ApproximateIndex | None, dimension: int) -> Change:
        """The change that makes an index without documents take what `trained_index` gave."""
        change = replace(self._unchanged(), dimension=dimension)
        if self.dimension is None:
            change = replace(change, vectors=GrowingArray(np.empty((0, dimension), dtype=np.float32)))
        return change if trained is None else replace(change, index=trained)

    def trained_index(self, vectors: FloatArray) -> ApproximateIndex | None:
        """A new index trained on a sample (n x d); `None` where there is nothing to train.

        Raises:
            InputError: There are too few vectors.
        """
        if self.is_trained:
            return None
        index = self.new_index(vectors.shape[1])
        if not index.is_trained:
            index.train(vectors)
        return index

    def apply(self, change: Change) -> None:
        """Puts a change into effect, or finishes one that was interrupted."""
        self.documents.apply(change.documents)
        if change.dead is not self.dead:  # after a compaction rows have other numbers
            self._masks.clear()
        self.dead = change.dead
        self.dead.update(change.buried)
        self.keys = change.keys
        self.vectors = change.vectors
        self.next_key = change.next_key
        self.dimension = change.dimension
        self.index = change.index
        self._gpu = None
        self.sound = True

    def mend(self) -> None:
        """Fills the FAISS index anew when a change that had written to it did not come into effect."""
        if not self.sound:
            if self.index is not None:
                self.index.refill(self.vectors)
            self.sound = True

    @property
    def is_trained(self) -> bool:
        """Whether documents can be added without training."""
        return is_flat(self.settings.factory) or (self.index is not None and self.index.is_trained)

    @property
    def is_crowded(self) -> bool:
        """Whether so many rows are deleted that the others are worth copying."""
        return len(self.dead) > max(_COMPACT_ROWS, len(self))

    @property
    def wants_compaction(self) -> bool:
        """Whether a save writes less after a compaction, at no other cost."""
        return bool(self.dead) and self.index is None

    def new_index(self, dimension: int) -> ApproximateIndex:
        """An empty FAISS index.

        Raises:
            ConfigurationError: FAISS does not know the factory string, or not for this dimension.
        """
        settings = self.settings
        return ApproximateIndex(
            settings.factory,
            dimension,
            settings.metric,
            ef_search=settings.ef_search,
            nprobe=settings.nprobe,
        )

    def to_gpu(self, device: int) -> None:
        """Clones the index to a GPU, for searches without a filter until the next change."""
        if len(self.vectors):
            index = None if self.index is None else self.index.faiss_index
            self._gpu = GpuClone(self.vectors, self._metric, index, device)

    # Reading

    def live_keys(self) -> list[int]:
        """Keys of all documents, in the order in which they were added."""
        keys: list[int] = self.keys.take(np.flatnonzero(self._live())).tolist()
        return keys

    def vectors_for(self, ids: Sequence[str]) -> FloatArray:
        """Stored vectors (n x d) of documents.

        Raises:
            InputError: There is no document with one of the ids.
        """
        keys = self.documents.keys_of(ids)
        unknown = [i for i, key in zip(ids, keys, strict=True) if key is None]
        if unknown:
            raise InputError(f"There is no document with id {unknown[0]!r} in the index; check the ids.")
        if not keys:
            return np.empty((0, self.dimension or 0), dtype=np.float32)
        return self.vectors.take(self.keys.locate(np.asarray(keys, dtype=np.int64)))

    def search(self, queries: FloatArray, k: int, spec: Filter) -> list[list[tuple[int, float]]]:
        """Best `k` keys with scores, best first, for each query (q x d, prepared for the metric)."""
        mask = self._mask(spec)
        allowed = len(self.keys) if mask is None else int(mask.sum())
        wanted = min(k, allowed)
        if not wanted:
            return [[] for _ in queries]
        found: list[tuple[FloatArray, npt.NDArray[np.int64]] | None] = [None] * len(queries)
        if self._gpu is not None and mask is None and wanted <= MOST_RESULTS:
            found = [pair if len(pair[1]) >= wanted else None for pair in self._gpu.search(queries, wanted)]
        elif self.index is not None:
            found = self._approximate(queries, wanted, mask, allowed)
        missing = [i for i, pair in enumerate(found) if pair is None]
        if missing:
            values, rows = exact_search(
                np.ascontiguousarray(queries[missing]), self.vectors, wanted, self._metric, mask
            )
            for place, i in enumerate(missing):
                found[i] = (values[place], rows[place])
        results = []
        for pair in found:
            assert pair is not None
            scores = to_scores(pair[0], self.settings.metric).tolist()
            results.append(list(zip(self.keys.take(pair[1]).tolist(), scores, strict=True)))
        return results

    def _unchanged(self) -> Change:
        nothing = self.documents.plan((), {})
        return Change(
            self.keys, self.vectors, self.next_key, self.dead, [], nothing, self.index, self.dimension
        )

    def _grown(
        self, new: FloatArray, table: GrowingArray, trained: ApproximateIndex | None
    ) -> ApproximateIndex | None:
        """The FAISS index with new vectors; `table` holds the old and the new ones."""
        if is_flat(self.settings.factory):
            return None
        index = self.index
        if index is None or not index.is_trained:
            index = self.new_index(new.shape[1]) if trained is None else trained
        if not len(new):
            return index
        if index is self.index:
            self.sound = False  # until the change is in effect
        try:
            if index.grows or not len(index):
                index.add(new)
            else:
                index.refill(table)
        except Exception as error:
            raise InputError(
                f"FAISS cannot add {len(new)} documents to an index {self.settings.factory!r}: "
                f"{first_line(error)} Nothing was added; use another factory, such as 'HNSW32'."
            ) from None
        return index

    def _rows(self, keys: Sequence[int]) -> list[int]:
        rows: list[int] = self.keys.locate(np.asarray(keys, dtype=np.int64)).tolist()
        return rows

    def _live(self) -> BoolArray:
        live = np.ones(len(self.keys), dtype=np.bool_)
        live[list(self.dead)] = False
        return live

    def _mask(self, spec: Filter) -> BoolArray | None:
        """Rows that may come back, `None` for all of them; after a change only new rows are looked at."""
        if spec is None and not self.dead:
            return None
        if spec is not None and not isinstance(spec, Mapping):
            keep = compile_filter(spec)
            keys = [key for key, record in self.documents.records() if keep(record.document())]
            mask = np.zeros(len(self.keys), dtype=np.bool_)
            mask[self._rows(keys)] = True
            return mask
        test = None if spec is None else compile_metadata_filter(spec)
        name = "" if spec is None else signature(spec)
        with self._masks_lock:  # searches run side by side
            known = self._masks.get(name, _NOTHING_KNOWN)
            if name in self._masks:
                self._masks.move_to_end(name)
        if known.next_key == self.next_key and known.dead == len(self.dead):
            return known.rows
        mask = np.full(len(self.keys), test is None)
        mask[: len(known.rows)] = known.rows
        if test is not None:
            new = self.documents.metadata(known.next_key)
            mask[self._rows([key for key, metadata in new if test(metadata)])] = True
        mask[list(self.dead)] = False
        if name is not None:
            with self._masks_lock:
                self._masks[name] = _Mask(mask, self.next_key, len(self.dead))
                while len(self._masks) > _MASKS:
                    self._masks.popitem(last=False)
        return mask

    def _approximate(
        self, queries: FloatArray, k: int, mask: BoolArray | None, allowed: int
    ) -> list[tuple[FloatArray, npt.NDArray[np.int64]] | None]:
        """Results of the FAISS index; `None` for a query that needs an exact scan."""
        index = self.index
        assert index is not None
        if mask is None:
            results = index.search(queries, self.vectors, k, self._metric, None)
        elif index.filters:
            if allowed <= max(_EXACT_ROWS, _EXACT_SHARE * len(mask)) and allowed < len(mask) // 2:
                return [None] * len(queries)
            results = index.search(queries, self.vectors, k, self._metric, mask)
        elif len(mask) - allowed <= _OVERFETCH:
            wide = index.search(queries, self.vectors, k + len(mask) - allowed, self._metric, None)
            results = [(values[mask[rows]][:k], rows[mask[rows]][:k]) for values, rows in wide]
        else:
            return [None] * len(queries)
        return [pair if len(pair[1]) >= k else None for pair in results]
