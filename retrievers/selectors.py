"""Who picks the passages that feedback learns from: the top of the list, or a margin.

Judges are `agentprm.rerank.JudgeSelector` and `RerankSelector`, as they need models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from langchain_core.documents import Document

from agentprm.errors import ConfigurationError

__all__ = ["MarginSelector", "Selection", "Selector", "TopSelector"]


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
