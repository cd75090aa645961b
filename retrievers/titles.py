"""What a name means: the title under which a collection knows what a text calls by another name."""

from __future__ import annotations

import re
from typing import Any

from langchain_core.documents import Document

from agentprm.retrievers.links import keeps_mentions
from agentprm.retrievers.mentions import Mention, MentionIndex
from agentprm.text import fold, words

__all__ = ["Titles", "titles_of"]

# Passages of one name that are read to tell which is meant.
_MOST = 5


class Titles:
    """Resolves names to the titles of a collection.

    Args:
        index: A store that keeps titles and gives documents by id, as `FaissStore` does.
    """

    def __init__(self, index: Any) -> None:
        self._index = index

    def resolve(self, name: str, source: Document | None = None, start: int = -1, end: int = -1) -> str:
        """The title of what a name means; the name itself where the collection knows it by no other.

        A name that is part of a longer one in its passage stands for the whole: "Soffici" in "directed by
        Mario Soffici". A name of several titles is that of the one that speaks of the passage's own title.

        Args:
            name: A name, such as the finding of a step.
            source: The passage that it was read off.
            start: Where it stands there, if that is known.
            end: The character after it.
        """
        if not re.search(r"[^\W\d_]", name) or name.islower():
            return name
        mentions: MentionIndex = self._index.mentions
        found: list[Mention] = []
        if source is not None and 0 <= start < end:
            around = mentions.find(source.page_content)
            found = [m for m in around if m.start <= start and end <= m.end]
        found = found or [m for m in mentions.find(name) if _covers(name, m)]
        if not found:
            return name
        target = self._meant(found[0], source)
        title = target.metadata.get("title") if target is not None else None
        return title if isinstance(title, str) and title.strip() else name

    def _meant(self, mention: Mention, source: Document | None) -> Document | None:
        ids = [target[0] for target in mention.targets[:_MOST]]
        documents: list[Document] = self._index.get_by_ids(ids)
        if len(documents) == 1 and len(mention.targets) == 1:
            return documents[0]
        own = source.metadata.get("title") if source is not None else None
        bare = re.sub(r"\s*\([^()]*\)\s*$", "", own) if isinstance(own, str) else ""
        speaking = [d for d in documents if bare and fold(bare).casefold() in fold(d.page_content).casefold()]
        return speaking[0] if len(speaking) == 1 else None


_RANKS = {
    "king", "queen", "prince", "princess", "emperor", "empress", "sultan", "duke", "duchess", "count",
    "countess", "baron", "baroness", "lord", "lady", "sir", "dame", "saint", "pope", "president", "general",
    "captain", "dr", "mr", "mrs",
}  # fmt: skip


def _covers(name: str, mention: Mention) -> bool:
    """Whether a mention is all of a name that bears meaning, and not a word of it."""
    before, after = words(name[: mention.start]), words(name[mention.end :])
    if len(words(name[mention.start : mention.end])) > 1:  # "King Albert" is not any Albert
        before = [word for word in before if word.text.casefold() not in _RANKS]
    return not any(word.text[0].isupper() or word.text[0].isdigit() for word in [*before, *after])


def titles_of(retriever: object) -> Titles | None:
    """The titles of what a retriever searches; `None` where it keeps none."""
    for _ in range(3):  # a retriever around a retriever around a store
        if keeps_mentions(retriever) and callable(getattr(retriever, "get_by_ids", None)):
            return Titles(retriever)
        retriever = getattr(retriever, "store", None) or getattr(retriever, "vectorstore", None)
    return None
