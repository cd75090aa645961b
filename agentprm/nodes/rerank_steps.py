"""The node that reorders the passages of proposed steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentprm.budget import SearchBudget
from agentprm.nodes._node import Plan
from agentprm.nodes._reranking import Hits, RerankerLike, compressor_of, reordered
from agentprm.nodes._search_node import SearchNode
from agentprm.nodes._tree import documents_of, search_text
from agentprm.state import ReasoningState, Step, open_steps

__all__ = ["RerankSteps"]


class RerankSteps(SearchNode):
    """Reorders the passages of each proposed step by their relevance to its query; see `Rerank`.

    Critics are told the question and the steps that lead to the one whose passages they rank.

    Args:
        reranker: As for `Rerank`.
        top_k: Passages of a step that are kept; `None` keeps all that the reranker returns.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the search.
    """

    def __init__(
        self,
        reranker: RerankerLike,
        *,
        top_k: int | None = None,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "rerank",
    ) -> None:
        self.reranker, self.top_k = compressor_of(reranker), top_k
        super().__init__(name=name, keys=keys, budget=budget, settings=("top_k",))

    def plan(self, state: ReasoningState) -> Plan:
        """See `Node.plan`."""
        waiting = [
            Hits(step, search_text(state, step), documents_of(state, step["doc_ids"]))
            for step in open_steps(state.get("prm_steps"), "proposed")
            if step["doc_ids"]
        ]
        hits = yield from reordered(
            self.reranker, state, waiting, self.setting("top_k"), self.setting("budget")
        )
        if not hits:
            return {}
        steps: list[Step] = [
            {**hit.step, "doc_ids": [str(d.id) for d in hit.documents]}
            for hit in hits
            if hit.step is not None
        ]
        return {"prm_steps": steps, "prm_documents": [d for hit in hits for d in hit.documents]}
