"""The node that reorders passages by comparing them in pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.documents.compressor import BaseDocumentCompressor
from langchain_core.language_models import BaseChatModel

from agentprm.budget import SearchBudget
from agentprm.lm import LanguageModel
from agentprm.nodes.rerank import Rerank
from agentprm.rerank.comparator import Comparator
from agentprm.rerank.pairwise import PairwiseReranker

__all__ = ["PairwiseRerank", "pairwise_compressor"]


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
