"""Relevance from the probability of a label: does the model say yes?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from langchain_core.documents import Document
from pydantic import PrivateAttr, model_validator

from agentprm.errors import ConfigurationError
from agentprm.lm import LanguageModel, Prompt, as_language_model, require
from agentprm.prompts import PROMPTS, Prompts
from agentprm.rerank.asking import DEFINITION, passage_text, scoring
from agentprm.rerank.judging import Assessor
from agentprm.rerank.pointwise import PointwiseReranker
from agentprm.rewards.base import sigmoid
from agentprm.text import one_line

__all__ = ["LogitReranker"]


class LogitReranker(PointwiseReranker):
    """Ranks passages by how much likelier the model finds "Yes" than "No".

    The yes/no reading of a language model (arXiv 2306.17563, appendix; monoT5) and, with
    `labels=("1", "0")` and a model trained for it, the fine-grained score of ProRank (arXiv
    2506.03487). Models from about 1.5 B parameters on answer usefully untrained; for smaller ones
    `QueryLikelihoodReranker` is the better choice.

    Args:
        model: A language model with log-likelihoods, or the name or folder of one.
        labels: What the model is asked to answer for a relevant and for an irrelevant passage.
        scale: `probability` gives P(yes) / (P(yes) + P(no)), `logit` its logit, which still tells
            passages apart that a model trained to answer is certain of. The order is the same up to
            rounding.
        definition: What makes a passage relevant in this task, a sentence for the prompt.
        prompts: Templates; `relevant` is used.
        max_chars: Where a passage is cut.

    Raises:
        CapabilityError: If the model gives no log-likelihoods.
    """

    model: Any
    labels: tuple[str, str] = ("Yes", "No")
    scale: Literal["probability", "logit"] = "probability"
    definition: str = DEFINITION
    prompts: Prompts = PROMPTS
    max_chars: int = 1200
    _reader: LanguageModel = PrivateAttr()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not all(self.labels) or self.labels[0] == self.labels[1]:
            raise ConfigurationError(f"labels must be two different texts, not {self.labels}.")
        self._reader = as_language_model(self.model)
        require(self._reader, "loglikelihood", "LogitReranker")
        return self

    @property
    def method(self) -> str:
        """See `Reranker.method`."""
        return f"logit {self.labels[0]}/{self.labels[1]}"

    def judge(self, query: str) -> Assessor:
        """See `PointwiseReranker.judge`."""

        def ask(document: Document) -> tuple[list[Prompt], list[list[str]]]:
            prompt = self.prompts.relevant.render(
                prefill=self._reader.capabilities.prefill,
                definition=one_line(self.definition),
                query=one_line(query),
                passage=passage_text(document, self.max_chars),
                yes=self.labels[0],
                no=self.labels[1],
            )
            return [prompt], [[(" " if prompt.prefix else "") + label for label in self.labels]]

        def read(_: Document, rows: Sequence[Sequence[float]]) -> float:
            gap = rows[0][0] - rows[0][1]
            return gap if self.scale == "logit" else sigmoid(gap)

        return scoring(self._reader, ask, read)
