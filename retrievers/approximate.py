"""Approximate indexes: any FAISS factory string, over row numbers of the stored vectors."""

from __future__ import annotations

import re
from typing import Any

import faiss as faiss_module
import numpy as np
import numpy.typing as npt

from agentprm.errors import ConfigurationError, IndexCorruptError, InputError
from agentprm.retrievers.vectors import FloatArray, GrowingArray, Metric, faiss_metric, pair_scores

__all__ = ["ApproximateIndex", "canonical_factory", "first_line", "is_flat"]

faiss: Any = faiss_module  # its type stubs are older than its Python classes

# Defaults chosen on 384-dimensional text embeddings for a recall@10 of about .95 or better.
_EF_SEARCH = 64
_NPROBE_SHARE = 16
_NPROBE_LEAST = 16
# A search that may return less than this share of the rows looks this many times harder.
_NEARLY_ALL = 0.9
_FILTER_EFFORT = 8
# Candidates that a compressed index hands on to the exact scores: per wanted document, and at least.
_RESCORE = 4
_RESCORE_LEAST = 100
_BLOCK = 65_536


def canonical_factory(factory: str) -> str:
    """The factory string without an id map: the store numbers its rows itself."""
    return re.sub(r"^IDMap2?,|,IDMap2?$", "", factory.strip())


def is_flat(factory: str) -> bool:
    """Whether a factory means exact search, for which the stored vectors are the index."""
    return canonical_factory(factory) == "Flat"


