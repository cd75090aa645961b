"""One store over several: documents are spread by their ids, searches run side by side."""

from __future__ import annotations

import hashlib
import json
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
from agentprm.retrievers.document_table import Record
from agentprm.retrievers.faiss_store import FaissStore
from agentprm.retrievers.filters import Filter
from agentprm.retrievers.metrics import Metric
from agentprm.retrievers.store_base import Hit, VectorSearchStore
from agentprm.retrievers.vector_index import FloatArray

__all__ = ["ShardedFaissStore"]

T = TypeVar("T")
_DESCRIPTION = "shards.json"


class ShardedFaissStore(VectorSearchStore):
    """Several `FaissStore`s that act as one; a document's id decides where it lives.

    Every shard is trained on its own documents and saved on its own: a save that is interrupted
    leaves each shard in its old or its new state.

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
        self._shards = [FaissStore(embedding, **options) for _ in range(shards)]
        self._searchers = ThreadPoolExecutor(shards, thread_name_prefix="agentprm-shard")

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
        """The stores, in order."""
        return tuple(self._shards)

    def __len__(self) -> int:
        return sum(len(shard) for shard in self._shards)

    def __iter__(self) -> Iterator[Document]:
        """All documents, shard after shard."""
        return chain.from_iterable(self._shards)

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Removes documents by id, or all of them when `ids` is `None`; unknown ids are ignored."""
        for number, places in self._places(ids).items() if ids is not None else ():
            self._shards[number].delete([ids[place] for place in places] if ids else [])
        for shard in self._shards if ids is None else ():
            shard.delete(None)
        return True

    def compact(self) -> None:
        """Frees the space of deleted documents in every shard."""
        self._everywhere(lambda shard: shard.compact())

    def train(self, vectors: FloatArray) -> None:
        """Trains every shard on the same sample of vectors (n x d), before the first documents."""
        self._everywhere(lambda shard: shard.train(vectors))

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Documents of the ids that exist, in the order of `ids`."""
        found: dict[str, Document] = {}
        for number, places in self._places(ids).items():
            wanted = [ids[place] for place in places]
            found.update({str(d.id): d for d in self._shards[number].get_by_ids(wanted)})
        return [found[i] for i in dict.fromkeys(ids) if i in found]

    def vectors_for(self, ids: Sequence[str]) -> FloatArray:
        """Stored vectors of documents, one row each (n x d), of unit length for cosine.

        Raises:
            InputError: There is no document with one of the ids.
        """
        rows = np.empty((len(ids), self.dimension or 0), dtype=np.float32)
        for number, places in self._places(ids).items():
            rows[places] = self._shards[number].vectors_for([ids[place] for place in places])
        return rows

    def search_hits(self, vectors: FloatArray, k: int = 4, filter: Filter = None) -> list[list[Hit]]:
        """Best `k` documents of all shards for each query vector; see `FaissStore.search_hits`."""
        parts = self._everywhere(lambda shard: shard.search_hits(vectors, k, filter))
        return [nlargest(k, chain.from_iterable(rows), key=_score) for rows in zip(*parts, strict=True)]

    def save(self, path: str | os.PathLike[str], *, lock_timeout_s: float = 30.0) -> None:
        """Writes each shard to a folder of its own under `path`; see `FaissStore.save`."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        description = folder / _DESCRIPTION
        if description.exists() and _count(description) != len(self._shards):
            raise ConfigurationError(
                f"{folder} holds {_count(description)} shards and this store has {len(self._shards)}: "
                "save to another folder."
            )
        temporary = folder / f"{_DESCRIPTION}.{os.getpid()}"
        temporary.write_text(json.dumps({"shards": len(self._shards)}), encoding="utf-8")
        os.replace(temporary, description)
        for number, shard in enumerate(self._shards):
            shard.save(folder / f"shard-{number:03d}", lock_timeout_s=lock_timeout_s)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], embedding: Embeddings, *, async_workers: int = 4, **options: Any
    ) -> Self:
        """Opens a folder that `save` wrote; `options` are those of `FaissStore.load`.

        Raises:
            InputError: There is no such folder.
            IndexCorruptError: A shard or the description of the shards is missing or damaged.
            IndexMismatchError: It was built with other embeddings.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise InputError(f"There is no index folder {folder}: check the path, or build the index first.")
        store = cls(embedding, shards=_count(folder / _DESCRIPTION), async_workers=async_workers)
        store._shards = [
            FaissStore.load(folder / f"shard-{number:03d}", embedding, **options)
            for number in range(len(store._shards))
        ]
        if len({(shard.metric, shard.factory) for shard in store._shards}) != 1:
            raise IndexCorruptError(f"The shards of {folder} differ in metric or factory; index again.")
        return store

    def _upsert(self, records: list[Record], matrix: FloatArray) -> None:
        self._check_dimension(matrix)
        for number, places in self._places([r.id for r in records]).items():
            self._shards[number]._upsert([records[place] for place in places], matrix[places])

    def _places(self, ids: Sequence[str]) -> dict[int, list[int]]:
        """Places in `ids` by the number of the shard that they belong to."""
        places: dict[int, list[int]] = {}
        for place, name in enumerate(ids):
            digest = hashlib.sha256(name.encode()).digest()
            places.setdefault(int.from_bytes(digest[:8], "big") % len(self._shards), []).append(place)
        return places

    def _everywhere(self, work: Callable[[FaissStore], T]) -> list[T]:
        futures = [self._searchers.submit(work, shard) for shard in self._shards]
        return [future.result() for future in futures]


def _score(hit: Hit) -> float:
    return hit.score


def _count(description: Path) -> int:
    try:
        count = json.loads(description.read_bytes())["shards"]
    except (OSError, ValueError, KeyError, TypeError):
        count = None
    if not isinstance(count, int) or count < 1:
        raise IndexCorruptError(f"{description} is missing or damaged; check the path or index again.")
    return count
