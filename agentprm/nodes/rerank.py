"""Nodes that rerank: the documents, and what the steps of a search were given."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.documents.compressor import BaseDocumentCompressor
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableLambda

from agentprm.budget import READING, SearchBudget, Usage, add_usage
from agentprm.documents import plain_document
from agentprm.errors import ConfigurationError
from agentprm.events import DocumentsReranked
from agentprm.lm import LanguageModel
from agentprm.nodes.node import Node, NodeRoutine, SearchNode
from agentprm.nodes.reporting import emit, reported
from agentprm.nodes.retrieve import search_text
from agentprm.nodes.score_steps import reward_step
from agentprm.rerank.base import Reranker
from agentprm.rerank.comparator import Comparator
from agentprm.rerank.pairwise import PairwiseReranker
from agentprm.rerank.pointwise import CriticReranker, CrossEncoderReranker
from agentprm.rewards.base import ProcessRewardModel
from agentprm.routines import Routine
from agentprm.state import ReasoningState, Reranking, Step, ancestors, documents_of, open_steps

__all__ = [
    "Hits",
    "PairwiseRerank",
    "Rerank",
    "RerankSteps",
    "RerankerLike",
    "compressor_of",
    "pairwise_compressor",
    "reordered",
]

_log = logging.getLogger(__name__)

RerankerLike: TypeAlias = (
    BaseDocumentCompressor
    | BaseCrossEncoder
    | ProcessRewardModel
    | Callable[[Any, str, Sequence[Document]], Any]
)
"""A document compressor, or what `Rerank` makes one of."""


class Hits(NamedTuple):
    """A query and the passages found for it; `step` is `None` outside a tree."""

    step: Step | None
    query: str
    documents: list[Document]


def reordered(
    reranker: BaseDocumentCompressor,
    state: ReasoningState,
    hits: Sequence[Hits],
    top_k: int | None,
    budget: SearchBudget,
) -> Routine[list[Hits]]:
    """The hits that the budget let be reranked, in their new order, each reported by an event."""
    spent = state.get("prm_usage")
    done: list[Hits] = []
    for hit in hits:
        if budget.exhausted(spent, but=READING):
            break
        judge = _bounded(_for(reranker, state, hit), budget, spent)
        ranked, used = yield from reported(
            type(judge).__name__,
            hit.query,
            partial(judge.compress_documents, hit.documents, hit.query),
            partial(judge.acompress_documents, hit.documents, hit.query),
        )
        spent = add_usage(spent, used)
        recorded = [
            _with_record(document, rank, hit.documents, judge) for rank, document in enumerate(ranked)
        ]
        kept = [plain_document(document) for document in recorded][:top_k]
        event = _event(hit, kept, judge)
        emit(event)
        if 0 < event["calls"] <= event["failures"]:
            _log.warning(
                "%s gave no usable answer in any of its %d calls, so the passages keep their order. Ask it "
                "about one pair to see why; agentprm.rerank.suggest finds a comparator that suits a model.",
                event["method"],
                event["calls"],
            )
        done.append(hit._replace(documents=kept))
    return done


def _for(reranker: BaseDocumentCompressor, state: ReasoningState, hit: Hits) -> BaseDocumentCompressor:
    """The reranker, told the question and the steps before the one whose passages it ranks."""
    if not isinstance(reranker, CriticReranker):
        return reranker
    path = ancestors(state, hit.step) if hit.step else []
    return reranker.for_state(state["question"], [reward_step(state, step) for step in path])


def compressor_of(reranker: Any) -> BaseDocumentCompressor:
    """The compressor behind whatever a user passes."""
    if isinstance(reranker, BaseDocumentCompressor):
        return reranker
    if isinstance(reranker, BaseCrossEncoder):
        return CrossEncoderReranker(model=reranker)
    if isinstance(reranker, ProcessRewardModel | RunnableLambda) or (
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
        super().__init__(name=name, writes=("documents",), keys=keys, budget=budget, settings=("top_k",))

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
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

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
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
            {
                **hit.step,
                "doc_ids": [str(d.id) for d in hit.documents],
                "reranking": _reranking(hit.documents, hit.step["doc_ids"]),
            }
            for hit in hits
            if hit.step is not None
        ]
        return {"prm_steps": steps, "prm_documents": [d for hit in hits for d in hit.documents]}


def _reranking(documents: Sequence[Document], before: Sequence[str]) -> Reranking:
    records = [document.metadata["rerank"] for document in documents]
    scores = [None if record["score"] is None else float(record["score"]) for record in records]
    return Reranking(
        method=str(records[0]["method"]) if records else "",
        before=list(before),
        scores=[score if score is not None and math.isfinite(score) else None for score in scores],
    )


class PairwiseRerank(Rerank):
    """Reorders `documents` by pairwise judgements.

    A `Rerank` node for whatever can compare two passages: it makes the `PairwiseReranker`. What the
    budget leaves is spent on as many comparisons as it pays for.

    Args:
        reranker: A language model or chat model, a `Comparator`, a decision model, or a function, see
            `agentprm.rerank.as_comparator`; or a finished document compressor, which is used as it is.
        aggregation: How comparisons become an order, see `PairwiseReranker`.
        k: Ranks that matter, see `PairwiseReranker`.
        top_k: Passages that are kept; `None` keeps all.
        keys: Own names for `question`, `messages` and `documents`.
        budget: Bounds of the run.
    """

    def __init__(
        self,
        reranker: Comparator
        | LanguageModel
        | BaseChatModel
        | str
        | BaseDocumentCompressor
        | Callable[..., Any],
        *,
        aggregation: Any = "sliding",
        k: int = 10,
        top_k: int | None = None,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "rerank",
    ) -> None:
        compressor = pairwise_compressor(reranker, aggregation=aggregation, k=k)
        super().__init__(compressor, top_k=top_k, keys=keys, budget=budget, name=name)


def pairwise_compressor(reranker: Any, **settings: Any) -> BaseDocumentCompressor:
    """A `PairwiseReranker` of whatever can compare two passages; a document compressor as it is."""
    if isinstance(reranker, BaseDocumentCompressor):
        return reranker
    return PairwiseReranker(model=reranker, **settings)
