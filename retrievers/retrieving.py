"""How a query finds passages: hybrid search, a second search that learns from the first, a store's best way.

Where two searches give two ranked lists, these become one by reciprocal ranks, by weighted scores, or one
behind the other.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables.config import run_in_executor
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever
from pydantic import ConfigDict, PrivateAttr

from agentprm.errors import CapabilityError, ConfigurationError, MissingDependencyError, check_least
from agentprm.retrievers.adapters import vector_index
from agentprm.retrievers.feedback import FeedbackMethod, Merge
from agentprm.retrievers.filters import document_test
from agentprm.retrievers.lexical import LexicalIndex
from agentprm.retrievers.links import LINKED, LinkFeedback, keeps_mentions
from agentprm.retrievers.selectors import Selector
from agentprm.retrievers.store_base import VectorSearchStore, check_k
from agentprm.retrievers.vectors import FloatArray, RankedList, VectorIndex

__all__ = [
    "FeedbackRetriever",
    "HybridRetriever",
    "default_retriever",
    "merge_rankings",
    "reciprocal_ranks",
    "rrf",
    "weighted",
]

_logger = logging.getLogger(__name__)

_RRF_K = 60  # Cormack et al., SIGIR 2009


def rrf(
    rankings: Sequence[RankedList], weights: Sequence[float] | None = None
) -> list[tuple[Document, float]]:
    """Reciprocal rank fusion: the sum of weight / (60 + rank) over the lists.

    Args:
        rankings: The lists.
        weights: One for each list; 1 when `None`.
    """
    totals = [
        reciprocal_ranks(len(ranking), weight)
        for ranking, weight in zip(rankings, _weights(rankings, weights), strict=True)
    ]
    return _summed(rankings, totals)


def reciprocal_ranks(count: int, weight: float = 1.0) -> list[float]:
    """What each place of a list, best first, counts in reciprocal rank fusion."""
    return [weight / (_RRF_K + rank) for rank in range(1, count + 1)]


def weighted(
    rankings: Sequence[RankedList], weights: Sequence[float] | None = None
) -> list[tuple[Document, float]]:
    """Weighted sum of scores that are scaled to [0, 1] within each list; a missing document scores 0."""
    totals = []
    for ranking, weight in zip(rankings, _weights(rankings, weights), strict=True):
        scores = [score for _, score in ranking]
        low, high = min(scores, default=0.0), max(scores, default=0.0)
        totals.append([weight * ((s - low) / (high - low) if high > low else 1.0) for s in scores])
    return _summed(rankings, totals)


def _weights(rankings: Sequence[RankedList], weights: Sequence[float] | None) -> Sequence[float]:
    if weights is None:
        return [1.0] * len(rankings)
    if len(weights) != len(rankings) or min(weights, default=0.0) < 0:
        raise ConfigurationError(f"There must be {len(rankings)} weights of at least 0, not {weights}.")
    return weights


def _summed(
    rankings: Sequence[RankedList], points: Sequence[Sequence[float]]
) -> list[tuple[Document, float]]:
    documents: dict[str, Document] = {}
    totals: dict[str, float] = {}
    for ranking, values in zip(rankings, points, strict=True):
        for (document, _), value in zip(ranking, values, strict=True):
            documents.setdefault(str(document.id), document)
            totals[str(document.id)] = totals.get(str(document.id), 0.0) + value
    return [(documents[i], totals[i]) for i in sorted(totals, key=lambda i: -totals[i])]


def merge_rankings(
    first: RankedList, second: RankedList, merge: Merge, keep: int
) -> list[tuple[Document, float]]:
    """Puts a first and a second list together.

    Args:
        first: The list before feedback.
        second: The list after it.
        merge: `replace`, `keep` or `rrf`; see `Merge`.
        keep: With `keep`, how many of the first list stay where they are.

    Returns:
        All documents of both lists. Scores are those of the list that a document was taken from, or
        fused ranks.
    """
    if merge == "rrf":
        return rrf([first, second], [2.0, 1.0])
    head = list(first[:keep]) if merge == "keep" else []
    result = {str(d.id): (d, score) for d, score in head}
    for document, score in (*second, *first):
        result.setdefault(str(document.id), (document, score))
    return list(result.values())


class _ScoringRetriever(BaseRetriever):
    """What retrievers share that give their documents scores."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    k: int = 5

    @abstractmethod
    def search(self, query: str, k: int | None = None) -> list[tuple[Document, float]]:
        """The best `k` documents with scores."""

    def _most(self, k: int | None) -> int:
        return self.k if k is None else check_k(k)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return [document for document, _ in self.search(query, k)]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return [document for document, _ in await run_in_executor(None, self.search, query, k)]


