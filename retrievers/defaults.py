"""The retriever that the tables recommend for a store."""

from __future__ import annotations

from typing import Any

from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore

from agentprm.retrievers.feedback_retriever import FeedbackRetriever
from agentprm.retrievers.fusion import HybridRetriever
from agentprm.retrievers.store_base import VectorSearchStore, check_k

__all__ = ["default_retriever"]


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
