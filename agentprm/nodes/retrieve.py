"""The node that searches for passages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentprm.budget import SearchBudget
from agentprm.nodes._node import Node, Plan, emit
from agentprm.nodes._searching import RetrieverLike, Searcher
from agentprm.state import ReasoningState

__all__ = ["Retrieve"]


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
        super().__init__(
            name=name, reads=(), writes=("documents",), keys=keys, budget=budget, settings=("k",)
        )

    def plan(self, state: ReasoningState) -> Plan:
        """See `Node.plan`."""
        usage = state.get("prm_usage")
        budget: SearchBudget = self.setting("budget")
        spent = budget.exhausted(usage)
        if spent or not budget.affordable("retrievals", 1, usage):
            # Those of an earlier question must not pass for this one's.
            return {"documents": [], "prm_stop_reason": f"budget: {spent or 'retrievals'}"}
        query, k = state["question"], self.setting("k")
        hits = yield from self.searcher.find([query], k)
        documents = hits[query][:k]
        emit(
            {
                "type": "agentprm.documents_retrieved",
                "step_id": None,
                "query": query,
                "doc_ids": [str(d.id) for d in documents],
            }
        )
        return {"documents": documents}
