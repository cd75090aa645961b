"""Pairwise ranking prompting: sliding windows with both orders of each pair."""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Sequence
from typing import Any, Self

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.documents.compressor import BaseDocumentCompressor
from pydantic import ConfigDict, PrivateAttr, model_validator

from agentprm.errors import ConfigurationError
from agentprm.lm import LanguageModel, Prompt, SamplingParams, as_language_model
from agentprm.prompts import PROMPTS, Prompts, one_line, passage_line

__all__ = ["PairwiseReranker"]

_LABEL = re.compile(r"^\W*(?:passage\s+)?([AB])\b(?!['\u2019]s)", re.IGNORECASE)

# P(A) of each order, or None where the judge gave no usable answer.
_Verdicts = list[float | None]


class PairwiseReranker(BaseDocumentCompressor):
    """Sliding-K pairwise ranking (Pairwise Ranking Prompting, arXiv 2306.17563, section 3).

    Each pass goes from the bottom of the list to the top and swaps neighbours where the lower one
    wins. Both orders of a pair are asked. With log-likelihoods the verdict is the position-debiased
    mean, P(first is better) = (P(A | ab) + 1 - P(A | ba)) / 2; from generated labels the first wins
    only if both orders agree. Anything else is a tie, which keeps the order, and unusable output is
    counted as a failure, never as "A".

    Args:
        model: A language model, or any LangChain chat model.
        passes: Passes, each of which settles one more rank from the top; 10 in the paper, 1 here.
        prompts: Templates; `compare` is used.

    Returns of `compress_documents` are new documents with
    `metadata["rerank"] = {score, rank, prior_rank, method, calls, failures}`, where `score` is the
    share of its comparisons that the passage won (a tie counts half), and `calls` and `failures`
    are those of the whole list.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: Any
    passes: int = 1
    prompts: Prompts = PROMPTS
    _judge: LanguageModel = PrivateAttr()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.passes < 1:
            raise ConfigurationError(f"passes must be at least 1, not {self.passes}.")
        self._judge = as_language_model(self.model)
        return self

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks = None
    ) -> list[Document]:
        """The documents in their new order."""
        ranking = self._rank(documents, query)
        try:
            prompts = next(ranking)
            while True:
                prompts = ranking.send(self._ask(prompts))
        except StopIteration as done:
            return list(done.value)

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks = None
    ) -> list[Document]:
        """Async twin of `compress_documents`."""
        ranking = self._rank(documents, query)
        try:
            prompts = next(ranking)
            while True:
                prompts = ranking.send(await self._aask(prompts))
        except StopIteration as done:
            return list(done.value)

    def _rank(
        self, documents: Sequence[Document], query: str
    ) -> Generator[list[Prompt], _Verdicts, list[Document]]:
        order = list(range(len(documents)))
        wins, asked = [0.0] * len(documents), [0] * len(documents)
        calls = failures = 0
        verdicts: dict[tuple[int, int], float] = {}
        for done in range(min(self.passes, len(order) - 1)):
            for place in range(len(order) - 1, done, -1):
                upper, lower = order[place - 1], order[place]
                pair = (min(upper, lower), max(upper, lower))
                if pair not in verdicts:
                    first, second = documents[pair[0]], documents[pair[1]]
                    answers = yield [self._prompt(query, first, second), self._prompt(query, second, first)]
                    calls += 2
                    failures += answers.count(None)
                    verdicts[pair] = self._verdict(answers)
                    wins[pair[0]] += verdicts[pair]
                    wins[pair[1]] += 1 - verdicts[pair]
                    asked[pair[0]] += 1
                    asked[pair[1]] += 1
                upper_wins = verdicts[pair] if pair[0] == upper else 1 - verdicts[pair]
                if upper_wins < 0.5:
                    order[place - 1], order[place] = lower, upper
        return [
            documents[i].model_copy(
                update={
                    "metadata": {
                        **documents[i].metadata,
                        "rerank": {
                            "score": wins[i] / asked[i] if asked[i] else 0.5,
                            "rank": rank,
                            "prior_rank": i,
                            "method": f"pairwise sliding-{self.passes}",
                            "calls": calls,
                            "failures": failures,
                        },
                    }
                }
            )
            for rank, i in enumerate(order)
        ]

    def _prompt(self, query: str, first: Document, second: Document) -> Prompt:
        return self.prompts.compare.render(
            query=one_line(query), first=passage_line(first), second=passage_line(second)
        )

    @staticmethod
    def _verdict(answers: _Verdicts) -> float:
        """P(first of the pair is better) from P(A) in both orders; .5 is a tie."""
        straight, swapped = answers
        if straight is None or swapped is None:
            return 0.5
        return (straight + 1 - swapped) / 2

    def _labels(self, rows: list[list[float]]) -> _Verdicts:
        return [1 / (1 + math.exp(min(700.0, b - a))) for a, b in rows]

    def _ask(self, prompts: list[Prompt]) -> _Verdicts:
        if self._judge.capabilities.loglikelihood:
            return self._labels(
                self._judge.loglikelihood(prompts, [["Passage A", "Passage B"]] * len(prompts))
            )
        return self._parsed(self._judge.sample(prompts, 1, _GREEDY))

    async def _aask(self, prompts: list[Prompt]) -> _Verdicts:
        if self._judge.capabilities.loglikelihood:
            continuations = [["Passage A", "Passage B"]] * len(prompts)
            return self._labels(await self._judge.aloglikelihood(prompts, continuations))
        return self._parsed(await self._judge.asample(prompts, 1, _GREEDY))

    @staticmethod
    def _parsed(rows: list[list[Any]]) -> _Verdicts:
        matches = [_LABEL.match(row[0].text.strip()) for row in rows]
        return [None if m is None else float(m.group(1).upper() == "A") for m in matches]


_GREEDY = SamplingParams(max_tokens=8, temperature=0.0, seed=0)
