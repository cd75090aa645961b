"""Who picks the passages that feedback learns from: the top of the list, a margin, or a judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Union

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document

from agentprm.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from agentprm.rewards import ProcessRewardModel

__all__ = ["JudgeSelector", "MarginSelector", "Selection", "Selector", "TopSelector"]


class Selection(NamedTuple):
    """What a selector decided, as places in the list that it was shown.

    Attributes:
        positives: Passages to move towards, best first.
        negatives: Passages to move away from.
    """

    positives: list[int]
    negatives: list[int]


class Selector(Protocol):
    """Picks feedback passages out of first-stage hits."""

    def select(self, query: str, hits: Sequence[tuple[Document, float]]) -> Selection:
        """Decides about the hits (documents with scores, best first)."""
        ...


class TopSelector:
    """Takes the first `depth` hits as relevant (blind feedback).

    Args:
        depth: How many; 3 is the usual depth of vector feedback (arXiv 2108.11044).
        worst: How many of the last hits count as irrelevant.
    """

    def __init__(self, depth: int = 3, worst: int = 0) -> None:
        if depth < 1 or worst < 0:
            raise ConfigurationError(f"depth must be at least 1 and worst at least 0, not {depth}, {worst}.")
        self._depth = depth
        self._worst = worst

    def select(self, query: str, hits: Sequence[tuple[Document, float]]) -> Selection:
        """Decides about the hits."""
        places = list(range(len(hits)))
        return Selection(places[: self._depth], places[self._depth :][-self._worst :] if self._worst else [])


class MarginSelector:
    """Takes hits whose score is close to the best one.

    Args:
        margin: Largest difference to the best score.
        depth: Most hits to take.
    """

    def __init__(self, margin: float = 0.05, depth: int = 5) -> None:
        if margin < 0 or depth < 1:
            raise ConfigurationError(
                f"margin must be at least 0 and depth at least 1, not {margin}, {depth}."
            )
        self._margin = margin
        self._depth = depth

    def select(self, query: str, hits: Sequence[tuple[Document, float]]) -> Selection:
        """Decides about the hits."""
        near = [i for i, (_, score) in enumerate(hits[: self._depth]) if score >= hits[0][1] - self._margin]
        return Selection(near, [])


Scorer = Union[Callable[[str, list[Document]], Sequence[float]], BaseDocumentCompressor, "ProcessRewardModel"]
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
        if depth < 1 or most < 1:
            raise ConfigurationError(f"depth and most must be at least 1, not {depth} and {most}.")
        # Heavier than this package, which does not need them otherwise.
        from agentprm.lm import LanguageModel
        from agentprm.rewards import ProcessRewardModel
        from agentprm.rewards.function import takes

        if threshold == "auto":
            threshold = judge.gate if isinstance(judge, ProcessRewardModel) else 0.5
        if isinstance(judge, ProcessRewardModel):
            from agentprm.rerank import CriticReranker  # which builds on this package

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


def _outstanding(scores: Sequence[float]) -> float:
    """One standard deviation above the mean of the finite scores."""
    finite = [score for score in scores if isfinite(score)]
    return fmean(finite) + pstdev(finite) if finite else 0.0
