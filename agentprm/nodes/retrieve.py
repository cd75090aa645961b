"""Nodes that retrieve: with the question, and for the steps of a search."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever

from agentprm.budget import SearchBudget, record
from agentprm.documents import distinct_documents, merge_documents
from agentprm.errors import ConfigurationError, InputError
from agentprm.nodes.node import Node, NodeRoutine, SearchNode
from agentprm.nodes.reporting import emit_retrieved
from agentprm.nodes.settings import checked_setting
from agentprm.retrievers import default_retriever
from agentprm.rewards.function import takes
from agentprm.routines import Routine, wait
from agentprm.state import ReasoningState, Step, ancestors, open_steps
from agentprm.text import same_text

__all__ = ["Retrieve", "RetrieveSteps", "RetrieverLike", "Searcher", "search_text"]

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

    def find(self, queries: Sequence[str], k: int | None) -> Routine[dict[str, list[Document]]]:
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
        if not takes(retriever, "query"):
            raise ConfigurationError(
                f"{owner} calls the retriever {retriever!r:.200} with one argument, the query, which it does "
                "not take."
            )
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


class Retrieve(Node):
    """Searches for the question (or the last human message), each time it runs; writes `documents`.

    Args:
        retriever: Any LangChain retriever or vector store, or a function or other `Runnable` from a query
            to documents (or texts, or mappings that hold one).
        k: Most passages; `None` keeps what the retriever returns (5 for a vector store).
        keys: Own names for `question`, `messages` and `documents`.
        budget: Bounds of a run; where they leave no search, `documents` is empty.

    Example:
        >>> from agentprm.testing import fake_store
        >>> node = Retrieve(fake_store(["Brunel was born in Portsmouth.", "Paris lies on the Seine."]), k=1)
        >>> [d.page_content for d in node.invoke({"question": "Where was Brunel born?"})["documents"]]
        ['Brunel was born in Portsmouth.']
    """

    def __init__(
        self,
        retriever: RetrieverLike,
        *,
        k: int | None = None,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "retrieve",
    ) -> None:
        self.searcher = Searcher(retriever, k, type(self).__name__)
        self.k = self.searcher.k
        super().__init__(name=name, writes=("documents",), keys=keys, budget=budget, settings=("k",))

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        if short := self.short(state, but=(), retrievals=1):
            # Those of an earlier question must not pass for this one's.
            return {"documents": [], "prm_stop_reason": short}
        query, k = state["question"], self.setting("k")
        hits = yield from self.searcher.find([query], k)
        documents = hits[query][:k]
        emit_retrieved(None, query, documents)
        return {"documents": documents}


class RetrieveSteps(SearchNode):
    """Searches for each proposed step that wants passages and has none.

    A sub-question is searched for as it stands; a conclusion together with what was found before it,
    and it is not given passages again that its path has read.

    Args:
        retriever: As for `Retrieve`.
        k: Most passages of a step; `None` keeps what the retriever returns (5 for a vector store).
        keys: Own names for `question` and `messages`.
        budget: Bounds of the search.
    """

    def __init__(
        self,
        retriever: RetrieverLike,
        *,
        k: int | None = None,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "retrieve",
    ) -> None:
        self.searcher = Searcher(retriever, k, type(self).__name__)
        self.k = self.searcher.k
        super().__init__(name=name, keys=keys, budget=budget, settings=("k",))

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        steps = _awaiting_documents(state)
        if not steps:
            return {}
        if short := self.short(state, but=(), retrievals=1):
            return {"prm_stop_reason": short}
        # Candidates often ask the same thing: that is one search.
        queries = {step["id"]: search_text(state, step) for step in steps}
        distinct = list(dict.fromkeys(queries.values()))
        budget: SearchBudget = self.setting("budget")
        allowed = distinct[: budget.affordable("retrievals", len(distinct), state.get("prm_usage"))]
        steps = [step for step in steps if queries[step["id"]] in allowed]
        read = {step["id"]: _read_before(state, step) for step in steps}
        k = self.setting("k")
        hits = yield from self.searcher.find(allowed, k + max(map(len, read.values())) if k else None)
        known = list(state.get("prm_documents", []))
        found: dict[str, list[Document]] = {}
        for query in allowed:
            found[query] = distinct_documents(hits[query], known)
            known += found[query]
        changed: list[Step] = []
        kept: list[Document] = []
        for step in steps:
            query = queries[step["id"]]
            documents = [d for d in found[query] if d.id not in read[step["id"]]][:k]
            kept += documents
            changed.append({**step, "doc_ids": [str(d.id) for d in documents]})
            emit_retrieved(step["id"], query, documents)
        cut = {"prm_stop_reason": "budget: retrievals"} if len(allowed) < len(distinct) else {}
        return {"prm_steps": changed, "prm_documents": merge_documents([], kept), **cut}


def _awaiting_documents(state: ReasoningState) -> list[Step]:
    """Proposed steps that want passages and have none."""
    return [s for s in open_steps(state.get("prm_steps"), "proposed") if s["retrieve"] and not s["doc_ids"]]


def search_text(state: ReasoningState, step: Step) -> str:
    """What to search for: the step's query; a conclusion also brings along what was found.

    A sub-question names what it is about. The whole question does not name what the steps before
    found, which is just what the last passage speaks of.
    """
    if not same_text(step["query"], state["question"]):
        return step["query"]
    found = [s["thought"] for s in ancestors(state, step) if s["thought"]]
    return " ".join([step["query"], *found])


def _read_before(state: ReasoningState, step: Step) -> set[str]:
    """Passages that a conclusion need not be given again, since what they say is known by now."""
    if not same_text(step["query"], state["question"]):
        return set()
    return {i for ancestor in ancestors(state, step) for i in ancestor["doc_ids"]}
