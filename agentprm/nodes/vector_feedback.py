"""The node that searches again with a query vector moved towards the first hits."""

from __future__ import annotations

from collections.abc import Mapping

from langchain_core.documents import Document

from agentprm._plans import Call
from agentprm.budget import SearchBudget, record
from agentprm.errors import CapabilityError, ConfigurationError
from agentprm.nodes._hits import Hits, current_hits, update_of
from agentprm.nodes._node import Node, Plan
from agentprm.retrievers import VectorIndex, rocchio
from agentprm.state import ReasoningState, plain_document

__all__ = ["VectorFeedback"]


class VectorFeedback(Node):
    """Rocchio over the first hits: `alpha * q + beta * mean(d_1 … d_depth)`, then a second search.

    Works on the passages that proposed steps have, or without a tree on `documents`. Blind feedback
    helps recall where a query has many relevant passages and hurts the top ranks where it has one or
    two, so it is off in the ready-made graphs unless asked for.

    Args:
        index: An index that gives its vectors back, for instance `FaissStore`.
        k: Passages of the second search; `None` keeps as many as there were.
        alpha: Weight of the query.
        beta: Weight of the mean of the hits; .5 and .5 with `depth` 3 is the mildest setting that
            still moves the query.
        depth: Hits that are taken for relevant.
        keys: Own names for `question`, `messages` and `documents`.
        budget: Bounds of the run.
    """

    def __init__(
        self,
        index: VectorIndex,
        *,
        k: int | None = None,
        alpha: float = 0.5,
        beta: float = 0.5,
        depth: int = 3,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | None = None,
        name: str = "feedback",
    ) -> None:
        if not isinstance(index, VectorIndex):
            raise CapabilityError(
                f"VectorFeedback needs an index that gives vectors back; {type(index).__name__} does not. "
                "Use agentprm.retrievers.FaissStore, or an adapter of agentprm.retrievers."
            )
        if depth < 1 or (k is not None and k < 1):
            raise ConfigurationError("depth and k must be at least 1.")
        self.index, self.k, self.alpha, self.beta, self.depth = index, k, alpha, beta, depth
        super().__init__(
            name=name,
            reads=("prm_steps",),
            writes=("documents", "prm_steps", "prm_documents"),
            keys=keys,
            budget=budget,
            settings=("k", "alpha", "beta", "depth"),
        )

    def plan(self, state: ReasoningState) -> Plan:
        """See `Node.plan`."""
        hits = current_hits(state)
        budget: SearchBudget = self.setting("budget")
        usage = state.get("prm_usage")
        hits = hits[: budget.affordable("retrievals", len(hits), usage)]
        # Feedback is an extra: without the means for it the first hits stay.
        if not hits or budget.exhausted(usage):
            return {}
        moved = yield Call.blocking(self._search_again, hits)
        return update_of(moved)

    def _search_again(self, hits: list[Hits]) -> list[Hits]:
        return [hit._replace(documents=self._feedback(hit.query, hit.documents)) for hit in hits]

    def _feedback(self, query: str, documents: list[Document]) -> list[Document]:
        ids = [str(d.id) for d in documents[: self.setting("depth")]]
        moved = rocchio(
            self.index.embed_query(query),
            self.index.vectors_for(ids),
            alpha=self.setting("alpha"),
            beta=self.setting("beta"),
        )
        record(retrievals=1)
        rows = self.index.search_vectors(moved[None, :], self.setting("k") or len(documents))
        return [plain_document(document) for document, _ in rows[0]]
