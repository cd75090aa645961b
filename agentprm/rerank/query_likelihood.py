"""Query likelihood: the passage that makes the query most likely comes first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from langchain_core.documents import Document
from pydantic import PrivateAttr, model_validator

from agentprm.lm import LanguageModel, Prompt, as_language_model, require
from agentprm.prompts import PROMPTS, Prompts
from agentprm.rerank.asking import passage_text, scoring
from agentprm.rerank.judging import Assessor
from agentprm.rerank.pointwise import PointwiseReranker
from agentprm.text import one_line

__all__ = ["QueryLikelihoodReranker"]


class QueryLikelihoodReranker(PointwiseReranker):
    """Ranks passages by log P(query | passage) per token (UPR, arXiv 2204.07496, section 2.2).

    One prompt per passage, nothing is generated. It needs a model that reads, not one that judges: a
    135 M model that always says "A" when it is asked to compare ranks well this way.

    Args:
        model: A language model with log-likelihoods, or the name or folder of one.
        prompts: Templates; `relate` is used.
        max_chars: Where a passage is cut.

    Raises:
        CapabilityError: If the model gives no log-likelihoods.
    """

    model: Any
    prompts: Prompts = PROMPTS
    max_chars: int = 1200
    _reader: LanguageModel = PrivateAttr()

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._reader = as_language_model(self.model)
        require(self._reader, "loglikelihood", "QueryLikelihoodReranker")
        return self

    @property
    def method(self) -> str:
        """See `Reranker.method`."""
        return "query likelihood"

    def judge(self, query: str) -> Assessor:
        """See `PointwiseReranker.judge`."""
        question = one_line(query)
        prefill = self._reader.capabilities.prefill
        length = max(1, self._reader.count_tokens([question])[0])

        def ask(document: Document) -> tuple[list[Prompt], list[list[str]]]:
            prompt = self.prompts.relate.render(
                prefill=prefill, passages=passage_text(document, self.max_chars)
            )
            # After a prefix that ends in a word the query begins with a blank.
            return [prompt], [[(" " if prompt.prefix else "") + question]]

        def read(_: Document, rows: Sequence[Sequence[float]]) -> float:
            return rows[0][0] / length

        return scoring(self._reader, ask, read)
