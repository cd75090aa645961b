"""How the retrieving nodes search: any retriever, any number of queries, documents in their usual form."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever

from agentprm.budget import record
from agentprm.errors import ConfigurationError, InputError
from agentprm.nodes.settings import checked_setting
from agentprm.plans import Plan, wait
from agentprm.retrievers import default_retriever
from agentprm.state import distinct_documents

__all__ = ["RetrieverLike", "Searcher"]

RetrieverLike: TypeAlias = BaseRetriever | VectorStore | Runnable[str, Any] | Callable[[str], Any]
"""A retriever, a vector store (searched by `default_retriever`), or what else maps a query to documents."""


class Searcher:
    """A retriever as nodes use it.

    Args:
        retriever: Anything of `RetrieverLike`.
        k: Most passages of one search; `None` keeps what the retriever returns (5 for a vector store).
        owner: Name of the node in error messages.

    Raises:
        ConfigurationError: If nothing can be searched with `retriever`, or `k` is below 1.
    """

    def __init__(self, retriever: RetrieverLike, k: int | None, owner: str) -> None:
        if k is not None:
            checked_setting("k", k)
        if isinstance(retriever, VectorStore):
            k = k or 5
            retriever = default_retriever(retriever, k=k)
        self.k = k
        # Of others it is not known whether they can be asked for a number of passages.
        self.counted = isinstance(retriever, VectorStoreRetriever) or _takes_k(retriever)
        self.retriever = _runnable(retriever, owner)

    def find(self, queries: Sequence[str], k: int | None) -> Plan[dict[str, list[Document]]]:
        """The passages for each query; equal queries are searched for once."""
        distinct = list(dict.fromkeys(queries))
        most: dict[str, Any] = {"k": k} if k and self.counted else {}
        rows = yield from wait(
            lambda: self.retriever.batch(distinct, **most), lambda: self.retriever.abatch(distinct, **most)
        )
        record(retrievals=len(distinct))
        return {query: _documents(row) for query, row in zip(distinct, rows, strict=True)}


def _takes_k(retriever: Any) -> bool:
    search = getattr(retriever, "_get_relevant_documents", None)
    return search is not None and "k" in inspect.signature(search).parameters


def _runnable(retriever: Any, owner: str) -> Runnable[str, Any]:
    if isinstance(retriever, Runnable):
        return retriever
    if callable(retriever) and not isinstance(retriever, type):
        return RunnableLambda(retriever)
    raise ConfigurationError(
        f"{owner} needs a LangChain retriever, a vector store, or a function from a query to documents, "
        f"not {type(retriever).__name__}."
    )


def _documents(found: Any) -> list[Document]:
    if not isinstance(found, list | tuple):
        raise InputError(
            f"The retriever returned a {type(found).__name__} for a query, not a list of documents. Let it "
            "return langchain_core Documents, texts, or mappings with 'page_content'."
        )
    return distinct_documents(found)
