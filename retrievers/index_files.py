"""The files of an index in a generation: written, opened and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np

from agentprm.errors import ConfigurationError, IndexCorruptError
from agentprm.retrievers.document_table import DocumentTable
from agentprm.retrievers.files import read_array
from agentprm.retrievers.generations import Generation
from agentprm.retrievers.index_core import IndexCore, IndexSettings
from agentprm.retrievers.vectors import GrowingArray, Metric

__all__ = ["contents", "inconsistencies", "open_index", "write_index"]

_BLOCK = 65_536
_KEYS, _VECTORS, _DELETED, _DOCUMENTS = "ids.npy", "vectors.npy", "deleted.npy", "documents.sqlite"
_INDEX = "index.faiss"


def write_index(core: IndexCore, folder: Path) -> None:
    """Writes the files of a generation into an empty folder.

    Raises:
        IndexCorruptError: The parts of the index do not have the same number of documents.
    """
    rows, documents = len(core.keys), len(core.documents)
    indexed = rows if core.index is None else len(core.index)
    if not rows == len(core.vectors) == indexed == documents + len(core.dead):
        raise IndexCorruptError(
            f"The index in memory contradicts itself ({rows} keys, {len(core.vectors)} vectors, "
            f"{indexed} of them indexed, {documents} documents, {len(core.dead)} deleted): nothing was "
            "saved; load it again."
        )
    for name, table in ((_KEYS, core.keys), (_VECTORS, core.vectors)):
        with (folder / name).open("wb") as file:
            shape = (len(table), *table.row_shape)
            header = {"descr": table.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for _, block in table.blocks(_BLOCK):
                file.write(np.ascontiguousarray(block).data)
    np.save(folder / _DELETED, np.asarray(sorted(core.dead), dtype=np.int64), allow_pickle=False)
    core.documents.write(folder / _DOCUMENTS)
    if core.index is not None and core.index.is_trained:
        (folder / _INDEX).write_bytes(core.index.to_bytes().data)


def contents(core: IndexCore) -> dict[str, Any]:
    """What the manifest says of these files."""
    return {
        "factory": core.settings.factory,
        "metric": core.settings.metric,
        "dimension": core.dimension,
        "count": len(core),
        "rows": len(core.keys),
        "next_key": core.next_key,
    }


def open_index(
    generation: Generation, *, mmap: bool, ef_search: int | None = None, nprobe: int | None = None
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
    generation.require(_KEYS, _VECTORS, _DELETED, _DOCUMENTS)
    core = IndexCore(IndexSettings(manifest["factory"], manifest["metric"], ef_search, nprobe))
    rows, dimension = manifest["rows"], manifest.get("dimension")
    core.next_key, core.dimension = manifest["next_key"], dimension
    core.keys = GrowingArray(read_array(generation.folder / _KEYS, (rows,), np.dtype(np.int64), mmap))
    shape = (rows, dimension or 0)
    core.vectors = GrowingArray(read_array(generation.folder / _VECTORS, shape, np.dtype(np.float32), mmap))
    deleted = read_array(generation.folder / _DELETED, None, np.dtype(np.int64), mmap=False)
    core.dead = set(deleted.tolist())
    core.documents = DocumentTable(generation.folder / _DOCUMENTS)
    fits = all(0 <= row < rows for row in core.dead)
    if not fits or len(core) != manifest.get("count") or len(core.documents) != len(core):
        raise IndexCorruptError(f"The files of {generation.folder} contradict each other; index again.")
    if dimension is not None and not core.is_trained and (rows or _INDEX in manifest["files"]):
        try:
            core.index = core.new_index(dimension)
        except ConfigurationError as error:
            raise IndexCorruptError(f"The manifest of {generation.folder} is wrong: {error}") from None
        core.index.from_bytes(np.frombuffer(generation.read(_INDEX), dtype=np.uint8))
        if len(core.index) != rows:
            raise IndexCorruptError(f"The index of {generation.folder} lacks rows; index again.")
    return core


def inconsistencies(core: IndexCore) -> list[str]:
    """What is wrong between the tables; reads all of them.

    Raises:
        IndexCorruptError: A document cannot be read.
    """
    problems = []
    keys = core.keys.take(np.arange(len(core.keys)))
    if len(keys) and ((np.diff(keys) <= 0).any() or keys[0] < 0 or keys[-1] >= core.next_key):
        problems.append("The keys are not ascending below the next key.")
    stored = []
    for key, record in core.documents.records():
        record.document()
        stored.append(key)
    if stored != core.live_keys():
        problems.append("The documents are not those that the vectors belong to.")
    for start, block in core.vectors.blocks(_BLOCK):
        lengths = np.linalg.norm(block, axis=1)
        if not np.isfinite(lengths).all():
            problems.append(f"A vector after row {start} is not finite.")
        elif (
            core.settings.metric == "cosine"
            and not (np.isclose(lengths, 1, atol=1e-3) | (lengths == 0)).all()
        ):
            problems.append(f"A vector after row {start} is not of unit length.")
    return problems


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
