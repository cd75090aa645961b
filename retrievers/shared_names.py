"""Names that passages share, whether they are titles or not: the hop from one passage to the next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agentprm.retrievers.candidates import Candidates
from agentprm.retrievers.mentions import MentionIndex
from agentprm.text import words

__all__ = ["Names"]

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
