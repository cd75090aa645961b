"""Link feedback: passages that the question's and the best passages' own mentions lead to.

A multi-hop question names its first passage and not its second, so that no similarity to the
question finds the second. But the first one mentions it, or shares a name with it. Candidates are the first
list, the passages whose titles the question mentions, and those that these and the nearest ones mention; a
sum of a few features ranks them. Without a mention the first list stays as it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from langchain_core.documents import Document

from agentprm.errors import CapabilityError, ConfigurationError
from agentprm.retrievers.candidates import Candidates, Target
from agentprm.retrievers.feedback_methods import Merge
from agentprm.retrievers.fusion import RankedList
from agentprm.retrievers.mentions import MentionIndex
from agentprm.retrievers.selectors import Selection
from agentprm.retrievers.shared_names import Names
from agentprm.retrievers.vector_index import FloatArray, VectorIndex

__all__ = ["LINKED", "LinkFeedback", "LinkWeights", "keeps_mentions"]


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
