"""Passages: in their usual form and each once, as a line of a prompt, and which of them support a claim.

Support is told without a model, by the words that a claim and a passage share.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from langchain_core.documents import Document

from agentprm.errors import InputError
from agentprm.state import Citation, merge_documents, plain
from agentprm.text import clean_text, cut, one_line, sentence_ends, terms

__all__ = [
    "as_document",
    "cite",
    "distinct_documents",
    "evidence_line",
    "joined",
    "passage_line",
    "passages_text",
    "plain_document",
    "sentence_around",
    "supporting",
    "supporting_sentence",
    "text_hash",
    "title_of",
]

_TEXT_KEYS = ("page_content", "text", "content")


def as_document(value: Any) -> Document:
    """A passage in any of its usual forms as a `Document`.

    Args:
        value: A document; its text; or a mapping that holds the text under `page_content`, `text` or
            `content`, and maybe `id` and `metadata`. Other entries of a mapping become metadata.

    Raises:
        InputError: If it is something else.
    """
    if isinstance(value, Document):
        return value
    if isinstance(value, str):
        return Document(page_content=value)
    if isinstance(value, Mapping):
        key = next((key for key in _TEXT_KEYS if isinstance(value.get(key), str)), None)
        metadata = value.get("metadata") or {}
        if key is not None and isinstance(metadata, Mapping):
            identity = value.get("id")
            others = {k: v for k, v in value.items() if k not in (key, "id", "metadata", "type")}
            return Document(
                id=None if identity is None else str(identity),
                page_content=value[key],
                metadata={**others, **metadata},
            )
        raise InputError(
            f"A document has the keys {sorted(map(str, value))}; its text must stand under 'page_content', "
            "'text' or 'content', and its metadata, if any, in a mapping."
        )
    raise InputError(
        f"A {type(value).__name__} is no document. Give langchain_core Documents, texts, or mappings "
        "such as {'page_content': text, 'metadata': {...}}."
    )


def plain_document(value: Any) -> Document:
    """`as_document`, with plain metadata, valid text and an id; without one, a hash of its text serves.

    Raises:
        InputError: It is no document, or its metadata cannot be stored; the message names it.
    """
    document = as_document(value)
    text = clean_text(document.page_content)
    identity = document.id or text_hash(text)
    return Document(
        id=clean_text(str(identity)),
        page_content=text,
        metadata=plain(document.metadata, f"The metadata of document {str(identity)!r}"),
    )


def text_hash(text: str) -> str:
    """Sixteen digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def distinct_documents(documents: Iterable[Any], known: Iterable[Document] = ()) -> list[Document]:
    """Plain copies of `documents`, each passage once, each id with one text.

    Where an id stands for another text already, as where all chunks of a file bear its name, the later
    one gets an id of its own, made of the old one and its text.

    Args:
        documents: Passages in any form that `as_document` takes, in order.
        known: Passages whose ids are taken.
    """
    texts = {str(d.id): d.page_content for d in known}
    kept: dict[str, Document] = {}
    for value in documents:
        document = plain_document(value)
        if texts.setdefault(str(document.id), document.page_content) != document.page_content:
            document.id = f"{document.id}#{text_hash(document.page_content)[:8]}"
            texts[document.id] = document.page_content
        kept.setdefault(str(document.id), document)
    return list(kept.values())


def title_of(document: Document) -> str:
    """The document's title, or its source, or its id."""
    metadata = document.metadata
    return str(metadata.get("title") or metadata.get("source") or document.id or "")


def passage_line(document: Document, max_chars: int = 1200) -> str:
    """A passage as one line, title first, cut at `max_chars` characters with a visible mark."""
    text = one_line(document.page_content)
    if len(text) > max_chars:
        text = cut(text, max_chars) + " […]"
    return f"{one_line(title_of(document))}: {text}"


def joined(passages: Sequence[str]) -> str:
    """Passages a line each. Without numbers: small models read these off instead of the answer."""
    return "\n".join(passages) or "(none)"


def passages_text(documents: Sequence[Document], max_chars: int = 1200) -> str:
    """The documents as passages, a line each."""
    return joined([passage_line(document, max_chars) for document in documents])


def evidence_line(document: Document, max_chars: int = 1200) -> str:
    """A document as one line of evidence, whatever it holds.

    An image (metadata `type` is `image`, or there is a `caption`) is its caption; a table (metadata
    `table`: rows as mappings or as lists, the first of which names the columns) is its rows, each
    value with its column's name; anything else is its text. The title comes first.

    Args:
        document: The document.
        max_chars: Where the line is cut, with a visible mark.
    """
    metadata = document.metadata
    text: str | None = None
    if metadata.get("caption") or metadata.get("type") == "image":
        text = f"Image: {metadata.get('caption') or document.page_content}"
    elif isinstance(metadata.get("table"), list):
        text = f"Table: {_rows(metadata['table'])}"
    if text is None:
        return passage_line(document, max_chars)
    changed = Document(id=document.id, page_content=text, metadata=metadata)
    return passage_line(changed, max_chars)


def _rows(table: Sequence[Any]) -> str:
    rows = [row for row in table if row]
    if rows and not isinstance(rows[0], Mapping):
        columns = [str(cell) for cell in rows[0]]
        rows = [dict(zip(columns, row, strict=False)) for row in rows[1:]] or [dict.fromkeys(columns, "")]
    return " | ".join("; ".join(f"{column}: {cell}" for column, cell in row.items()) for row in rows)


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
    if not documents or not (wanted := _words(claim)):
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


def cite(
    documents: Sequence[Document], sentences: Mapping[str, tuple[int, int]] | None = None
) -> list[Citation]:
    """Citations of `documents`, each once, in order.

    Args:
        documents: What is cited.
        sentences: Where in their texts stands what they are cited for, by their ids.
    """
    citations = []
    for document in merge_documents([], list(documents)):
        citation = Citation(
            doc_id=str(document.id),
            title=title_of(document),
            source=str(document.metadata.get("source", "")),
            text=document.page_content,
        )
        start, end = (sentences or {}).get(str(document.id), (0, 0))
        if start < end:
            citation |= {"quote": document.page_content[start:end], "start": start, "end": end}
        more = {
            key: value
            for key, value in document.metadata.items()
            if key not in ("title", "source") and isinstance(value, str | int | float)
            if not isinstance(value, float) or math.isfinite(value)  # JSON has no others
        }
        citations.append({**citation, "metadata": more} if more else citation)
    return citations
