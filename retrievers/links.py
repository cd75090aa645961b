"""Link feedback: passages that the question's and the best passages' own mentions lead to.

A multi-hop question names its first passage and not its second, so that no similarity to the
question finds the second. But the first one mentions it, or shares a name with it. Candidates are the first
list, the passages whose titles the question mentions, and those that these and the nearest ones mention; a
sum of a few features ranks them. Without a mention the first list stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from langchain_core.documents import Document

from agentprm.errors import CapabilityError, ConfigurationError
from agentprm.retrievers.feedback import Merge
from agentprm.retrievers.filters import document_test
from agentprm.retrievers.mentions import MentionIndex
from agentprm.retrievers.selectors import Selection
from agentprm.retrievers.vectors import FloatArray, RankedList, VectorIndex, unit
from agentprm.text import words

__all__ = ["LINKED", "Candidates", "LinkFeedback", "LinkWeights", "Names", "Target", "keeps_mentions"]

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
        self._vector = unit(np.asarray(vector, dtype=np.float32)[None, :])[0]
        self._allowed = None if filter is None else document_test(index, filter)
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
        found = index.get_by_ids(missing)
        read = {str(d.id): d for d in found if self._allowed is None or self._allowed(d)}
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
        products = unit(self._index.vectors_for(ids)) @ self._vector
        return dict(zip(ids, products.tolist(), strict=True))


# Passages whose names are taken, and names that are sought.
_MOST_PASSAGES = 10
_MOST_NAMES = 100
# Characters of a name: a bound on what a search for it in other texts can cost.
_LONGEST = 100


class Names:
    """Names out of passages that a question leads to, and what others gain by having one of them.

    Args:
        query: The question; what it names itself tells nothing.
        mentions: Knows how rare a name is.
        weight: Gain for a name that no other passage has, out of a passage that counts in full.
    """

    def __init__(self, query: str, mentions: MentionIndex, weight: float) -> None:
        self._mentions = mentions
        self._weight = weight
        self._known = {word.text.casefold() for word in words(query)}
        self._strength: dict[str, float] = {}
        self._taken: set[str] = set()

    def take(self, found: Candidates, passages: Mapping[str, float]) -> None:
        """Collects the names in passages, each given with how much it counts."""
        for passage in sorted(passages, key=lambda i: -passages[i])[:_MOST_PASSAGES]:
            self._taken.add(passage)
            found.bonus.pop(passage, None)  # it leads to others now, and not others to it
            for name, rarity in self._mentions.names(found.text(passage)).items():
                if len(name) <= _LONGEST and not self._known.issuperset(
                    word.text.casefold() for word in words(name)
                ):
                    self._strength[name] = max(self._strength.get(name, 0.0), passages[passage] * rarity)

    def reward(self, found: Candidates, passages: Iterable[str]) -> None:
        """Gives each of the passages a bonus for the strongest of the names that it has."""
        strongest = sorted(self._strength.items(), key=lambda item: -item[1])[:_MOST_NAMES]
        for passage in dict.fromkeys(passages):
            if passage not in self._taken:
                text = found.text(passage)
                strength = next((value for name, value in strongest if _holds(text, name)), 0.0)
                if strength:
                    found.bonus[passage] = self._weight * strength


def _holds(text: str, name: str) -> bool:
    """Whether a text has a name between word boundaries."""
    start = text.find(name)
    while start >= 0:
        before, after = text[start - 1 : start], text[start + len(name) : start + len(name) + 1]
        if not before.isalnum() and not after.isalnum():
            return True
        start = text.find(name, start + 1)
    return False


# Rarity from which a link out of a nearest passage counts in full: its rarest word is in 6 passages.
_TELLING = 1 / 3
# The same for a link out of a passage that the question names: its rarest word is in 14 passages. It
# keeps titles such as "American" from coming in wherever the word stands.
_USUAL = 1 / 4
# How steeply a link counts less below these.
_STEEP = 1.5
# What a misspelt name in the question counts.
_MISSPELT = 0.8
# A name of more titles than this leads nowhere.
_MOST_TITLES = 20
# Passages of a title that are read when the question mentions it.
_READ = 5
# How sure a link to a passage must be for others to gain by sharing its names.
_SURE = 0.5


LINKED = 0.1
"""Share of passages that mention another's title from which a collection counts as linked.

