"""Which passages, and which sentences of them, support a claim, without a model: by the words they share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from langchain_core.documents import Document

from agentprm.state import title_of
from agentprm.text import sentence_ends, terms

__all__ = ["sentence_around", "supporting", "supporting_sentence"]

# Function words carry no support; a closed list of the commonest is enough here.
_STOP = frozenset(
    """a an and are as at be been but by did do does for from had has have he her his how in into is it its
    of on or she that the their them they this to was were what when where which who whom whose why
    with""".split()  # noqa: SIM905
)


def _words(text: str, *, single: bool = False) -> set[str]:
    return {word for word in terms(text, single=single) if word not in _STOP}


def supporting(claim: str, documents: Sequence[Document], query: str = "") -> list[Document]:
    """The passage that best supports `claim` as an answer to `query`; empty if none does.

    A passage supports the claim as far as it holds the claim's words; among equals the one that
    shares more words with the query wins, then the higher ranked one. A passage must hold at least
    half of the claim's words.

    Args:
        claim: A finding or an answer.
        documents: Passages, best first.
        query: The question that the claim answers.

    Returns:
        At most one document.
    """
    wanted = _words(claim)
    if not wanted:
        return []
    asked = _words(query) - wanted
    best: tuple[float, float] = (0.0, 0.0)
    chosen: list[Document] = []
    for document in documents:
        held = _words(f"{title_of(document)} {document.page_content}", single=True)
        rank = (len(wanted & held) / len(wanted), len(asked & held) / (len(asked) or 1))
        if rank[0] >= 0.5 and rank > best:
            best, chosen = rank, [document]
    return chosen


# A full stop behind an initial or one of these ends no sentence.
_ABBREVIATED = re.compile(
    r"(?:^|[\s(.])(?:[A-Z]|St|Dr|Mr|Mrs|Ms|Jr|Sr|No|Vol|Gen|Col|Lt|Capt|Prof|Rev|c|ca|vs|etc|e\.g|i\.e)\.$"
)


def _sentences(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a text stand, without the white space around them."""
    ends = [end for end in sentence_ends(text) if not _ABBREVIATED.search(text[max(0, end - 8) : end])]
    bounds = [0, *ends, len(text)]
    found = []
    for start, end in pairwise(bounds):
        inner = text[start:end].strip()
        if inner:
            begin = start + text[start:end].index(inner)
            found.append((begin, begin + len(inner)))
    return found


def sentence_around(text: str, start: int, end: int) -> tuple[int, int]:
    """The sentence, or the sentences, of a text that hold the characters from `start` to `end`.

    Example:
        >>> text = "It rains. Ann R. Lee was born in Rome. So what?"
        >>> slice(*sentence_around(text, 33, 37)), text[slice(*sentence_around(text, 33, 37))]
        (slice(10, 38, None), 'Ann R. Lee was born in Rome.')
    """
    touched = [s for s in _sentences(text) if s[0] < end and start < s[1]]
    return (touched[0][0], touched[-1][1]) if touched else (start, end)


def supporting_sentence(claim: str, text: str, query: str = "") -> tuple[int, int] | None:
    """Where the sentence of `text` stands that best supports `claim`, by the rules of `supporting`."""
    wanted = _words(claim)
    if not wanted:
        return None
    asked = _words(query) - wanted
    best: tuple[float, float] = (0.0, 0.0)
    chosen: tuple[int, int] | None = None
    for start, end in _sentences(text):
        held = _words(text[start:end], single=True)
        rank = (len(wanted & held) / len(wanted), len(asked & held) / (len(asked) or 1))
        if rank[0] >= 0.5 and rank > best:
            best, chosen = rank, (start, end)
    return chosen
