"""Reads a folder of text into documents: txt, md, html, json and jsonl, and the BEIR layout."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from langchain_core.documents import Document

from agentprm.errors import ConfigurationError, InputError, MissingDependencyError
from agentprm.plain import clean_text
from agentprm.retrievers.json_rows import BadRow, json_rows

__all__ = ["LoadReport", "Skipped", "load_folder"]

_logger = logging.getLogger(__name__)

_SUFFIXES = (".txt", ".md", ".markdown", ".html", ".htm", ".json", ".jsonl")
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
    """A text before it is split; `id` is set where the file gives one, `place` where it stands otherwise."""

    place: str
    title: str
    text: str
    id: str | None
    metadata: dict[str, Any]


class _Ids:
    """Keeps ids apart: a repeated one gets the file's name put before it, then a number after it."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._repeats: dict[str, int] = {}

    def distinct(self, name: str, source: str) -> str:
        """The id itself, or the next variant of it that is free."""
        found = name
        if found in self._taken:
            stem = found = f"{source}:{name}"
            while found in self._taken:
                self._repeats[stem] = self._repeats.get(stem, 1) + 1
                found = f"{stem}~{self._repeats[stem]}"
        self._taken.add(found)
        return found


def load_folder(
    path: str | os.PathLike[str], *, chunk_size: int = 1000, chunk_overlap: int = 100
) -> LoadReport:
    """Reads all text under a folder.

    Documents have stable and distinct ids (`notes/a.md#0`, `rows.jsonl:3#0` for line 3, `list.json[2]#0`
    for the third item, or the `_id` or `id` that a JSON object gives; a repeated one becomes
    `rows.jsonl:ID`, `rows.jsonl:ID~2`, …) and the metadata `source` (path relative to the folder),
    `title` and `chunk` (0, 1, …); other fields of a JSON object are kept as metadata. JSON objects with
    an id are passages already and stay whole, their title put before their text.
    Where a `corpus.jsonl` lies (BEIR layout), it is the only file read of its folder.
    Links are never followed. What cannot be read is skipped, logged and reported.

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
    documents: list[Document] = []
    ids = _Ids()
    skipped: list[Skipped] = []
    for file in _files(root, skipped):
        source = file.name if file == root else file.relative_to(root).as_posix()
        for text in _texts(file, source, skipped):
            for document in _chunks(text, source, chunk_size, chunk_overlap):
                document.id = ids.distinct(str(document.id), source)
                documents.append(document)
    for source, reason in skipped:
        _logger.warning("Skipped %s: %s.", source, reason)
    if not documents:
        found = f"; {skipped[0].source}: {skipped[0].reason}" if skipped else ""
        raise InputError(
            f"No readable document in {root}{found}: put .txt, .md, .html, .json or .jsonl files there."
        )
    return LoadReport(documents, skipped)


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
        if clean_text(source) != source:
            skipped.append(Skipped(clean_text(source), "its name is not valid UTF-8; rename it"))
        elif entry.is_symlink():
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
        for row in json_rows(content, source, lines=suffix == ".jsonl"):
            if isinstance(row, BadRow):
                skipped.append(Skipped(*row))
            else:
                yield _Text(*row)
        return
    read = _html_text if suffix in (".html", ".htm") else _plain_text
    text = read(content, file, source)
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


def _plain_text(content: str, file: Path, source: str) -> _Text:
    title = None
    if file.suffix.lower() in (".md", ".markdown"):
        title = re.search(r"^#{1,6}[ \t]+(.+?)[ \t#]*$", content, re.MULTILINE)
    return _Text(source, title.group(1) if title else file.stem, content, None, {})


def _html_text(content: str, file: Path, source: str) -> _Text:
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
    return _Text(source, title or file.stem, "\n".join(line for line in lines if line), None, {})


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
            id=f"{text.place}#{number}",
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