class ApproximateIndex:
    """A FAISS index whose ids are row numbers 0, 1, 2, … of the store's vector table.

    Args:
        factory: FAISS factory string without an id map.
        dimension: Length of a vector.
        metric: The store's metric.
        ef_search: Breadth of an HNSW search, `None` for 64.
        nprobe: Lists that an IVF search visits, `None` for a sixteenth of them and at least 16.

    Raises:
        ConfigurationError: FAISS does not know the factory string, or not for this dimension.
    """

    def __init__(
        self, factory: str, dimension: int, metric: Metric, *, ef_search: int | None, nprobe: int | None
    ) -> None:
        self._factory = factory
        try:
            index = faiss.index_factory(dimension, factory, faiss_metric(metric))
        except Exception as error:
            raise ConfigurationError(
                f"FAISS cannot build factory {factory!r} for {dimension} dimensions: {first_line(error)} "
                "Use a string of the FAISS index factory, such as 'Flat', 'IVF256,Flat' or 'HNSW32'."
            ) from None
        self._use(index, ef_search, nprobe)

    def _use(self, index: Any, ef_search: int | None, nprobe: int | None) -> None:
        self._index = index
        core = _core(index)
        self._ivf = core if isinstance(core, faiss.IndexIVF) else None
        self._hnsw = core if isinstance(core, faiss.IndexHNSW) else None
        self._ef_search = ef_search or _EF_SEARCH
        if hasattr(core, "pq"):
            core.pq.cp.min_points_per_centroid = 1
        if self._ivf is not None:
            self._ivf.cp.min_points_per_centroid = 1
            nlist = int(self._ivf.nlist)
            self._nprobe = min(nlist, nprobe or max(_NPROBE_LEAST, nlist // _NPROBE_SHARE))
        self._lossy = not isinstance(core, faiss.IndexIVFFlat | faiss.IndexHNSWFlat) or core is not index
        kinds = faiss.IndexIVF | faiss.IndexHNSW | faiss.IndexScalarQuantizer | faiss.IndexFlat
        self.filters = isinstance(core, kinds)
        # Graphs that FAISS builds in one go take no second batch: the store builds them anew.
        self.grows = not isinstance(core, faiss.IndexNSG | faiss.IndexNNDescent)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def is_trained(self) -> bool:
        """Whether vectors can be added."""
        return bool(self._index.is_trained)

    @property
    def training_points(self) -> int:
        """Fewest vectors that training needs."""
        return _training_points(self._index)

    def train(self, vectors: FloatArray) -> None:
        """Trains the index on a sample of the vectors (n x d).

        Raises:
            InputError: There are too few of them.
        """
        needed = self.training_points
        if len(vectors) < needed:
            raise InputError(
                f"The factory {self._factory!r} needs at least {needed} documents to train on and got "
                f"{len(vectors)}: add that many in the first call, or use factory='Flat' or 'HNSW32'."
            )
        try:
            self._index.train(vectors)
        except Exception as error:
            raise InputError(
                f"Training {self._factory!r} on {len(vectors)} documents failed: {first_line(error)} "
                "Add more documents in the first call, or use factory='Flat' or 'HNSW32'."
            ) from None

    def add(self, vectors: FloatArray) -> None:
        """Appends vectors (n x d)."""
        self._index.add(vectors)

    def refill(self, table: GrowingArray) -> None:
        """Holds the vectors of a table and no others; the training stays."""
        self._index.reset()
        blocks = (block for _, block in table.blocks(_BLOCK))
        for block in blocks if self.grows or not len(table) else [np.concatenate(list(blocks))]:
            self._index.add(np.ascontiguousarray(block))

    def copy(self) -> ApproximateIndex:
        """An index of its own with the same contents."""
        twin = object.__new__(ApproximateIndex)
        twin._factory = self._factory
        nprobe = self._nprobe if self._ivf is not None else None
        twin._use(faiss.clone_index(self._index), self._ef_search, nprobe)
        return twin

    def search(
        self,
        queries: FloatArray,
        table: GrowingArray,
        k: int,
        metric: int,
        mask: npt.NDArray[np.bool_] | None,
    ) -> list[tuple[FloatArray, npt.NDArray[np.int64]]]:
        """Values and rows, best first, for each query; fewer than `k` where the index found fewer.

        Args:
            queries: Query vectors (q x d).
            table: The stored vectors, for the exact values of what a compressed index proposes.
            k: Rows wanted.
            metric: FAISS's metric.
            mask: Which rows may come back; only for an index whose `filters` is true.
        """
        wanted = min(max(k * _RESCORE, _RESCORE_LEAST) if self._lossy else k, len(self))
        selector = None
        if mask is not None:
            bits = np.packbits(mask, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
        few = mask is not None and mask.mean() < _NEARLY_ALL
        parameters = self._parameters(selector, wanted, _FILTER_EFFORT if few else 1)
        _, rows = self._index.search(queries, wanted, params=parameters)
        results = []
        for query, found in zip(queries, rows, strict=True):
            kept = np.unique(found[found >= 0])
            values = pair_scores(query, table.take(kept), metric)
            order = np.lexsort((kept, -values))[:k]
            results.append((values[order], kept[order]))
        return results

    def _parameters(self, selector: Any, wanted: int, effort: int) -> Any:
        if self._ivf is not None:
            inner = faiss.SearchParametersIVF(
                sel=selector, nprobe=min(int(self._ivf.nlist), self._nprobe * effort)
            )
        elif self._hnsw is not None:
            inner = faiss.SearchParametersHNSW(sel=selector, efSearch=max(self._ef_search * effort, wanted))
        elif selector is not None:
            inner = faiss.SearchParameters(sel=selector)
        else:
            return None
        if isinstance(self._index, faiss.IndexPreTransform):
            return faiss.SearchParametersPreTransform(index_params=inner)
        return inner

    @property
    def faiss_index(self) -> Any:
        """The FAISS index itself; not to be changed."""
        return self._index

    def to_bytes(self) -> npt.NDArray[np.uint8]:
        """The index as FAISS writes it."""
        return np.asarray(faiss.serialize_index(self._index))

    def from_bytes(self, data: npt.NDArray[np.uint8]) -> None:
        """Takes over an index that `to_bytes` made; the caller has checked where the bytes come from.

        Raises:
            IndexCorruptError: The bytes are no index, or another one than the factory says.
        """
        faiss.set_deserialization_vector_byte_limit(max(2 * len(data), 1 << 20))
        try:
            index = faiss.deserialize_index(data)
        except Exception as error:
            raise IndexCorruptError(
                f"FAISS cannot read its index: {first_line(error)} Index again."
            ) from None
        old = self._index
        if (type(index), index.d, index.metric_type) != (type(old), old.d, old.metric_type):
            raise IndexCorruptError(f"The stored index is not a {self._factory!r}; index again.")
        nprobe = self._nprobe if self._ivf is not None else None
        self._use(index, self._ef_search, nprobe)


def _core(index: Any) -> Any:
    """The index inside a preprocessing chain."""
    inner = faiss.downcast_index(index)
    while isinstance(inner, faiss.IndexPreTransform):
        inner = faiss.downcast_index(inner.index)
    return inner


def _training_points(index: Any) -> int:
    if index.is_trained:
        return 0
    needed = 1
    if isinstance(index, faiss.IndexPreTransform):
        for place in range(index.chain.size()):
            needed = max(needed, int(faiss.downcast_VectorTransform(index.chain.at(place)).d_out))
    core = _core(index)
    if isinstance(core, faiss.IndexIVF):
        needed = max(needed, int(core.nlist))
    quantizer = getattr(core, "pq", None)
    if quantizer is not None:
        needed = max(needed, 1 << int(quantizer.nbits))
    return needed


def first_line(error: Exception) -> str:
    """The reason in an error of FAISS, which surrounds it with its own file names."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    match = re.search(r"Error: (?:'.*' failed: ?)?(.*)$|: (.*)$", text)
    reason = next((part for part in match.groups() if part), text) if match else text
    return reason.rstrip(".") + "."
