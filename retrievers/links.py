"""Link feedback: passages that the question's and the best passages' own mentions lead to.

A multi-hop question names its first passage and not its second, so that no similarity to the
question finds the second. But the first one mentions it. Candidates are the nearest passages, those
whose titles the question mentions, what these mention, and what that mentions; a sum of a few
features ranks them. Without a mention the ranking is that of the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from langchain_core.documents import Document

from agentprm.errors import CapabilityError
from agentprm.retrievers.adapters import document_test
from agentprm.retrievers.feedback_methods import Merge
from agentprm.retrievers.fusion import Ranking
from agentprm.retrievers.mentions import Mention, MentionIndex
from agentprm.retrievers.selectors import Selection
from agentprm.retrievers.vector_index import FloatArray, VectorIndex

__all__ = ["LinkFeedback", "LinkWeights", "keeps_mentions"]


# Rarity from which a link out of a nearest passage counts in full: its rarest word is in 6 passages.
_TELLING = 1 / 3
# The same for a link out of a passage that the question names: its rarest word is in 14 passages. It
# keeps titles such as "American" from coming in wherever the word stands.
_USUAL = 1 / 4


class LinkWeights(NamedTuple):
    """What each feature adds to the similarity of query and passage (a cosine for unit vectors).

    Fitted on MuSiQue and HotpotQA training questions and on 2WikiMultiHopQA, then rounded; results
    change by less than .01 over a factor of two in each.

    Attributes:
        mentioned: The question mentions the passage's title; shared between passages of one title.
        from_mentioned: A passage mentioned in the question mentions this one, by words that are not common.
        from_nearest: A nearest passage mentions this one, scaled by how near that passage is.
        second_hop: A passage that was linked mentions this one, scaled by the first link and by rarity.
        rarity: How rare the words of the title are that leads here.
    """

    mentioned: float = 0.6
    from_mentioned: float = 0.5
    from_nearest: float = 0.1
    second_hop: float = 0.2
    rarity: float = 0.3


class LinkFeedback:
    """Second-hop retrieval over mentions of titles; a feedback method of `FeedbackRetriever`.

    Args:
        mentions: Titles of the collection; `None` takes those that the store keeps (`FaissStore`).
        nearest: How many of the nearest passages are read for mentions.
        spread: Score below the best one at which a nearest passage counts nothing.
        weights: Weights of the features.
    """

    merge: Merge = "replace"

    def __init__(
        self,
        mentions: MentionIndex | None = None,
        *,
        nearest: int = 5,
        spread: float = 0.3,
        weights: LinkWeights = LinkWeights(),  # noqa: B008  (immutable)
    ) -> None:
        self._mentions = mentions
        self._nearest = nearest
        self._spread = spread
        self._weights = weights

    def expand(
        self,
        query: str,
        vector: FloatArray,
        hits: Ranking,
        index: VectorIndex,
        *,
        k: int,
        selection: Selection | None = None,
        filter: Any = None,
    ) -> list[tuple[Document, float]]:
        """Ranks the hits and what they and the question lead to.

        Args:
            query: The question.
            vector: Its vector (d).
            hits: First-stage passages with scores, best first.
            index: Where they come from.
            k: Not used: what is linked is few.
            selection: Its positives are read for mentions instead of the nearest passages.
            filter: Which linked passages may come in.

        Returns:
            The hits and the linked passages with their new scores, best first.

        Raises:
            CapabilityError: There are no titles, or the store cannot give documents by id.
        """
        mentions = self._titles(index)
        found = _Candidates(index, vector, filter, hits)
        asked = mentions.find(query)
        direct = _shares(asked)
        found.fetch(direct)
        gains = {i: self._weights.mentioned * share for i, share in direct.items()}
        places = range(min(len(hits), self._nearest)) if selection is None else selection.positives
        near = found.cosines([str(hits[place][0].id) for place in places])
        best = max(near.values(), default=0.0)
        seeds = {i: max(0.0, 1 - (best - cosine) / self._spread) for i, cosine in near.items()}
        first: dict[str, float] = {}
        links: dict[str, _Link] = {}
        for seed in dict.fromkeys([*seeds, *direct]):
            for target, share, rarity in found.links(seed, mentions):
                link = links.setdefault(target, _Link())
                usual = min(1.0, rarity / _USUAL)
                link.mentioned = max(link.mentioned, direct.get(seed, 0.0) * share * usual)
                telling = min(1.0, rarity / _TELLING)
                link.nearest = max(link.nearest, seeds.get(seed, 0.0) * share * telling)
                link.rarity = max(link.rarity, rarity * share)
                strength = direct.get(seed) or 0.5 * seeds.get(seed, 0.0)
                first[target] = max(first.get(target, 0.0), strength * share)
        found.fetch(first)
        for middle, strength in first.items():
            for target, share, rarity in found.links(middle, mentions):
                if target not in seeds and target not in direct:
                    link = links.setdefault(target, _Link())
                    link.second = max(link.second, strength * share * rarity)
        for target, link in links.items():
            gains[target] = gains.get(target, 0.0) + link.gain(self._weights)
        found.fetch(gains)
        return found.ranked(gains) if gains else list(hits)

    def check(self, index: VectorIndex) -> None:
        """Whether links work on this index; `FeedbackRetriever` asks at construction.

        Raises:
            CapabilityError: There are no titles, or the index gives no documents by id.
        """
        if self._mentions is None and not keeps_mentions(index):
            raise CapabilityError(
                f"A {type(index).__name__} keeps no titles: pass "
                "LinkFeedback(MentionIndex.from_documents(documents))."
            )
        if not callable(getattr(index, "get_by_ids", None)):
            raise CapabilityError(
                f"A {type(index).__name__} gives no documents by id, which links need; "
                "use FaissStore or a store with get_by_ids."
            )

    def _titles(self, index: Any) -> MentionIndex:
        if self._mentions is not None:
            return self._mentions
        self.check(index)
        titles: MentionIndex = index.mentions
        return titles


def keeps_mentions(index: object) -> bool:
    """Whether an index collects titles itself, as `FaissStore` does."""
    return hasattr(type(index), "mentions")


class _Link:
    """The best evidence for a link to one passage."""

    def __init__(self) -> None:
        self.mentioned = self.nearest = self.rarity = self.second = 0.0

    def gain(self, weights: LinkWeights) -> float:
        return (
            weights.from_mentioned * self.mentioned
            + weights.from_nearest * self.nearest
            + weights.rarity * self.rarity
            + weights.second_hop * self.second
        )


class _Candidates:
    """Documents at hand, fetched from the store when a link leads to them."""

    def __init__(self, index: VectorIndex, vector: FloatArray, filter: Any, hits: Ranking) -> None:
        self._index = index
        self._vector = _unit(np.asarray(vector, dtype=np.float32)[None, :])[0]
        self._allowed = document_test(index, filter)
        self._hits = [str(d.id) for d, _ in hits]
        self._documents: dict[str, Document | None] = {str(d.id): d for d, _ in hits}
        self._linked: dict[str, list[tuple[str, float, float]]] = {}

    def fetch(self, ids: dict[str, float]) -> None:
        """Reads those documents that are not at hand, and that the filter allows."""
        missing = [i for i in ids if i not in self._documents]
        if not missing:
            return
        index: Any = self._index
        self._documents.update(dict.fromkeys(missing))
        found = index.get_by_ids(missing)
        self._documents.update({str(d.id): d for d in found if self._allowed(d)})

    def links(self, seed: str, mentions: MentionIndex) -> list[tuple[str, float, float]]:
        """Passages that a passage at hand mentions, each with its share of the title and its rarity."""
        if seed not in self._linked:
            document = self._documents.get(seed)
            found = mentions.find(document.page_content) if document else []
            self._linked[seed] = [
                (i, 1 / len(mention.ids), mention.rarity)
                for mention in found
                for i in mention.ids
                if i != seed and seed not in mention.ids
            ]
        return self._linked[seed]

    def cosines(self, ids: list[str]) -> dict[str, float]:
        """Cosine of the query and each passage."""
        if not ids:
            return {}
        products = _unit(self._index.vectors_for(ids)) @ self._vector
        return dict(zip(ids, products.tolist(), strict=True))

    def ranked(self, gains: dict[str, float]) -> list[tuple[Document, float]]:
        """The hits and the linked documents that the filter allows, best first."""
        hits = set(self._hits)
        documents = {i: d for i, d in self._documents.items() if d is not None and (i in hits or i in gains)}
        totals = {i: cosine + gains.get(i, 0.0) for i, cosine in self.cosines(list(documents)).items()}
        return [(documents[i], totals[i]) for i in sorted(totals, key=lambda i: -totals[i])]


def _unit(vectors: FloatArray) -> FloatArray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1), dtype=np.float32)


def _shares(mentions: Sequence[Mention]) -> dict[str, float]:
    """Ids that are mentioned, each with its share of the title."""
    shares: dict[str, float] = {}
    for mention in mentions:
        for i in mention.ids:
            shares[i] = max(shares.get(i, 0.0), 1 / len(mention.ids))
    return shares