class HybridRetriever(_ScoringRetriever):
    """Fuses the lists of a vector store and of BM25 over the same documents.

    Attributes:
        store: A `VectorIndex` such as `FaissStore`, or a store that `vector_index` can adapt.
        lexical: The BM25 index; `None` takes the one that the store keeps, as `FaissStore` does.
        fusion: `weighted` (scores scaled to [0, 1]) or `rrf` (reciprocal ranks).
        dense_weight: Weight of the vectors; the words get the rest.
        k: Documents to return; a call may ask for another number, `invoke(query, k=…)`.
        depth: Length of the two lists.
        filter: Which documents may come back; see the store.
    """

    store: Any
    lexical: Any = None
    fusion: Literal["rrf", "weighted"] = "weighted"
    dense_weight: float = 0.5
    depth: int = 100
    filter: Any = None

    def __init__(self, store: Any, lexical: LexicalIndex | None = None, **fields: Any) -> None:
        super().__init__(**{"store": store, "lexical": lexical, **fields})
        if not 0 <= self.dense_weight <= 1:
            raise ConfigurationError(f"dense_weight must lie in [0, 1], not {self.dense_weight}.")
        check_least(1, k=self.k, depth=self.depth)
        self.store = vector_index(self.store)
        if self.lexical is None and not hasattr(type(self.store), "lexical"):
            raise CapabilityError(
                f"A {type(self.store).__name__} keeps no words: pass LexicalIndex(documents) as lexical."
            )
        document_test(self.store, self.filter)

    def search(self, query: str, k: int | None = None) -> list[tuple[Document, float]]:
        """The best `k` documents with fused scores."""
        wanted = self._most(k)
        return self.ranked(query, self.store.embed_query(query), max(wanted, self.depth))[:wanted]

    def ranked(self, query: str, vector: FloatArray, depth: int) -> list[tuple[Document, float]]:
        """All documents of the two lists with fused scores.

        Args:
            query: The query.
            vector: Its vector (d).
            depth: Length of the two lists.
        """
        index: VectorIndex = self.store
        lexical: LexicalIndex = self.store.lexical if self.lexical is None else self.lexical
        dense = index.search_vectors(vector[None, :], depth, self.filter)[0]
        words = lexical.search(query, depth, self.filter)
        fuse = rrf if self.fusion == "rrf" else weighted
        return fuse([dense, words], [self.dense_weight, 1 - self.dense_weight])


