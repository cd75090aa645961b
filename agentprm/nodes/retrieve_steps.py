"""The node that searches for the passages of proposed steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.documents import Document

from agentprm.budget import SearchBudget
from agentprm.nodes._node import Plan, emit
from agentprm.nodes._search_node import SearchNode
from agentprm.nodes._searching import RetrieverLike, Searcher
from agentprm.nodes._tree import ancestors, awaiting_documents, same_text, search_text
from agentprm.state import ReasoningState, Step, distinct_documents, merge_documents

__all__ = ["RetrieveSteps"]


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

    def plan(self, state: ReasoningState) -> Plan:
        """See `Node.plan`."""
        steps = awaiting_documents(state)
        if not steps:
            return {}
        budget: SearchBudget = self.setting("budget")
        usage = state.get("prm_usage")
        # Candidates often ask the same thing: that is one search.
        queries = {step["id"]: search_text(state, step) for step in steps}
        distinct = list(dict.fromkeys(queries.values()))
        allowed = distinct[: budget.affordable("retrievals", len(distinct), usage)]
        if budget.exhausted(usage) or not allowed:
            return {"prm_stop_reason": f"budget: {budget.exhausted(usage) or 'retrievals'}"}
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
            emit(
                {
                    "type": "agentprm.documents_retrieved",
                    "step_id": step["id"],
                    "query": query,
                    "doc_ids": changed[-1]["doc_ids"],
                }
            )
        cut = {"prm_stop_reason": "budget: retrievals"} if len(allowed) < len(distinct) else {}
        return {"prm_steps": changed, "prm_documents": merge_documents([], kept), **cut}


def _read_before(state: ReasoningState, step: Step) -> set[str]:
    """Passages that a conclusion need not be given again, since what they say is known by now."""
    if not same_text(step["query"], state["question"]):
        return set()
    return {i for ancestor in ancestors(state, step) for i in ancestor["doc_ids"]}
