"""The node that reorders passages by comparing them in pairs."""

from __future__ import annotations

from collections.abc import Mapping

from langchain_core.documents import Document
from langchain_core.documents.compressor import BaseDocumentCompressor
from langchain_core.language_models import BaseChatModel

from agentprm.budget import SearchBudget
from agentprm.errors import ConfigurationError
from agentprm.lm import LanguageModel
from agentprm.nodes._hits import Hits, current_hits, update_of
from agentprm.nodes._node import Call, Node, Plan
from agentprm.rerank import PairwiseReranker
from agentprm.state import ReasoningState, plain_document

__all__ = ["PairwiseRerank"]


class PairwiseRerank(Node):
    """Reorders the passages of proposed steps, or without a tree `documents`, by pairwise judgements.

    The reranked documents are new objects with a `rerank` record in their metadata.

    Args:
        reranker: A language model or chat model, for which a `PairwiseReranker` is made, or any
            LangChain document compressor.
        top_k: Passages that are kept; `None` keeps all.
        keys: Own names for `question`, `messages` and `documents`.
        budget: Bounds of the run.
    """

    def __init__(
        self,
        reranker: LanguageModel | BaseChatModel | str | BaseDocumentCompressor,
        *,
        top_k: int | None = None,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | None = None,
        name: str = "rerank",
    ) -> None:
        if top_k is not None and top_k < 1:
            raise ConfigurationError(f"top_k must be at least 1, not {top_k}.")
        if not isinstance(reranker, BaseDocumentCompressor):
            reranker = PairwiseReranker(model=reranker)
        self.reranker, self.top_k = reranker, top_k
        super().__init__(
            name=name,
            reads=("prm_steps",),
            writes=("documents", "prm_steps", "prm_documents"),
            keys=keys,
            budget=budget,
            settings=("top_k",),
        )

    def plan(self, state: ReasoningState) -> Plan:
        """See `Node.plan`."""
        budget: SearchBudget = self.setting("budget")
        reordered: list[Hits] = []
        usage = state.get("prm_usage")
        for hit in current_hits(state):
            # Both orders of each neighbouring pair; an extra, so it gives way to the budget.
            calls = 2 * (len(hit.documents) - 1)
            spent = budget.exhausted(usage)
            if spent or budget.affordable("model_calls", calls, usage, reserve=1) < calls:
                break
            documents: list[Document] = list(
                (
                    yield Call(
                        lambda hit=hit: self.reranker.compress_documents(hit.documents, hit.query),  # type: ignore[misc]
                        lambda hit=hit: self.reranker.acompress_documents(hit.documents, hit.query),  # type: ignore[misc]
                    )
                )
            )
            kept = [plain_document(document) for document in documents][: self.setting("top_k")]
            reordered.append(hit._replace(documents=kept))
        return update_of(reordered) if reordered else {}
