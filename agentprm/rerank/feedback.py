"""Judges as those who pick passages for relevance feedback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from statistics import fmean, pstdev
from typing import Any, Literal

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document

from agentprm.errors import ConfigurationError, InputError, check_least
from agentprm.lm import LanguageModel
from agentprm.rerank.base import Ranking, Reranker
from agentprm.rerank.pairwise import PairwiseReranker
from agentprm.rerank.pointwise import CriticReranker
from agentprm.retrievers import Selection
from agentprm.rewards import ProcessRewardModel
from agentprm.rewards.function import takes

__all__ = ["JudgeSelector", "RerankSelector"]


Scorer = Callable[[str, list[Document]], Sequence[float]] | BaseDocumentCompressor | ProcessRewardModel
"""A function from a query and documents to one number each (higher is more relevant); a LangChain
compressor, which keeps and orders the documents; or a reward model."""


class JudgeSelector:
    """Asks a judge about the first hits: those above a threshold are relevant, the others are not.

    Args:
        judge: A function that scores documents; a LangChain document compressor such as a reranker; or a
            reward model, which scores the step that would read a passage (choose one that does without a
            finding, for instance `Relevance`).
        threshold: Score from which a document is relevant; by default a reward's own gate, else .5. `None`,
            for judges without a fixed scale such as query likelihood, means one standard deviation
            above the mean of the hits shown. A compressor's scores are read from
            `metadata["rerank"]["score"]` or `metadata["relevance_score"]`; without them, what it returns
            is relevant, and `threshold` is not used.
        depth: How many hits the judge sees.
        most: Most positives.
    """

    def __init__(
        self,
        judge: Scorer,
        *,
        threshold: float | Literal["auto"] | None = "auto",
        depth: int = 10,
        most: int = 3,
    ) -> None:
        check_least(1, depth=depth, most=most)
        if threshold == "auto":
            threshold = judge.gate if isinstance(judge, ProcessRewardModel) else 0.5
        if isinstance(judge, ProcessRewardModel):
            judge = CriticReranker(critic=judge)
        if isinstance(judge, LanguageModel | type) or not (
            isinstance(judge, BaseDocumentCompressor) or (callable(judge) and takes(judge, "", []))
        ):
            raise ConfigurationError(
                f"{judge!r:.200} cannot judge hits: pass a function of the query and a list of documents "
                "that gives a number for each, a document compressor (any reranker) or a reward model."
            )
        self._judge: Any = judge
        self._threshold: float | None = threshold
        self._depth = depth
        self._most = most

    def select(self, query: str, hits: Sequence[tuple[Document, float]]) -> Selection:
        """Decides about the hits."""
        documents = [document.model_copy(deep=True) for document, _ in hits[: self._depth]]
        if isinstance(self._judge, BaseDocumentCompressor):
            scores = self._compressed(query, documents)
        else:
            scores = [float(score) for score in self._judge(query, documents)]
            if len(scores) != len(documents):
                raise InputError(
                    f"The judge gave {len(scores)} scores for {len(documents)} documents; give one for each."
                )
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        least = self._threshold if self._threshold is not None else _outstanding(scores)
        good = [i for i in order if scores[i] >= least]
        return Selection(good[: self._most], [i for i in order if scores[i] < least])

    def _compressed(self, query: str, documents: list[Document]) -> list[float]:
        callbacks: Callbacks = None
        kept = self._judge.compress_documents(documents, query, callbacks)
        places = {str(document.id): i for i, document in enumerate(documents)}
        scores = [float("-inf")] * len(documents)
        for rank, document in enumerate(kept):
            place = places.get(str(document.id))
            if place is None:
                continue
            rerank = document.metadata.get("rerank")
            score = (
                rerank.get("score") if isinstance(rerank, dict) else document.metadata.get("relevance_score")
            )
            # Without scores, the order counts and everything that was kept is relevant.
            scores[place] = float(score) if score is not None else (self._threshold or 0.0) + 1 / (1 + rank)
        return scores


class RerankSelector:
    """Lets a reranker's verdicts choose what relevance feedback moves towards and away from.

    Pass it as `selector` to a `FeedbackRetriever`. The passages that rank highest are relevant if their
    score says so, those with a low score are not; what was never judged has the neutral score of a tie
    and is neither. If no verdict says anything, nothing is selected and the query stays as it is.

    Args:
        judge: A `Reranker`, or what `as_comparator` takes, for which a `PairwiseReranker` with the
            aggregation `all_pair` is made.
        depth: How many of the hits are judged.
        most: Most positives.
        worst: Most negatives.
        above: Positives have a score above this; for pairwise rerankers, won more than half.
        below: Negatives have a score below this; for pairwise rerankers, lost at least three of four.
    """

    def __init__(
        self,
        judge: Any,
        *,
        depth: int = 10,
        most: int = 3,
        worst: int = 3,
        above: float = 0.5,
        below: float = 0.25,
    ) -> None:
        check_least(1, depth=depth, most=most)
        check_least(0, worst=worst)
        if below > above:
            raise ConfigurationError(f"below must not exceed above, not {below} and {above}.")
        if not isinstance(judge, Reranker):
            judge = PairwiseReranker(model=judge, aggregation="all_pair")
        self.reranker: Reranker = judge
        self._depth, self._most, self._worst = depth, most, worst
        self._above, self._below = above, below

    def select(self, query: str, hits: Sequence[tuple[Document, float]]) -> Selection:
        """Decides about the hits; see `agentprm.retrievers.selectors.Selector`."""
        documents = [document for document, _ in hits[: self._depth]]
        return self._selection(self.reranker.rank(documents, query))

    def _selection(self, ranking: Ranking) -> Selection:
        good = [place for place in ranking.order if ranking.scores[place] > self._above][: self._most]
        bad = [place for place in reversed(ranking.order) if ranking.scores[place] < self._below]
        return Selection(good, [place for place in bad if place not in good][: self._worst])


def _outstanding(scores: Sequence[float]) -> float:
    """One standard deviation above the mean of the finite scores."""
    finite = [score for score in scores if isfinite(score)]
    return fmean(finite) + pstdev(finite) if finite else 0.0
