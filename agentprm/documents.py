"""Passages: in their usual form and each once, as a line of a prompt, and which of them support a claim.

One rule says what documents and state may carry: `plain` values and valid Unicode. It is applied where data
enters: at loaders, stores, nodes and traces. What passes can be saved in an index and in a checkpoint; what
does not is refused with its place.

Support is told without a model, by the words that a claim and a passage share.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any, NotRequired, TypeAlias
from uuid import UUID

from langchain_core.documents import Document
from typing_extensions import TypedDict

from agentprm.errors import InputError
from agentprm.text import clean_text, cut, one_line, sentence_ends, terms

__all__ = [
    "Citation",
    "as_document",
    "cite",
    "distinct_documents",
    "evidence_line",
    "joined",
    "merge_documents",
    "passage_line",
    "passages_text",
    "plain",
    "plain_document",
    "sentence_around",
    "supporting",
    "supporting_sentence",
    "text_hash",
    "title_of",
]

_TEXT_KEYS = ("page_content", "text", "content")


_DEEPEST = 100
# What a checkpoint holds beyond JSON's types.
_ATOMS = (bytes, datetime, date, time, timedelta, Decimal, UUID)


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


def plain(value: Any, where: str = "value", *, json_only: bool = False) -> Any:
    """Copy of `value` that a checkpoint can hold: numpy and torch numbers become Python's.

    Strings are cleaned (`clean_text`); tuples, and sets where they are allowed, become lists.

    Args:
        value: Anything made of dicts, sequences and scalars.
        where: Name of the value in an error message.
        json_only: Whether only JSON's types may pass: no dates, bytes or sets, and no keys but strings.

    Raises:
        InputError: Something in it cannot be stored (a live object, a function, a huge integer), or it is
            nested more than 100 deep, as a value that contains itself is.
    """
    return _plain(value, where, json_only, 0)


# The name of a value; a part's is its whole's with a key, put together only for an error.
_Where: TypeAlias = "str | tuple[_Where, Any]"


def _plain(value: Any, where: _Where, json_only: bool, depth: int) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if value is None or type(value) in (bool, float):
        return value
    if type(value) is int:
        if not -(2**63) <= value < 2**64:
            raise InputError(f"{_name(where)} is an integer of more than 64 bits; store it as a string.")
        return value
    if depth > _DEEPEST:
        raise InputError(f"{_name(where)[:40]}… is nested more than {_DEEPEST} deep, or contains itself.")
    if isinstance(value, Mapping):
        return {
            _key(key, where, json_only): _plain(v, (where, key), json_only, depth + 1)
            for key, v in value.items()
        }
    if isinstance(value, list | tuple) or (isinstance(value, set | frozenset) and not json_only):
        return [_plain(item, (where, place), json_only, depth + 1) for place, item in enumerate(value)]
    if isinstance(value, _ATOMS) and not json_only:
        return value
    # numpy scalars and arrays, torch tensors: duck-typed, since neither need be installed
    if callable(getattr(value, "tolist", None)):
        converted = _listed(value, where)
        if type(converted) is not type(value):  # as for numpy's long double, which is no number of Python's
            return _plain(converted, where, json_only, depth + 1)
    elif isinstance(value, float):  # enumerations and other subclasses
        return float(value)
    elif isinstance(value, int):
        return _plain(int(value), where, json_only, depth + 1)
    raise InputError(
        f"{_name(where)} is a {type(value).__name__}, which {'an index' if json_only else 'a checkpoint'} "
        "cannot hold. Convert it to strings and numbers first."
    )


def _name(where: _Where) -> str:
    return where if isinstance(where, str) else f"{_name(where[0])}[{where[1]!r:.40}]"


def _key(key: Any, where: _Where, json_only: bool) -> str:
    if isinstance(key, str):
        return clean_text(key)
    if json_only:
        raise InputError(f"The key {key!r} of {_name(where)} is not a string; use str({key!r}).")
    return str(_plain(key, f"a key of {_name(where)}", json_only, 0))


def _listed(value: Any, where: _Where) -> Any:
    try:
        return value.tolist()
    except Exception as error:  # whatever a foreign library raises
        kind = type(value).__name__
        raise InputError(f"{_name(where)} is a {kind} that cannot be converted ({error}).") from None


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


def merge_documents(left: list[Document] | None, right: list[Document] | None) -> list[Document]:
    """Reducer of `prm_documents`: every passage once, by id; the first version stays."""
    merged: dict[str | None, Document] = {}
    for document in [*(left or []), *(right or [])]:
        merged.setdefault(document.id, document)
    return list(merged.values())


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


class Citation(TypedDict):
    """A passage that the answer rests on.

    Attributes:
        doc_id: The document's id.
        title: Its title.
        source: Its source.
        text: Its text.
        quote: The sentence of the text that says so; missing where none can be told.
        start: The first character of that sentence in the text.
        end: The character after its last one.
        metadata: What else it says of itself in texts and finite numbers: page, url, …; missing if that is
            nothing.
    """

    doc_id: str
    title: str
    source: str
    text: str
    quote: NotRequired[str]
    start: NotRequired[int]
    end: NotRequired[int]
    metadata: NotRequired[dict[str, str | int | float]]


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
