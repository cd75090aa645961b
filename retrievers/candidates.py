"""Documents at hand while links are followed: the first list, and what is fetched when a link leads to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from langchain_core.documents import Document

from agentprm.retrievers.adapters import document_test
from agentprm.retrievers.fusion import RankedList
from agentprm.retrievers.mentions import MentionIndex
from agentprm.retrievers.vector_index import FloatArray, VectorIndex

__all__ = ["Candidates", "Target"]

# Passages of one title that are looked at.
_MOST = 64

Target = tuple[str, ...]
"""The passages of one title, by id."""


class Candidates:
    """Documents with scores that can be compared.

    The scores of the first list are spread over the range of its cosines. A document that is not on it has
    its own cosine, but stays behind the list, which did not find it.

    Args:
        index: Where documents come from.
        vector: The query's vector (d).
        filter: Which documents may be fetched.
        hits: The first list.

    Attributes:
        hits: Ids of the first list.
        bonus: What some documents score more when the best of a target is chosen.
    """

    def __init__(self, index: VectorIndex, vector: FloatArray, filter: Any, hits: RankedList) -> None:
        self._index = index
        self._vector = _unit(np.asarray(vector, dtype=np.float32)[None, :])[0]
        self._allowed = document_test(index, filter)
        self._documents: dict[str, Document | None] = {str(d.id): d for d, _ in hits}
        self._linked: dict[str, list[tuple[Target, float, float]]] = {}
        cosines = self._cosines(list(self._documents)).values()
        self._floor = min(cosines, default=0.0)
        low, high = min((s for _, s in hits), default=0.0), max((s for _, s in hits), default=0.0)
        slope = (max(cosines, default=0.0) - self._floor) / (high - low) if high > low else 0.0
        self._scores = {str(d.id): self._floor + slope * (score - low) for d, score in hits}
        self.hits = list(self._scores)
        self.bonus: dict[str, float] = {}

    def fetch(self, targets: Iterable[Target]) -> None:
        """Reads and scores passages of targets that are not at hand, as far as the filter allows them."""
        ids = dict.fromkeys(i for target in targets for i in target[:_MOST])
        missing = [i for i in ids if i not in self._documents]
        if not missing:
            return
        index: Any = self._index
        self._documents.update(dict.fromkeys(missing))
        read = {str(d.id): d for d in index.get_by_ids(missing) if self._allowed(d)}
        self._documents.update(read)
        self._scores.update((i, min(c, self._floor)) for i, c in self._cosines(list(read)).items())

    def score(self, name: str) -> float:
        """Score of a document at hand."""
        return self._scores[name]

    def text(self, name: str) -> str:
        """Text of a document at hand; nothing for one that the filter hides."""
        document = self._documents.get(name)
        return document.page_content if document is not None else ""

    def best(self, target: Target, count: int = 1) -> list[str]:
        """The passages of a target that fit the query best, best first."""
        self.fetch([target])
        own = [i for i in target if i in self._scores]
        return sorted(own, key=lambda i: -self._scores[i] - self.bonus.get(i, 0.0))[:count]

    def links(self, passage: str, mentions: MentionIndex) -> list[tuple[Target, float, float]]:
        """Targets that a passage at hand mentions, each with its share of the name and its rarity."""
        if passage not in self._linked:
            found = mentions.find(self.text(passage))
            distinct = {id(mention.targets): mention for mention in found}.values()
            self._linked[passage] = [
                (target, 1 / len(mention.targets), mention.rarity)
                for mention in distinct
                if not any(passage in target for target in mention.targets)
                for target in mention.targets
            ]
        return self._linked[passage]

    def ranked(self, gains: dict[str, float]) -> list[tuple[Document, float]]:
        """The first list and the documents with gains, best first; what gains nothing keeps its order."""
        totals = {i: self._scores[i] + gains.get(i, 0.0) for i in dict.fromkeys([*self.hits, *gains])}
        order = sorted(totals, key=lambda i: -totals[i])
        return [(d, totals[i]) for i in order if (d := self._documents[i]) is not None]

    def _cosines(self, ids: list[str]) -> dict[str, float]:
        if not ids:
            return {}
        products = _unit(self._index.vectors_for(ids)) @ self._vector
        return dict(zip(ids, products.tolist(), strict=True))


def _unit(vectors: FloatArray) -> FloatArray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1), dtype=np.float32)