class FeedbackRetriever(_ScoringRetriever):
    """A LangChain retriever with relevance feedback over any vector store.

    Whatever goes wrong in feedback (a judge that fails, a store that cannot give vectors back), the
    first list is returned and a warning is logged.

    Attributes:
        store: Where the first list comes from: a `VectorIndex` such as `FaissStore`, another LangChain
            vector store that `vector_index` can adapt, the retriever of one (`store.as_retriever(…)`,
            whose `k` and `filter` hold) or a `HybridRetriever`.
        method: What to do with the first hits. `None` takes link feedback where the store keeps titles, as
            `FaissStore` does, and the passages mention each other.
        selector: Which hits to learn from; the method's own choice when `None`.
        merge: How the second list meets the first; the method's own choice when `None`.
        keep: With `merge="keep"`, how many of the first hits stay where they are.
        k: Documents to return; a call may ask for another number, `invoke(query, k=…)`.
        depth: Length of the first list, and of the second; never less than `k`.
        filter: Which documents may come back, in the first list and in what feedback adds; see the store.

    Example:
        >>> from langchain_core.embeddings import DeterministicFakeEmbedding
        >>> from agentprm.retrievers import FaissStore
        >>> store = FaissStore.from_texts(["one", "two"], DeterministicFakeEmbedding(size=8))
        >>> len(FeedbackRetriever(store, k=1).invoke("one"))
        1
    """

    store: Any
    method: Any = None
    selector: Any = None
    merge: Merge | None = None
    keep: int = 10
    depth: int = 100
    filter: Any = None
    _hybrid: HybridRetriever | None = PrivateAttr(default=None)
    _test: Callable[[Document], bool] | None = PrivateAttr(default=None)

    def __init__(self, store: Any, method: Any = None, **fields: Any) -> None:
        super().__init__(**{"store": store, "method": method, **fields})
        check_least(1, k=self.k, depth=self.depth)
        check_least(0, keep=self.keep)
        kind = type(store).__name__
        self._open(fields)
        if self.method is None:
            if not keeps_mentions(self.store):
                raise ConfigurationError(
                    f"{kind} keeps no titles, which the default needs: name a method, such as "
                    "VectorFeedback(), or put the documents into a FaissStore."
                )
            self.method = LinkFeedback(least_linked=LINKED)
        if not callable(getattr(self.method, "expand", None)):
            raise ConfigurationError(
                f"method must be a feedback method such as VectorFeedback(), not {self.method!r}."
            )
        if self.selector is not None and not callable(getattr(self.selector, "select", None)):
            raise ConfigurationError(
                f"selector must be a selector such as TopSelector(), not {self.selector!r}."
            )
        if isinstance(self.method, LinkFeedback):
            self.method.check(self.store)
        if self.filter is not None:
            try:
                self._test = document_test(self.store, self.filter)
            except CapabilityError:
                # The store's own search keeps its filter; links go past that search.
                if isinstance(self.method, LinkFeedback):
                    raise
        if self._hybrid is not None:
            self._hybrid = self._hybrid.model_copy(update={"filter": self.filter})
            document_test(self.store, self.filter)

    def _open(self, fields: Mapping[str, Any]) -> None:
        """Takes a retriever apart: its index, its filter, and what it was told of numbers."""
        source = self.store
        if isinstance(source, VectorStoreRetriever):
            unknown = source.search_kwargs.keys() - {"k", "filter"}
            if source.search_type != "similarity" or unknown:
                raise CapabilityError(
                    "Feedback needs a retriever with search_type='similarity' and no search_kwargs but k and "
                    f"filter, not {source.search_type!r} and {sorted(source.search_kwargs)}."
                )
            self._adopt(fields, source.search_kwargs)
            source = source.vectorstore
        elif isinstance(source, HybridRetriever):
            self._adopt(fields, {"k": source.k, "depth": source.depth, "filter": source.filter})
            self._hybrid = source
            source = source.store
        elif isinstance(source, BaseRetriever):
            raise CapabilityError(
                f"Feedback needs vectors, which a {type(source).__name__} does not give: "
                "pass its vector store, or a HybridRetriever."
            )
        self.store = vector_index(source)

    def _adopt(self, fields: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        if own.get("filter") is not None:
            if self.filter is not None:
                raise ConfigurationError("The retriever has a filter already: give it once.")
            self.filter = own["filter"]
        for name in own.keys() & {"k", "depth"} - fields.keys():
            setattr(self, name, own[name])

    def search(self, query: str, k: int | None = None) -> list[tuple[Document, float]]:
        """The best `k` documents with scores, whose scale depends on the method."""
        index: VectorIndex = self.store
        method: FeedbackMethod = self.method
        selector: Selector | None = self.selector
        k = self._most(k)
        depth = max(self.depth, k)
        vector = index.embed_query(query)
        if self._hybrid is not None:
            first = self._hybrid.ranked(query, vector, depth)
        else:
            first = index.search_vectors(vector[None, :], depth, self.filter)[0]
        merge = self.merge or method.merge
        if not first or (merge == "keep" and k <= self.keep):  # what feedback adds would not be seen
            return first[:k]
        try:
            selection = selector.select(query, first) if selector is not None else None
            if selection is not None and not selection.positives and not selection.negatives:
                return first[:k]
            second = method.expand(
                query, vector, first, index, k=depth, selection=selection, filter=self.filter
            )
        except (ConfigurationError, MissingDependencyError) as error:
            if not isinstance(error, CapabilityError):
                raise  # it would fail on every query
            _logger.warning("Feedback is not possible (%s); the first list stands.", error)
            return first[:k]
        except Exception as error:  # whoever judges may fail in any way; the first list is still good
            _logger.warning("Feedback failed (%s: %s); the first list stands.", type(error).__name__, error)
            return first[:k]
        if self._test is not None:  # a method that forgets the filter must not get round it
            second = [(document, score) for document, score in second if self._test(document)]
        return merge_rankings(first, second, merge, self.keep)[:k]


def default_retriever(store: VectorStore, *, k: int = 5, filter: Any = None) -> BaseRetriever:
    """The best retriever for a store that needs no language model, sync and async.

    For a `FaissStore` or `ShardedFaissStore` these are links over weighted hybrid search. They choose by
    the collection itself: where passages do not mention each other's titles, hybrid search is what
    remains. Titles and words are collected at the first search, unless they were saved with the store.
    Any other store is searched by its own vectors.

    Args:
        store: The store.
        k: Documents to return. `invoke(query, k=…)` of the retriever may ask for another number.
        filter: Which documents may come back, through every stage; see the store.

    Raises:
        ConfigurationError: `k` is not positive.

    Example:
        >>> from agentprm.testing import fake_store
        >>> store = fake_store(["Brunel was born in Portsmouth.", "Paris lies on the Seine."])
        >>> default_retriever(store, k=1).invoke("Where was Brunel born?")[0].page_content
        'Brunel was born in Portsmouth.'
    """
    check_k(k)
    if isinstance(store, VectorSearchStore):
        return FeedbackRetriever(HybridRetriever(store, k=k, filter=filter))
    return store.as_retriever(search_kwargs={"k": k} if filter is None else {"k": k, "filter": filter})
