"""The node that reorders passages with any reranker."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from agentprm.budget import SearchBudget
from agentprm.nodes._node import Node, Plan
from agentprm.nodes._reranking import Hits, RerankerLike, compressor_of, reordered
from agentprm.state import ReasoningState

__all__ = ["Rerank"]

_log = logging.getLogger(__name__)


class Rerank(Node):
    """Reorders `documents` by their relevance to the question.

    Takes any LangChain document compressor. The documents are new objects with a `rerank` record in
    their metadata; those of a foreign compressor get one with their places. Reranking is an extra, so
    it gives way to the budget: where it is spent the passages keep their order, and the rerankers of
    `agentprm.rerank` are held to what is left of its calls and its time.

    Each list is reported by an event `agentprm.documents_reranked`; a judge that fails on every call
    is also reported by a warning of the logger `agentprm`.

    Args:
        reranker: A document compressor (the rerankers of `agentprm.rerank`, LangChain's own, …), a
            LangChain `BaseCrossEncoder`, a `ProcessRewardModel`, or a critic, a function of state,
            query and documents to scores; see `CriticReranker`.
        top_k: Passages that are kept; `None` keeps all that the reranker returns.
        keys: Own names for `question`, `messages` and `documents`.
        budget: Bounds of a run.
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
        super().__init__(
            name=name, reads=(), writes=("documents",), keys=keys, budget=budget, settings=("top_k",)
        )

    def plan(self, state: ReasoningState) -> Plan:
        """See `Node.plan`."""
        documents = state.get("documents", [])
        if not documents:
            if "documents" not in state:
                _log.warning("%s has no documents to reorder under %r.", self.name, self._keys["documents"])
            return {}
        hits = yield from reordered(
            self.reranker,
            state,
            [Hits(None, state["question"], documents)],
            self.setting("top_k"),
            self.setting("budget"),
        )
        return {"documents": hits[0].documents} if hits else {}
