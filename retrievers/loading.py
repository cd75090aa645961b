"""Reads a folder of text into documents: txt, md, html, json and jsonl, and the BEIR layout."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from langchain_core.documents import Document

from agentprm.errors import ConfigurationError, InputError, MissingDependencyError

__all__ = ["LoadReport", "Skipped", "load_folder"]

_logger = logging.getLogger(__name__)

_SUFFIXES = (".txt", ".md", ".markdown", ".html", ".htm", ".json", ".jsonl")
_TEXT_KEYS = ("text", "page_content", "content", "contents", "body")
_BEIR = "corpus.jsonl"


class Skipped(NamedTuple):
    """A file, or a part of one, that was not read.

    Attributes:
        source: Path relative to the folder, with a line number where it is about one line.
        reason: Why.
    """

    source: str
    reason: str


class LoadReport(NamedTuple):
    """What `load_folder` found.

    Attributes:
        documents: The documents, in the order of their paths.
        skipped: Everything that was left out, with the reason.
    """

    documents: list[Document]
    skipped: list[Skipped]


class _Text(NamedTuple):
    """A text before it is split; `id` is set where the file gives one."""

    title: str
    text: str
    id: str | None
    metadata: dict[str, Any]


def load_folder(
    path: str | os.PathLike[str], *, chunk_size: int = 1000, chunk_overlap: int = 100
) -> LoadReport:
    """Reads all text under a folder.

    Documents have stable ids (`notes/a.md#0`, or the `_id` that a JSON line gives) and the metadata
    `source` (path relative to the folder), `title` and `chunk` (0, 1, …); other fields of a JSON line
    are kept as metadata. JSON lines with an `_id` are passages already and stay whole, their title
    put before their text. Where a `corpus.jsonl` lies (BEIR layout), it is the only file read of its
    folder. Links are never followed. What cannot be read is skipped, logged and reported.

    Args:
        path: The folder, or one file.
        chunk_size: Longest chunk, in characters.
        chunk_overlap: Characters that neighbouring chunks share at most.

    Raises:
        ConfigurationError: The sizes are not sensible.
        InputError: The path does not exist, or no document could be read.
        MissingDependencyError: A long text or HTML needs the extra `text`.
    """
    if chunk_size < 1 or not 0 <= chunk_overlap < chunk_size:
        raise ConfigurationError(
            f"chunk_size must be positive and chunk_overlap smaller, not {chunk_size} and {chunk_overlap}."
        )
    root = Path(path)
    if not root.exists():
        raise InputError(f"There is no file or folder {root}: check the path.")
    documents: dict[str, Document] = {}
    skipped: list[Skipped] = []
    for file in _files(root, skipped):
        source = file.name if file == root else file.relative_to(root).as_posix()
        for text in _texts(file, source, skipped):
            for document in _chunks(text, source, chunk_size, chunk_overlap):
                if document.id in documents:
                    document.id = f"{source}:{document.id}"
                if document.id in documents:
                    skipped.append(Skipped(source, f"a second document has the id {text.id!r}"))
                    continue
                documents[str(document.id)] = document
    for source, reason in skipped:
        _logger.warning("Skipped %s: %s.", source, reason)
    if not documents:
        found = f"; {skipped[0].source}: {skipped[0].reason}" if skipped else ""
        raise InputError(
            f"No readable document in {root}{found}: put .txt, .md, .html, .json or .jsonl files there."
        )
    return LoadReport(list(documents.values()), skipped)


def _files(root: Path, skipped: list[Skipped]) -> Iterator[Path]:
    """Files to read, in the order of their paths."""
    if root.is_file():
        yield root
        return
    try:
        entries = sorted(root.iterdir())
    except OSError as error:
        raise InputError(f"The folder {root} cannot be read ({error.strerror}).") from None
    yield from _walk(entries, root, skipped)


def _walk(entries: list[Path], root: Path, skipped: list[Skipped]) -> Iterator[Path]:
    corpus = any(entry.name == _BEIR and entry.is_file() for entry in entries)
    for entry in entries:
        source = entry.relative_to(root).as_posix()
        if entry.is_symlink():
            skipped.append(Skipped(source, "links are not followed"))
        elif entry.name.startswith("."):
            skipped.append(Skipped(source, "hidden"))
        elif entry.is_dir():
            try:
                inner = sorted(entry.iterdir())
            except OSError as error:
                skipped.append(Skipped(source, f"cannot be read ({error.strerror})"))
                continue
            yield from _walk(inner, root, skipped)
        elif corpus and entry.name != _BEIR:
            skipped.append(Skipped(source, f"only {_BEIR} is read of a folder that holds one"))
        elif entry.suffix.lower() not in _SUFFIXES:
            skipped.append(Skipped(source, f"not one of {', '.join(_SUFFIXES)}"))
        elif not entry.is_file():
            skipped.append(Skipped(source, "not a regular file"))
        else:
            yield entry


def _texts(file: Path, source: str, skipped: list[Skipped]) -> Iterator[_Text]:
    try:
        data = file.read_bytes()
    except OSError as error:
        skipped.append(Skipped(source, f"cannot be read ({error.strerror})"))
        return
    content = _decoded(data)
    if content is None:
        skipped.append(Skipped(source, "not text in UTF-8 or UTF-16"))
        return
    if not content.strip():
        skipped.append(Skipped(source, "empty"))
        return
    suffix = file.suffix.lower()
    if suffix in (".json", ".jsonl"):
        yield from _json_texts(content, source, suffix == ".jsonl", skipped)
        return
    text = _html_text(content, file.stem) if suffix in (".html", ".htm") else _plain_text(content, file)
    if text.text.strip():
        yield text
    else:
        skipped.append(Skipped(source, "holds no text"))


def _decoded(data: bytes) -> str | None:
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _plain_text(content: str, file: Path) -> _Text:
    title = None
    if file.suffix.lower() in (".md", ".markdown"):
        title = re.search(r"^#{1,6}[ \t]+(.+?)[ \t#]*$", content, re.MULTILINE)
    return _Text(title.group(1) if title else file.stem, content, None, {})


def _html_text(content: str, stem: str) -> _Text:
    try:
        from bs4 import BeautifulSoup
    except ImportError:
        raise MissingDependencyError.for_extra("beautifulsoup4", "text") from None
    page = BeautifulSoup(content, "html.parser")
    heading = page.title or page.find("h1")
    title = heading.get_text(" ", strip=True) if heading else ""
    for tag in page(["script", "style", "noscript", "template", "head"]):
        tag.decompose()
    lines = (line.strip() for line in page.get_text("\n").splitlines())
    return _Text(title or stem, "\n".join(line for line in lines if line), None, {})


def _json_texts(content: str, source: str, lines: bool, skipped: list[Skipped]) -> Iterator[_Text]:
    rows: list[tuple[str, Any]] = []
    if lines:
        for number, line in enumerate(content.split("\n"), 1):
            if line.strip():
                rows.append((f"{source}:{number}", _parsed(line)))
    else:
        whole = _parsed(content)
        items = whole if isinstance(whole, list) else [whole]
        rows = [
            (f"{source}[{i}]" if isinstance(whole, list) else source, item) for i, item in enumerate(items)
        ]
    for place, row in rows:
        text = _row_text(row)
        if isinstance(text, str):
            skipped.append(Skipped(place, text))
        else:
            yield text


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return ValueError("not valid JSON")


def _row_text(row: Any) -> _Text | str:
    """The text of a JSON object, or why there is none."""
    if isinstance(row, ValueError):
        return str(row)
    if not isinstance(row, dict):
        return "not a JSON object with a text"
    key = next((k for k in _TEXT_KEYS if isinstance(row.get(k), str)), None)
    if key is None:
        return f"has none of the fields {', '.join(_TEXT_KEYS)}"
    title = row["title"].strip() if isinstance(row.get("title"), str) else ""
    if not (title + row[key]).strip():
        return "empty"
    own = row.get("_id", row.get("id"))
    identity = str(own) if isinstance(own, str | int) and str(own) else None
    metadata = {k: v for k, v in row.items() if k not in (key, "title", "_id", "id") and v not in (None, {})}
    return _Text(title, row[key], identity, metadata)


def _chunks(text: _Text, source: str, size: int, overlap: int) -> Iterator[Document]:
    if text.id is not None:
        content = f"{text.title}\n{text.text}" if text.title else text.text
        yield Document(
            id=text.id,
            page_content=content,
            metadata={**text.metadata, "source": source, "title": text.title, "chunk": 0},
        )
        return
    parts = (
        [text.text.strip()] if len(text.text.strip()) <= size else _split(text.text, source, size, overlap)
    )
    for number, part in enumerate(parts):
        yield Document(
            id=f"{source}#{number}",
            page_content=part,
            metadata={**text.metadata, "source": source, "title": text.title, "chunk": number},
        )


def _split(text: str, source: str, size: int, overlap: int) -> list[str]:
    try:
        from langchain_text_splitters import Language, RecursiveCharacterTextSplitter
    except ImportError:
        raise MissingDependencyError.for_extra("langchain-text-splitters", "text") from None
    if source.lower().endswith((".md", ".markdown")):
        separators = RecursiveCharacterTextSplitter.get_separators_for_language(Language.MARKDOWN)
        splitter = RecursiveCharacterTextSplitter(
            separators=separators, is_separator_regex=True, chunk_size=size, chunk_overlap=overlap
        )
    else:
        splitter = RecursiveCharacterTextSplitter(
            separators=["\n\n", "\n", ". ", " ", ""], chunk_size=size, chunk_overlap=overlap
        )
    return splitter.split_text(text)
