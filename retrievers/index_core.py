"""The store without LangChain: vectors, keys, documents and an index over them, in step.

Every document version gets a new 63-bit key, counted upwards and never used twice. Rows are only
appended; a deleted row stays as a tombstone until `compact`. So no FAISS index ever has to remove
anything, and a key means the same document on every index type.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from agentprm.errors import ConfigurationError, IndexCorruptError, InputError
from agentprm.forking import ForkSafeLock
from agentprm.retrievers.ann import ApproximateIndex, canonical_factory, first_line, is_flat
from agentprm.retrievers.document_table import DocumentTable, Record
from agentprm.retrievers.exact import exact_search
from agentprm.retrievers.filters import Filter, compile_filter, compile_metadata_filter, signature
from agentprm.retrievers.generations import Generation
from agentprm.retrievers.gpu import MOST_RESULTS, GpuClone
from agentprm.retrievers.kept_mentions import KeptMentions
from agentprm.retrievers.metrics import Metric, check_metric, faiss_metric, to_scores
from agentprm.retrievers.tables import GrowingArray
from agentprm.retrievers.vector_index import FloatArray

__all__ = ["IndexCore", "IndexSettings"]

BoolArray = npt.NDArray[np.bool_]

# A filter that leaves at most this many rows, or this share of them, is answered by an exact scan.
_EXACT_ROWS = 20_000
_EXACT_SHARE = 0.1
# An index that cannot filter fetches up to this many rows more, to skip deleted ones.
_OVERFETCH = 1000
# Compacted by itself when at least this many rows are deleted, and they outnumber the others.
_COMPACT_ROWS = 1000
_MASKS = 16
_BLOCK = 65_536


class IndexSettings(NamedTuple):
    """How an index is built and searched; see `FaissStore`."""

    factory: str
    metric: Metric
    ef_search: int | None
    nprobe: int | None


class IndexCore:
    """Documents with vectors, searched by vector. Not synchronised: the caller holds a lock.

    Args:
        settings: Factory, metric and search effort.
    """

    def __init__(self, settings: IndexSettings) -> None:
        self.settings = settings._replace(
            factory=canonical_factory(settings.factory), metric=check_metric(settings.metric)
        )
        self.documents = DocumentTable()
        self._metric = faiss_metric(settings.metric)
        self._vectors = GrowingArray(np.empty((0, 0), dtype=np.float32))
        self._keys = GrowingArray(np.empty(0, dtype=np.int64))
        self._dead: set[int] = set()
        self._next_key = 0
        self._index: ApproximateIndex | None = None
        self._masks: OrderedDict[str, BoolArray | None] = OrderedDict()
        self._masks_lock = ForkSafeLock()
        self._gpu: GpuClone | None = None
        self.dimension: int | None = None
        self.mentions = KeptMentions()

    def __len__(self) -> int:
        return len(self._keys) - len(self._dead)

    def upsert(self, records: Sequence[Record], vectors: FloatArray) -> None:
        """Adds documents, replacing those with the same ids; of two with one id the last counts.

        Args:
            records: The documents.
            vectors: Their vectors (n x d), prepared for the metric.

        Raises:
            InputError: The index must be trained first and there are too few vectors for it.
        """
        last = {record.id: place for place, record in enumerate(records)}
        places = sorted(last.values())
        kept = np.ascontiguousarray(vectors[places])
        self._start(kept)
        if self._index is not None and not self._index.is_trained:
            self._index.train(kept)
        if self._index is not None:
            self._extend(kept)
        self._bury([key for key in self.documents.keys_of(list(last)) if key is not None])
        if self.mentions.kept:
            self.mentions.change([], [records[place].document() for place in places])
        keys = np.arange(self._next_key, self._next_key + len(places), dtype=np.int64)
        self._next_key += len(places)
        for key, place in zip(keys, places, strict=True):
            self.documents.put(int(key), records[place])
        self._keys.append(keys)
        self._vectors.append(kept)
        self._changed()

    def train(self, vectors: FloatArray) -> None:
        """Trains an untrained index on a sample of vectors (n x d); does nothing for one that is ready."""
        self._start(vectors)
        if self._index is not None and not self._index.is_trained:
            self._index.train(vectors)

    @property
    def is_trained(self) -> bool:
        """Whether documents can be added without training."""
        return is_flat(self.settings.factory) or (self._index is not None and self._index.is_trained)

    def adopt_training(self, other: IndexCore) -> None:
        """Takes over the training of an index without documents that has the same settings."""
        if other._index is None or other.dimension is None or self.is_trained:
            return
        self._start(np.empty((0, other.dimension), dtype=np.float32))
        if self._index is not None:
            self._index.from_bytes(other._index.to_bytes())

    def to_gpu(self, device: int) -> None:
        """Clones the index to a GPU, for searches without a filter until the next change."""
        if len(self._vectors):
            index = None if self._index is None else self._index.faiss_index
            self._gpu = GpuClone(self._vectors, self._metric, index, device)

    def delete(self, ids: Sequence[str] | None) -> None:
        """Removes documents; unknown ids are ignored; `None` removes everything."""
        if ids is None:
            keys = self.keys()
        else:
            keys = [key for key in self.documents.keys_of(list(dict.fromkeys(ids))) if key is not None]
        self._bury(keys)
        self._changed()

    def keys(self) -> list[int]:
        """Keys of all documents, in the order in which they were added."""
        return [int(key) for key in self._keys.take(np.flatnonzero(self._live()))]

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
        return self._vectors.take(self._keys.locate(np.asarray(keys, dtype=np.int64)))

    def search(self, queries: FloatArray, k: int, spec: Filter) -> list[list[tuple[int, float]]]:
        """Best `k` keys with scores, best first, for each query (q x d, prepared for the metric)."""
        mask = self._mask(spec)
        allowed = len(self._keys) if mask is None else int(mask.sum())
        wanted = min(k, allowed)
        if not wanted:
            return [[] for _ in queries]
        found: list[tuple[FloatArray, npt.NDArray[np.int64]] | None] = [None] * len(queries)
        if self._gpu is not None and mask is None and wanted <= MOST_RESULTS:
            found = [pair if len(pair[1]) >= wanted else None for pair in self._gpu.search(queries, wanted)]
        elif self._index is not None:
            found = self._approximate(queries, wanted, mask, allowed)
        missing = [i for i, pair in enumerate(found) if pair is None]
        if missing:
            values, rows = exact_search(
                np.ascontiguousarray(queries[missing]), self._vectors, wanted, self._metric, mask
            )
            for place, i in enumerate(missing):
                found[i] = (values[place], rows[place])
        results = []
        for pair in found:
            assert pair is not None
            scores = to_scores(pair[0], self.settings.metric).tolist()
            results.append(list(zip(self._keys.take(pair[1]).tolist(), scores, strict=True)))
        return results

    def compact(self) -> None:
        """Drops the rows of deleted documents and rebuilds the index without them."""
        if not self._dead:
            return
        live = np.flatnonzero(self._live())
        self._vectors = GrowingArray(self._vectors.take(live))
        self._keys = GrowingArray(self._keys.take(live))
        self._dead = set()
        self._masks.clear()
        self._gpu = None
        self._rebuild()

    @property
    def wants_compaction(self) -> bool:
        """Whether a save writes less after `compact`, at no other cost."""
        return bool(self._dead) and self._index is None

    def write_files(self, folder: Path) -> None:
        """Writes the files of a generation into an empty folder."""
        for name, table in (("ids.npy", self._keys), ("vectors.npy", self._vectors)):
            with (folder / name).open("wb") as file:
                shape = (len(table), *table.row_shape)
                header = {"descr": table.dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for _, block in table.blocks(_BLOCK):
                    file.write(np.ascontiguousarray(block).data)
        np.save(folder / "deleted.npy", np.asarray(sorted(self._dead), dtype=np.int64), allow_pickle=False)
        self.documents.write(folder / "documents.sqlite")
        self.mentions.write(folder)
        if self._index is not None and self._index.is_trained:
            (folder / "index.faiss").write_bytes(self._index.to_bytes().data)

    def contents(self) -> dict[str, Any]:
        """What the manifest says of these files."""
        return {
            "factory": self.settings.factory,
            "metric": self.settings.metric,
            "dimension": self.dimension,
            "count": len(self),
            "rows": len(self._keys),
            "next_key": self._next_key,
        }

    def inconsistencies(self) -> list[str]:
        """What is wrong between the tables; reads all of them."""
        problems = []
        keys = self._keys.take(np.arange(len(self._keys)))
        if len(keys) and ((np.diff(keys) <= 0).any() or keys[0] < 0 or keys[-1] >= self._next_key):
            problems.append("The keys are not ascending below the next key.")
        stored = [key for key, _ in self.documents.records()]
        if stored != self.keys():
            problems.append("The documents are not those that the vectors belong to.")
        for start, block in self._vectors.blocks(_BLOCK):
            lengths = np.linalg.norm(block, axis=1)
            if not np.isfinite(lengths).all():
                problems.append(f"A vector after row {start} is not finite.")
            elif (
                self.settings.metric == "cosine"
                and not (np.isclose(lengths, 1, atol=1e-3) | (lengths == 0)).all()
            ):
                problems.append(f"A vector after row {start} is not of unit length.")
        return problems

    @classmethod
    def open(
        cls, generation: Generation, *, mmap: bool, ef_search: int | None = None, nprobe: int | None = None
    ) -> IndexCore:
        """Opens the files of a generation whose sizes have been verified.

        Args:
            generation: What to open.
            mmap: Leave the vectors on disk and read the rows that are needed.
            ef_search: See `FaissStore`.
            nprobe: See `FaissStore`.

        Raises:
            IndexCorruptError: The files contradict each other or the manifest.
        """
        manifest = _checked(generation)
        core = cls(IndexSettings(manifest["factory"], manifest["metric"], ef_search, nprobe))
        rows, dimension = manifest["rows"], manifest.get("dimension")
        core._next_key = manifest["next_key"]
        shape = (rows, dimension or 0)
        core._keys = GrowingArray(_array(generation, "ids.npy", (rows,), np.dtype(np.int64), mmap))
        core._vectors = GrowingArray(_array(generation, "vectors.npy", shape, np.dtype(np.float32), mmap))
        deleted = _array(generation, "deleted.npy", None, np.dtype(np.int64), mmap=False)
        core._dead = set(deleted.tolist())
        core.mentions = KeptMentions(generation)
        core.documents = DocumentTable(generation.folder / "documents.sqlite")
        fits = all(0 <= row < rows for row in core._dead)
        if not fits or len(core) != manifest.get("count") or len(core.documents) != len(core):
            raise IndexCorruptError(f"The files of {generation.folder} contradict each other; index again.")
        if dimension is not None:
            try:
                core._start(np.empty((0, dimension), dtype=np.float32))
            except ConfigurationError as error:
                raise IndexCorruptError(f"The manifest of {generation.folder} is wrong: {error}") from None
            if core._index is not None and (rows or "index.faiss" in manifest["files"]):
                core._index.from_bytes(np.frombuffer(generation.read("index.faiss"), dtype=np.uint8))
                if len(core._index) != rows:
                    raise IndexCorruptError(f"The index of {generation.folder} lacks rows; index again.")
        return core

    def _start(self, vectors: FloatArray) -> None:
        """Fixes the dimension with the first vectors."""
        if self.dimension is not None:
            return
        dimension = vectors.shape[1]
        if not is_flat(self.settings.factory):
            self._index = ApproximateIndex(
                self.settings.factory,
                dimension,
                self.settings.metric,
                ef_search=self.settings.ef_search,
                nprobe=self.settings.nprobe,
            )
        if not len(self._vectors):
            self._vectors = GrowingArray(np.empty((0, dimension), dtype=np.float32))
        self.dimension = dimension

    def _extend(self, vectors: FloatArray) -> None:
        """Adds vectors to the FAISS index, or leaves it as it was."""
        index = self._index
        assert index is not None
        try:
            if index.grows or not len(index):
                index.add(vectors)
            else:
                rows = [block for _, block in self._vectors.blocks(_BLOCK)]
                index.clear()
                index.add(np.concatenate([*rows, vectors]))
        except Exception as error:
            self._rebuild()
            raise InputError(
                f"FAISS cannot add {len(vectors)} documents to an index {self.settings.factory!r}: "
                f"{first_line(error)} Nothing was added; use another factory, such as 'HNSW32'."
            ) from None

    def _rebuild(self) -> None:
        """Fills the FAISS index from the stored vectors."""
        if self._index is None:
            return
        self._index.clear()
        rows = len(self._vectors)
        for _, block in self._vectors.blocks(_BLOCK if self._index.grows else max(rows, 1)):
            self._index.add(np.ascontiguousarray(block))

    def _bury(self, keys: list[int]) -> None:
        if self.mentions.kept:
            self.mentions.change(self.documents.get(keys).values(), [])
        self._dead.update(self._keys.locate(np.asarray(keys, dtype=np.int64)).tolist())
        for key in keys:
            self.documents.remove(key)

    def _changed(self) -> None:
        self._masks.clear()
        self._gpu = None
        if len(self._dead) > max(_COMPACT_ROWS, len(self)):
            self.compact()

    def _live(self) -> BoolArray:
        live = np.ones(len(self._keys), dtype=np.bool_)
        live[list(self._dead)] = False
        return live

    def _mask(self, spec: Filter) -> BoolArray | None:
        """Rows that may come back, `None` for all of them; remembered until the next change."""
        test = compile_metadata_filter(spec) if isinstance(spec, Mapping) else None
        name = "" if spec is None else signature(spec) if isinstance(spec, Mapping) else None
        with self._masks_lock:  # searches run side by side
            if name is not None and name in self._masks:
                self._masks.move_to_end(name)
                return self._masks[name]
        mask: BoolArray | None = None
        if spec is not None:
            if test is not None:
                keys = [key for key, metadata in self.documents.metadata() if test(metadata)]
            else:
                keep = compile_filter(spec)
                keys = [key for key, record in self.documents.records() if keep(record.document())]
            mask = np.zeros(len(self._keys), dtype=np.bool_)
            mask[self._keys.locate(np.asarray(keys, dtype=np.int64))] = True
        elif self._dead:
            mask = self._live()
        if name is not None:
            with self._masks_lock:
                self._masks[name] = mask
                while len(self._masks) > _MASKS:
                    self._masks.popitem(last=False)
        return mask

    def _approximate(
        self, queries: FloatArray, k: int, mask: BoolArray | None, allowed: int
    ) -> list[tuple[FloatArray, npt.NDArray[np.int64]] | None]:
        """Results of the FAISS index; `None` for a query that needs an exact scan."""
        index = self._index
        assert index is not None
        if mask is None:
            results = index.search(queries, self._vectors, k, self._metric, None)
        elif index.filters:
            if allowed <= max(_EXACT_ROWS, _EXACT_SHARE * len(mask)) and allowed < len(mask) // 2:
                return [None] * len(queries)
            results = index.search(queries, self._vectors, k, self._metric, mask)
        elif len(mask) - allowed <= _OVERFETCH:
            wide = index.search(queries, self._vectors, k + len(mask) - allowed, self._metric, None)
            results = [(values[mask[rows]][:k], rows[mask[rows]][:k]) for values, rows in wide]
        else:
            return [None] * len(queries)
        return [pair if len(pair[1]) >= k else None for pair in results]


def _checked(generation: Generation) -> dict[str, Any]:
    """The manifest, when its fields have the right types and fit each other."""
    manifest = generation.manifest
    numbers = [manifest.get(name) for name in ("rows", "count", "next_key")]
    dimension = manifest.get("dimension")
    well_formed = (
        all(type(number) is int and 0 <= number < 1 << 62 for number in numbers)
        and (
            manifest["rows"] == 0 if dimension is None else type(dimension) is int and 0 < dimension < 1 << 24
        )
        and isinstance(manifest.get("factory"), str)
        and manifest.get("metric") in get_args(Metric)
    )
    if not well_formed:
        raise IndexCorruptError(
            f"The manifest of {generation.folder} is incomplete or contradicts itself; index again."
        )
    return manifest


def _array(
    generation: Generation, name: str, shape: tuple[int, ...] | None, dtype: np.dtype[Any], mmap: bool
) -> npt.NDArray[Any]:
    path = generation.folder / name
    empty = shape is not None and 0 in shape
    try:
        array = np.load(path, mmap_mode="r" if mmap and not empty else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise IndexCorruptError(f"{path} cannot be read ({error}); restore a copy or index again.") from None
    if array.dtype != dtype or (shape is not None and array.shape != shape) or array.ndim == 0:
        raise IndexCorruptError(f"{path} does not fit the manifest; restore a copy or index again.")
    return np.asarray(array) if not mmap or empty else array