Measured: scientific abstracts .02, encyclopedias .35 to .40."""


class LinkWeights(NamedTuple):
    """What each feature adds to a passage's score in the first list (a cosine, for dense search).

    Fitted on MuSiQue and HotpotQA training questions and on 2WikiMultiHopQA, then rounded; results change
    by less than .01 over a factor of 1.5 in each.

    Attributes:
        mentioned: The question mentions the passage's title; shared between titles of one name.
        from_mentioned: A passage mentioned in the question mentions this one, by words that are not common.
        from_nearest: A nearest passage mentions this one, scaled by how near that passage is.
        shared_name: A passage of the first list has a name, scaled by its rarity, that a passage mentioned
            in the question has too, or one that such a passage mentions.
    """

    mentioned: float = 1.3
    from_mentioned: float = 0.75
    from_nearest: float = 0.4
    shared_name: float = 1.0


class LinkFeedback:
    """Second-hop retrieval over mentions of titles; a feedback method of `FeedbackRetriever`.

    Passages of one title, such as the chunks of a file, are one target: the one that fits the question best
    comes in for all of them.

    Args:
        mentions: Titles of the collection; `None` takes those that the store keeps (`FaissStore`).
        nearest: How many of the nearest passages are read for mentions.
        spread: How far below the best score a nearest passage counts nothing; one of score 0 never counts.
        weights: Weights of the features.
        least_linked: Share of a sample of the passages that must mention another's title; in a collection
            with fewer the first list stands.
    """

    merge: Merge = "replace"

    def __init__(
        self,
        mentions: MentionIndex | None = None,
        *,
        nearest: int = 5,
        spread: float = 0.3,
        weights: LinkWeights = LinkWeights(),  # noqa: B008  (immutable)
        least_linked: float = 0.0,
    ) -> None:
        if nearest < 0 or spread <= 0 or not 0 <= least_linked <= 1:
            raise ConfigurationError(
                "nearest must be at least 0, spread positive and least_linked in [0, 1], "
                f"not {nearest}, {spread} and {least_linked}."
            )
        self._mentions = mentions
        self._nearest = nearest
        self._spread = spread
        self._weights = weights
        self._least_linked = least_linked

    def expand(
        self,
        query: str,
        vector: FloatArray,
        hits: RankedList,
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
            hits: First-stage passages with scores, best first. What is not linked keeps its order.
            index: Where they come from.
            k: Not used: what is linked is few.
            selection: Its positives are read for mentions instead of the nearest passages.
            filter: Which linked passages may come in, and be read.

        Returns:
            The hits and the linked passages with their new scores, best first.

        Raises:
            CapabilityError: There are no titles, or the store cannot give documents by id.
        """
        mentions = self._titles(index)
        own: Any = index
        if self._least_linked and mentions.linked(own.get_by_ids) < self._least_linked:
            return list(hits)
        found = Candidates(index, vector, filter, hits)
        asked: dict[Target, float] = {}
        for mention in mentions.find(query, misspelt=True):
            share = (_MISSPELT if mention.misspelt else 1.0) / len(mention.targets)
            for target in mention.targets if len(mention.targets) <= _MOST_TITLES else ():
                asked[target] = max(asked.get(target, 0.0), share)
        named = {i: share for target, share in asked.items() for i in found.best(target, _READ)}
        weights = self._weights
        links = {target: weights.mentioned * share for target, share in asked.items()}
        from_named = self._linked(found, mentions, named, _USUAL)
        for target, strength in from_named.items():
            links[target] = links.get(target, 0.0) + weights.from_mentioned * strength
        near = self._near(found, selection)
        for target, strength in self._linked(found, mentions, near, _TELLING).items():
            links[target] = links.get(target, 0.0) + weights.from_nearest * strength
        # What the question names helps to choose among the passages of a title; with the chosen ones go on.
        names = Names(query, mentions, weights.shared_name)
        names.take(found, {i: share for target, share in asked.items() for i in found.best(target)})
        names.reward(found, [*found.hits, *(i for target in links for i in found.best(target, _READ))])
        chosen = {target: found.best(target) for target in links}
        sure = {
            t: weights.from_mentioned * strength for t, strength in from_named.items() if strength > _SURE
        }
        names.take(found, {i: strength for t, strength in sure.items() for i in chosen[t]})
        names.reward(found, [*found.hits, *(i for passages in chosen.values() for i in passages)])
        gains = dict(found.bonus)
        for target, gain in links.items():
            for i in chosen[target]:
                gains[i] = gains.get(i, 0.0) + gain
        return found.ranked(gains) if gains else list(hits)

    def _near(self, found: Candidates, selection: Selection | None) -> dict[str, float]:
        """The nearest passages, which are read for mentions, each with how much its mentions count."""
        places = range(min(len(found.hits), self._nearest)) if selection is None else selection.positives
        scores = {i: found.score(i) for i in (found.hits[place] for place in places)}
        best = max(scores.values(), default=0.0)
        # What has nothing in common with the question leads nowhere, however little more the best one has.
        spread = min(self._spread, best)
        return {i: 1 - (best - score) / spread for i, score in scores.items() if score > best - spread}

    @staticmethod
    def _linked(
        found: Candidates, mentions: MentionIndex, passages: dict[str, float], full: float
    ) -> dict[Target, float]:
        """Targets that passages mention, with the strongest mention of each.

        Args:
            found: The documents.
            mentions: The titles.
            passages: What to read, and how much its mentions count.
            full: Rarity from which a mention counts in full.
        """
        linked: dict[Target, float] = {}
        for passage, weight in passages.items():
            for target, share, rarity in found.links(passage, mentions):
                if share * _MOST_TITLES >= 1:
                    strength = weight * share * min(1.0, rarity / full) ** _STEEP
                    linked[target] = max(linked.get(target, 0.0), strength)
        found.fetch(linked)
        return linked

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
