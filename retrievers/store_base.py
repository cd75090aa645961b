"""What every store here shares: LangChain's methods, written on a few primitives."""

from __future__ import annotations

import asyncio
import contextvars
import uuid
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from agentprm.errors import ConfigurationError, IndexMismatchError, InputError
from agentprm.retrievers.document_table import StoredDocument, make_record
from agentprm.retrievers.filters import Filter, compile_filter
from agentprm.retrievers.vectors import FloatArray, Metric, prepare, relevance_fn

__all__ = ["Hit", "VectorSearchStore", "check_k", "listed_ids"]

T = TypeVar("T")

# The squares of a hundred million such numbers still add up in float32.
_LARGEST = 1e15


class Hit(NamedTuple):
    """A document that a search found.

    Attributes:
        document: A fresh copy, its id set.
        score: Higher is better: the cosine, the inner product or the negated Euclidean distance.
        distance: Lower is better: 1 - cosine, the negated inner product or the Euclidean distance.
    """

    document: Document
    score: float
    distance: float


class VectorSearchStore(VectorStore):
    """A vector store with LangChain's methods, sync and async, on top of the abstract ones.

    Args:
        embedding: Turns texts into vectors.
        async_workers: Threads that serve the async methods.
    """

    def __init__(self, embedding: Embeddings, async_workers: int) -> None:
        if async_workers < 1:
            raise ConfigurationError(f"async_workers must be at least 1, not {async_workers}.")
        self._embedding = embedding
        self._async_workers = async_workers
        self._pool: ThreadPoolExecutor | None = None

    # What a store provides

    @property
    @abstractmethod
    def metric(self) -> Metric:
        """The metric."""

    @property
    @abstractmethod
    def dimension(self) -> int | None:
        """Length of a vector; `None` before the first document."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of documents."""

    @abstractmethod
    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Removes documents by id, or all of them when `ids` is `None`; unknown ids are ignored."""

    @abstractmethod
    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Documents of the ids that exist, in the order of `ids`."""

    @abstractmethod
    def vectors_for(self, ids: Sequence[str]) -> FloatArray:
        """Stored vectors of documents, one row each (n x d), of unit length for cosine.

        Raises:
            InputError: There is no document with one of the ids.
        """

    @abstractmethod
    def search_hits(self, vectors: FloatArray, k: int = 4, filter: Filter = None) -> list[list[Hit]]:
        """Best `k` documents for each query vector, with score and raw distance.

        Args:
            vectors: Query vectors (q x d); made unit length here for cosine.
            k: Documents wanted; all that match come back when they are fewer.
            filter: Which documents may come back, decided before the search: a dictionary with
                operators, such as `{"year": {"$gte": 1990}}`, or a function of a document.

        Raises:
            ConfigurationError: `k` is not positive or the filter is malformed.
            IndexMismatchError: The vectors have another length than those of the index.
        """

    @abstractmethod
    def _upsert(self, records: list[StoredDocument], matrix: FloatArray) -> None:
        """Adds or replaces documents, given their prepared vectors, which nobody else has."""

    # Shared

    @property
    def embeddings(self) -> Embeddings:
        """The embeddings of the store."""
        return self._embedding

    def __bool__(self) -> bool:
        return True  # an empty store is still a store

    # Adding and deleting

    def add_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        """Adds documents, or replaces those with the same ids.

        Args:
            documents: What to add. Documents without an id get a random one.
            **kwargs: `ids`, a list that goes before the documents' own ids.

        Returns:
            The ids, in the order of the documents.

        Raises:
            InputError: Metadata cannot be stored, ids do not match, or there are too few documents to
                train the index; nothing has been added then.
        """
        texts = [d.page_content for d in documents]
        return self.add_texts(texts, [d.metadata for d in documents], ids=_ids(documents, kwargs.get("ids")))

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Adds texts, or replaces those with the same ids; see `add_documents`."""
        records = _records(_listed(texts, "texts"), metadatas, ids)
        if records:
            self._insert(records, self._embedding.embed_documents([r.text for r in records]))
        return [r.id for r in records]

    async def aadd_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        """Async twin of `add_documents`."""
        texts = [d.page_content for d in documents]
        return await self.aadd_texts(
            texts, [d.metadata for d in documents], ids=_ids(documents, kwargs.get("ids"))
        )

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Async twin of `add_texts`."""
        records = _records(_listed(texts, "texts"), metadatas, ids)
        if records:
            vectors = await self._embedding.aembed_documents([r.text for r in records])
            await self._in_thread(self._insert, records, vectors)
        return [r.id for r in records]

    def add_embeddings(
        self,
        texts: Sequence[str],
        vectors: FloatArray,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
    ) -> list[str]:
        """Adds texts whose vectors (n x d) are known, or replaces those with the same ids.

        Raises:
            IndexMismatchError: The vectors have another length than those of the index.
            InputError: As for `add_documents`, or a vector is not finite.
        """
        records = _records(_listed(texts, "texts"), metadatas, ids)
        if len(vectors) or records:
            self._insert(records, vectors)
        return [r.id for r in records]

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Async twin of `delete`."""
        return await self._in_thread(self.delete, ids)

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Async twin of `get_by_ids`."""
        return await self._in_thread(self.get_by_ids, ids)

    def embed_query(self, text: str) -> FloatArray:
        """Vector of a query (d), of unit length for cosine."""
        vector: FloatArray = self._query_matrix([self._embedding.embed_query(text)])[0]
        return vector

    # Searching

    def document_test(self, filter: Filter) -> Callable[[Document], bool]:
        """Whether a document passes a filter, for documents that were not found by a search here."""
        return compile_filter(filter)

    def search_vectors(
        self, vectors: FloatArray, k: int = 4, filter: Filter = None
    ) -> list[list[tuple[Document, float]]]:
        """Best `k` documents with scores for each query vector; see `search_hits`."""
        return [[(hit.document, hit.score) for hit in row] for row in self.search_hits(vectors, k, filter)]

    def search_batch(
        self, queries: Sequence[str], k: int = 4, filter: Filter = None
    ) -> list[list[tuple[Document, float]]]:
        """Best `k` documents with scores for each query, in one pass."""
        if not queries:
            return []
        return self.search_vectors(self._embed_queries(queries), k, filter)

    async def asearch_batch(
        self, queries: Sequence[str], k: int = 4, filter: Filter = None
    ) -> list[list[tuple[Document, float]]]:
        """Async twin of `search_batch`."""
        return await self._in_thread(self.search_batch, queries, k, filter)

    def similarity_search(
        self, query: str, k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> list[Document]:
        """Best `k` documents; see `search_hits` for the arguments."""
        return [d for d, _ in self.similarity_search_with_score(query, k, filter)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Best `k` documents with scores, higher is better."""
        return self.search_vectors(self._query_matrix([self._embedding.embed_query(query)]), k, filter)[0]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> list[Document]:
        """Best `k` documents for a vector."""
        return [d for d, _ in self.similarity_search_with_score_by_vector(embedding, k, filter)]

    def similarity_search_with_score_by_vector(
        self, embedding: list[float], k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Best `k` documents with scores for a vector."""
        return self.search_vectors(self._query_matrix([embedding]), k, filter)[0]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter = None,
        **kwargs: Any,
    ) -> list[Document]:
        """`k` documents that are near the query and unlike each other, out of the best `fetch_k`."""
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, filter)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter = None,
        **kwargs: Any,
    ) -> list[Document]:
        """As `max_marginal_relevance_search`, for a vector."""
        query = self._query_matrix([embedding])
        found = [document for document, _ in self.search_vectors(query, max(k, fetch_k), filter)[0]]
        vectors = list(self.vectors_for([str(d.id) for d in found]))
        chosen = maximal_marginal_relevance(query[0], vectors, lambda_mult=lambda_mult, k=k)
        return [found[i] for i in chosen]

    async def asimilarity_search(
        self, query: str, k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> list[Document]:
        """Async twin of `similarity_search`."""
        return [d for d, _ in await self.asimilarity_search_with_score(query, k, filter)]

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Async twin of `similarity_search_with_score`."""
        vector = await self._embedding.aembed_query(query)
        return await self._in_thread(self.similarity_search_with_score_by_vector, vector, k, filter)

    async def asimilarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> list[Document]:
        """Async twin of `similarity_search_by_vector`."""
        return await self._in_thread(self.similarity_search_by_vector, embedding, k, filter)

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Async twin of `max_marginal_relevance_search`."""
        vector = await self._embedding.aembed_query(query)
        return await self.amax_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, filter)

    async def amax_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Async twin of `max_marginal_relevance_search_by_vector`."""
        search = self.max_marginal_relevance_search_by_vector
        return await self._in_thread(search, embedding, k, fetch_k, lambda_mult, filter)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return relevance_fn(self.metric)

    # Construction

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Store of texts; further arguments go to the constructor."""
        store = cls(embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    async def afrom_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Async twin of `from_texts`."""
        store = cls(embedding, **kwargs)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store

    # Helpers

    def _insert(self, records: list[StoredDocument], vectors: Any) -> None:
        matrix = self._matrix(vectors)
        if len(matrix) != len(records):
            raise InputError(f"There are {len(matrix)} vectors for {len(records)} texts; give one for each.")
        self._upsert(records, matrix)

    def _embed_queries(self, queries: Sequence[str]) -> FloatArray:
        batched = getattr(self._embedding, "embed_queries", None)
        if batched is not None:
            return self._query_matrix(batched(list(queries)))
        return self._query_matrix([self._embedding.embed_query(query) for query in queries])

    def _query_matrix(self, vectors: Any) -> FloatArray:
        matrix = self._matrix(vectors)
        self._check_dimension(matrix)
        return matrix

    def _matrix(self, vectors: Any) -> FloatArray:
        """Vectors as a finite float32 matrix (n x d), prepared for the metric."""
        try:
            with np.errstate(over="ignore"):
                matrix = np.ascontiguousarray(np.asarray(vectors, dtype=np.float32))
        except (TypeError, ValueError) as error:
            raise InputError(f"Vectors must form a matrix of numbers (n x d): {error}.") from None
        if matrix.ndim != 2 or not matrix.shape[1]:
            raise InputError(f"Vectors must form a matrix (n x d), not an array of shape {matrix.shape}.")
        if not np.isfinite(matrix).all():
            raise InputError("A vector holds NaN or infinity; check the embeddings.")
        metric = self.metric
        if metric != "cosine" and np.abs(matrix).max(initial=0.0) > _LARGEST:
            raise InputError(
                f"A vector holds a number beyond {_LARGEST:g}, whose square overflows; scale it."
            )
        return prepare(matrix, metric)

    def _check_dimension(self, matrix: FloatArray) -> None:
        dimension = self.dimension
        if dimension is not None and matrix.shape[1] != dimension:
            raise IndexMismatchError(
                f"Vectors of {matrix.shape[1]} dimensions do not fit an index of {dimension}: "
                "use the embeddings that the index was built with."
            )

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Runs blocking work in the store's threads, within the caller's context."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._async_workers, thread_name_prefix="agentprm-store")
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._pool, context.run, function, *args)


def _ids(documents: Sequence[Document], ids: Sequence[str | None] | None) -> list[str]:
    own_ids = [None] * len(documents) if ids is None else _listed(ids, "ids")
    _check_same_length(own_ids, documents, "ids", "documents")
    return [
        (document.id or str(uuid.uuid4())) if own is None else own
        for own, document in zip(own_ids, documents, strict=True)
    ]


def _records(
    texts: list[str], metadatas: Sequence[dict[str, Any]] | None, ids: Sequence[str | None] | None
) -> list[StoredDocument]:
    rows = []
    own_ids = [None] * len(texts) if ids is None else _listed(ids, "ids")
    given: Sequence[dict[str, Any] | None] = metadatas if metadatas else [None] * len(texts)
    _check_same_length(texts, given, "texts", "metadatas")
    _check_same_length(texts, own_ids, "texts", "ids")
    for text, metadata, own in zip(texts, given, own_ids, strict=True):
        name = str(uuid.uuid4()) if own is None else str(own)
        if not name:
            raise InputError("An id is empty; leave it out (None) to get a random one.")
        rows.append(make_record(name, text, metadata))
    return rows


def check_k(k: int) -> int:
    """`k` itself when it is a count.

    Raises:
        ConfigurationError: It is not.
    """
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1:
        raise ConfigurationError(f"k must be an integer of at least 1, not {k!r}.")
    return int(k)


def listed_ids(ids: Sequence[str]) -> list[str]:
    """Ids as a list; a single string is refused, as it would be read letter by letter."""
    return _listed(ids, "ids")


def _listed(values: Iterable[T], name: str) -> list[T]:
    if isinstance(values, str | bytes):
        raise InputError(f"{name} must be a list; for a single one write [{values[:20]!r}].")
    return list(values)


def _check_same_length(left: Sequence[Any], right: Sequence[Any], left_name: str, right_name: str) -> None:
    if len(left) != len(right):
        raise InputError(
            f"There are {len(left)} {left_name} and {len(right)} {right_name}; give one for each."
        )
