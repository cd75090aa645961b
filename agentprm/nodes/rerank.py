"""The node that reorders passages with any reranker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.documents.compressor import BaseDocumentCompressor
from langchain_core.runnables import Runnable

from agentprm.budget import SearchBudget, Usage, add_usage, metered
from agentprm.errors import ConfigurationError
from agentprm.events import DocumentsReranked
from agentprm.lm import LanguageModel
from agentprm.nodes._hits import Hits, current_hits, update_of
from agentprm.nodes._node import Node, Plan, emit
from agentprm.nodes._tree import ancestors, reward_step
from agentprm.plans import Plan as Waiting
from agentprm.plans import wait
from agentprm.rerank.base import Reranker
from agentprm.rerank.critic import CriticReranker
from agentprm.rerank.cross_encoder import CrossEncoderReranker
from agentprm.rewards.base import ProcessRewardModel
from agentprm.state import ReasoningState, plain_document

__all__ = ["Rerank"]


class Rerank(Node):
    """Reorders the passages of proposed steps, or without a tree `documents`.

    Takes any LangChain document compressor. The documents are new objects with a `rerank` record in
    their metadata; those of a foreign compressor get one with their places. Reranking is an extra, so
    it gives way to the budget: where it is spent the passages keep their order, and the rerankers of
    `agentprm.rerank` are held to what is left of its calls and its time.

    Each list is reported by an event `agentprm.documents_reranked`.

    Args:
        reranker: A document compressor (the rerankers of `agentprm.rerank`, LangChain's own, …), a
            LangChain `BaseCrossEncoder`, a `ProcessRewardModel`, or a critic, a function of state,
            query and documents to scores; see `CriticReranker`. Critics are told the question and the
            steps that lead to the one whose passages they rank.
        top_k: Passages that are kept; `None` keeps all that the reranker returns.
        keys: Own names for `question`, `messages` and `documents`.
        budget: Bounds of the run.
    """

    def __init__(
        self,
        reranker: BaseDocumentCompressor
        | BaseCrossEncoder
        | ProcessRewardModel
        | Callable[[Any, str, Sequence[Document]], Any],
        *,
        top_k: int | None = None,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | None = None,
        name: str = "rerank",
    ) -> None:
        if top_k is not None and top_k < 1:
            raise ConfigurationError(f"top_k must be at least 1, not {top_k}.")
        self.reranker, self.top_k = _compressor(reranker), top_k
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
        spent = state.get("prm_usage")
        reordered: list[Hits] = []
        for hit in current_hits(state):
            if budget.exhausted(spent):
                break
            reranker = _bounded(self._for(state, hit), budget, spent)
            ranked, used = yield from _metered(reranker, hit)
            spent = add_usage(spent, used)
            recorded = [
                _with_record(document, rank, hit.documents, reranker) for rank, document in enumerate(ranked)
            ]
            kept = [plain_document(document) for document in recorded][: self.setting("top_k")]
            emit(_event(hit, kept, reranker))
            reordered.append(hit._replace(documents=kept))
        return update_of(reordered) if reordered else {}

    def _for(self, state: ReasoningState, hit: Hits) -> BaseDocumentCompressor:
        if not isinstance(self.reranker, CriticReranker):
            return self.reranker
        path = ancestors(state, hit.step) if hit.step else []
        return self.reranker.for_state(state["question"], [reward_step(state, step) for step in path])


def _compressor(reranker: Any) -> BaseDocumentCompressor:
    """The compressor behind whatever a user passes."""
    if isinstance(reranker, BaseDocumentCompressor):
        return reranker
    if isinstance(reranker, BaseCrossEncoder):
        return CrossEncoderReranker(model=reranker)
    if isinstance(reranker, ProcessRewardModel) or (
        callable(reranker) and not isinstance(reranker, LanguageModel | Runnable | type)
    ):
        return CriticReranker(critic=reranker)
    raise ConfigurationError(
        f"Rerank needs a LangChain document compressor, a cross-encoder, a ProcessRewardModel or a function "
        f"of state, query and documents, not a {type(reranker).__name__}. For a language model choose a "
        "method: agentprm.rerank.QueryLikelihoodReranker(model=...) or PairwiseReranker(model=...)."
    )


def _bounded(
    reranker: BaseDocumentCompressor, budget: SearchBudget, spent: Usage | None
) -> BaseDocumentCompressor:
    """The reranker held to what is left of the budget, as far as it can be held to anything."""
    if not isinstance(reranker, Reranker):
        return reranker
    update: dict[str, Any] = {}
    # One call stays for the answer. A critic's judgements are reward calls.
    name, reserve = ("reward_calls", 0) if isinstance(reranker, CriticReranker) else ("model_calls", 1)
    if getattr(budget, name) is not None:
        left = budget.affordable(name, int(getattr(budget, name)), spent, reserve) // _calls_each(reranker)
        update["max_judgements"] = (
            left if reranker.max_judgements is None else min(left, reranker.max_judgements)
        )
    if budget.deadline_s is not None:
        seconds = max(0.0, budget.deadline_s - add_usage(spent, None)["seconds"])
        update["deadline"] = seconds if reranker.deadline is None else min(seconds, reranker.deadline)
    return reranker.model_copy(update=update)


def _calls_each(reranker: Reranker) -> int:
    """Most model calls of one judgement; two for pairs, in both orders, unless the reranker says."""
    return max(1, int(getattr(reranker, "calls_per_judgement", 2)))


def _metered(reranker: BaseDocumentCompressor, hit: Hits) -> Waiting[tuple[Sequence[Document], Usage]]:
    """Ranks the passages of `hit`: their new list and what it cost."""

    def sync() -> tuple[Sequence[Document], Usage]:
        with metered() as meter:
            ranked = reranker.compress_documents(hit.documents, hit.query)
        return ranked, meter.usage

    async def on_loop() -> tuple[Sequence[Document], Usage]:
        with metered() as meter:
            ranked = await reranker.acompress_documents(hit.documents, hit.query)
        return ranked, meter.usage

    return (yield from wait(sync, on_loop))


def _with_record(
    document: Document, rank: int, before: Sequence[Document], reranker: BaseDocumentCompressor
) -> Document:
    """The document with its `rerank` record, which foreign compressors do not write."""
    if isinstance(reranker, Reranker):
        return document
    same = [
        place
        for place, old in enumerate(before)
        if (old.id, old.page_content) == (document.id, document.page_content)
    ]
    record = {
        "score": document.metadata.get("relevance_score"),
        "rank": rank,
        "prior_rank": same[0] if same else None,
        "method": type(reranker).__name__,
        "calls": 0,
        "failures": 0,
    }
    return document.model_copy(update={"metadata": {**document.metadata, "rerank": record}})


def _event(hit: Hits, documents: Sequence[Document], reranker: BaseDocumentCompressor) -> DocumentsReranked:
    record = documents[0].metadata["rerank"] if documents else {}
    return DocumentsReranked(
        type="agentprm.documents_reranked",
        step_id=hit.step["id"] if hit.step else None,
        query=hit.query,
        doc_ids=[str(document.id) for document in documents],
        method=str(record.get("method", type(reranker).__name__)),
        calls=int(record.get("calls", 0)),
        failures=int(record.get("failures", 0)),
        stopped=record.get("stopped"),
    )
