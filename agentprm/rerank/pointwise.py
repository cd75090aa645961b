"""Rerankers that give every passage a score of its own."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from langchain_core.documents import Document

from agentprm.rerank.base import Ranked, Reranker
from agentprm.rerank.judging import Assessor, Judging, Missing
from agentprm.routines import Routine

__all__ = ["PointwiseReranker", "order_by_scores"]


class PointwiseReranker(Reranker):
    """Base of the rerankers that score passages one by one; subclasses implement `judge`.

    A passage without a score (the judge failed on it, or budget or deadline ended before its turn)
    keeps its place in the list, see `order_by_scores`.
    """

    @property
    def calls_per_judgement(self) -> int:
        """Most judge calls that one judgement takes."""
        return 1

    @abstractmethod
    def judge(self, query: str) -> Assessor:
        """The judge of one list: from documents to one number each; `None` is an unusable answer."""

    def routine(self, query: str, documents: Sequence[Document], judging: Judging) -> Routine[Ranked]:
        """See `Reranker.plan`."""
        judge = self.judge(query)
        replies = yield from judging.ask(judge, documents)
        scores = [finite(reply) for reply in replies]
        answered = [reply for reply in replies if not isinstance(reply, Missing)]
        unusable = sum(finite(reply) is None for reply in answered)
        judging.book(judge.cost * len(answered), judge.cost * unusable)
        return order_by_scores(scores)


def finite(value: Any) -> float | None:
    """The value as a plain float; `None` for what is missing, not a number, or infinite."""
    if value is None or isinstance(value, Missing):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def order_by_scores(scores: Sequence[float | None], order: Sequence[int] | None = None) -> Ranked:
    """Sorts what has a score; what has none keeps its place, as if tied with what stands above it.

    Args:
        scores: One per incoming place, higher is better; equal ones stay in their order.
        order: The order so far, places of the incoming list; the incoming order by default.

    Returns:
        The places of `order` in their new order, and a score for each place, see `without_gaps`.
    """
    before = list(range(len(scores))) if order is None else list(order)
    ranked = iter(sorted((p for p in before if scores[p] is not None), key=lambda p: -(scores[p] or 0.0)))
    after = [place if scores[place] is None else next(ranked) for place in before]
    return Ranked(after, without_gaps(scores, after))


def without_gaps(scores: Sequence[float | None], order: Sequence[int]) -> list[float]:
    """Scores for all: where there is none, that of the place above in `order`.

    On top it is the first one below, and 0 if nothing has a score.
    """
    result = [0.0 if score is None else float(score) for score in scores]
    last = next((result[place] for place in order if scores[place] is not None), 0.0)
    for place in order:
        last = result[place] = last if scores[place] is None else result[place]
    return result
