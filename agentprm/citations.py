"""Which passages support a claim, without a model: by the words they share."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document

from agentprm.state import title_of
from agentprm.text import terms

__all__ = ["supporting"]

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
