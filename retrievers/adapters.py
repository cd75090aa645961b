"""Gives any LangChain vector store the `VectorIndex` protocol that feedback needs.

Stored vectors come from the store where it has a way to give them back. Otherwise the texts are
embedded again, which costs time and is announced once for each store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from agentprm.errors import CapabilityError, InputError
from agentprm.retrievers.filters import compile_filter, plain_test
from agentprm.retrievers.vectors import FloatArray, VectorIndex, unit

__all__ = ["Access", "AdaptedIndex", "vector_index"]

_logger = logging.getLogger(__name__)


class Access(NamedTuple):
    """What to ask a store for behind LangChain's interface; `None` where the interface does.

    Attributes:
        fetch: Stored vectors of ids; ids that are missing are left out. `None` embeds texts again.
        find: Documents by vector, as `similarity_search_by_vector`.
        get: Documents by ids, as `get_by_ids`.
    """

    fetch: Callable[[list[str]], Mapping[str, Sequence[float]]] | None = None
    find: Callable[..., list[Document]] | None = None
    get: Callable[[list[str]], list[Document]] | None = None


def vector_index(store: Any, embedding: Embeddings | None = None) -> VectorIndex:
    """The store itself when it is a `VectorIndex`, else an adapter to it.

    Stored vectors are read from LangChain's in-memory store, Chroma, Qdrant, Milvus, LanceDB and
    PGVector; of other stores the texts are embedded again.

    Args:
        store: A LangChain vector store.
        embedding: Embeddings of the store, when it does not give its own.

    Raises:
        CapabilityError: The store cannot search by vector, or its embeddings are unknown.
    """
    if isinstance(store, VectorIndex):
        return store
    if not isinstance(store, VectorStore):
        raise CapabilityError(
            f"A {type(store).__name__} is no LangChain vector store; pass one, or a FaissStore."
        )
    embeddings = embedding or store.embeddings
    if embeddings is None:
        raise CapabilityError(f"A {type(store).__name__} does not give its embeddings: pass embedding=… .")
    if type(store).similarity_search_by_vector is VectorStore.similarity_search_by_vector:
        raise CapabilityError(
            f"A {type(store).__name__} cannot search by vector, which feedback needs; use FaissStore."
        )
    return AdaptedIndex(store, embeddings, _access(store))


class AdaptedIndex:
    """A vector store with the `VectorIndex` protocol.

    Scores are cosines of the query and the stored vectors; the order is the store's.

    Args:
        store: The store.
        embedding: Its embeddings.
        access: How to ask the store for what LangChain's interface does not offer.
    """

    def __init__(self, store: VectorStore, embedding: Embeddings, access: Access | None = None) -> None:
        self.store = store
        self._embedding = embedding
        self._access = access or Access()
        self._announced = False

    def search_vectors(
        self, vectors: FloatArray, k: int, filter: Any = None
    ) -> list[list[tuple[Document, float]]]:
        """Best `k` documents with cosines for each query vector (n x d); `filter` is the store's own."""
        options = {} if filter is None else {"filter": filter}
        rows = []
        for vector in vectors:
            find = self._access.find or self.store.similarity_search_by_vector
            documents = [_with_id(document) for document in find(vector.tolist(), k=k, **options)]
            stored = unit(self._vectors(documents))
            scores = (stored @ unit(vector[None, :])[0]).tolist() if documents else []
            rows.append(list(zip(documents, scores, strict=True)))
        return rows

    def vectors_for(self, ids: Sequence[str]) -> FloatArray:
        """Stored vectors of documents (n x d).

        Raises:
            InputError: There is no document with one of the ids.
        """
        return self._vectors(self._documents(ids))

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Documents of the ids that exist."""
        get = self._access.get or self.store.get_by_ids
        return [_with_id(document) for document in get(list(ids))]

    def embed_query(self, text: str) -> FloatArray:
        """Vector of a query (d)."""
        return np.asarray(self._embedding.embed_query(text), dtype=np.float32)

    def document_test(self, filter: Any) -> Callable[[Document], bool]:
        """See `agentprm.retrievers.filters.document_test`."""
        if isinstance(self.store, InMemoryVectorStore) and callable(filter):
            return compile_filter(filter)
        return plain_test(filter, type(self.store).__name__)

    def _documents(self, ids: Sequence[str]) -> list[Document]:
        if self._access.fetch is not None:
            return [Document(id=i, page_content="") for i in ids]
        found = {str(document.id): document for document in self.get_by_ids(ids)}
        missing = [i for i in ids if i not in found]
        if missing:
            raise InputError(f"There is no document with id {missing[0]!r} in the store; check the ids.")
        return [found[i] for i in ids]

    def _vectors(self, documents: Sequence[Document]) -> FloatArray:
        ids = [str(document.id) for document in documents]
        if not ids:
            return np.empty((0, 0), dtype=np.float32)
        if self._access.fetch is None:
            if not self._announced:
                self._announced = True
                _logger.warning(
                    "A %s does not give its vectors back; feedback embeds the passages again.",
                    type(self.store).__name__,
                )
            rows = self._embedding.embed_documents([document.page_content for document in documents])
            return np.asarray(rows, dtype=np.float32)
        found = self._access.fetch(ids)
        missing = [i for i in ids if i not in found]
        if missing:
            raise InputError(f"There is no document with id {missing[0]!r} in the store; check the ids.")
        return np.asarray([found[i] for i in ids], dtype=np.float32)


def _access(store: Any) -> Access:
    """How to read a known store."""
    if isinstance(store, InMemoryVectorStore):
        return Access(lambda ids: {i: store.store[i]["vector"] for i in ids if i in store.store})
    kinds = {(cls.__module__.split(".")[0], cls.__name__) for cls in type(store).__mro__}
    return next((make(store) for kind, make in _KNOWN.items() if kind in kinds), Access())


def _chroma(store: Any) -> Access:
    def fetch(ids: list[str]) -> dict[str, Sequence[float]]:
        found = store.get(ids=ids, include=["embeddings"])
        return dict(zip(found["ids"], found["embeddings"], strict=True))

    return Access(fetch)


def _qdrant(store: Any) -> Access:
    def fetch(ids: list[str]) -> dict[str, Sequence[float]]:
        points = store.client.retrieve(store.collection_name, ids, with_vectors=True, with_payload=False)
        name = getattr(store, "vector_name", "") or ""
        return {str(p.id): p.vector[name] if isinstance(p.vector, dict) else p.vector for p in points}

    return Access(fetch)


def _milvus(store: Any) -> Access:
    def fetch(ids: list[str]) -> dict[str, Sequence[float]]:
        key, field = store._primary_field, store._vector_field
        rows = store.client.get(store.collection_name, ids=ids, output_fields=[key, field])
        return {str(row[key]): row[field] for row in rows}

    return Access(fetch)


def _lance(store: Any) -> Access:
    """LangChain's LanceDB store gives neither ids nor vectors; its table does."""
    key, vector, text = store._id_key, store._vector_key, store._text_key

    def document(row: Mapping[str, Any]) -> Document:
        return Document(id=str(row[key]), page_content=row[text], metadata=dict(row.get("metadata") or {}))

    def rows(ids: list[str]) -> list[dict[str, Any]]:
        quoted = ", ".join("'" + i.replace("'", "''") + "'" for i in ids)
        query = store.get_table().search().where(f"{key} IN ({quoted})").limit(len(ids))
        return list(query.to_list()) if ids else []

    def find(wanted: list[float], k: int, filter: str | None = None) -> list[Document]:
        query = store.get_table().search(wanted, vector_column_name=vector)
        query = query.distance_type(store.distance or "l2").limit(k)
        return [document(row) for row in (query.where(filter) if filter else query).to_list()]

    return Access(
        lambda ids: {str(row[key]): row[vector] for row in rows(ids)},
        find,
        lambda ids: [document(row) for row in rows(ids)],
    )


def _pgvector(store: Any) -> Access:
    def fetch(ids: list[str]) -> dict[str, Sequence[float]]:
        with store._make_sync_session() as session:
            rows = session.query(store.EmbeddingStore).filter(store.EmbeddingStore.id.in_(ids)).all()
            return {str(row.id): row.embedding for row in rows}

    return Access(fetch)


_KNOWN: dict[tuple[str, str], Callable[[Any], Access]] = {
    ("langchain_chroma", "Chroma"): _chroma,
    ("langchain_qdrant", "QdrantVectorStore"): _qdrant,
    ("langchain_milvus", "Milvus"): _milvus,
    ("langchain_community", "LanceDB"): _lance,
    ("langchain_postgres", "PGVector"): _pgvector,
}


def _with_id(document: Document) -> Document:
    """The document with its id, which some stores put into the metadata only."""
    if document.id is None:
        own = next((document.metadata[key] for key in ("_id", "pk", "id") if key in document.metadata), None)
        if own is None:
            raise CapabilityError("The store returns documents without ids, which feedback needs.")
        return document.model_copy(update={"id": str(own)})
    return document
