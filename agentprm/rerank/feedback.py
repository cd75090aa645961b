"""A reranker as the one who picks passages for relevance feedback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.documents import Document

from agentprm.errors import ConfigurationError
from agentprm.rerank.base import Ranking, Reranker
from agentprm.rerank.pairwise import PairwiseReranker
from agentprm.retrievers import Selection

__all__ = ["RerankSelector"]


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
        if depth < 1 or most < 1 or worst < 0:
            raise ConfigurationError(
                f"depth and most must be at least 1 and worst at least 0, not {depth}, {most} and {worst}."
            )
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
