"""Reads a folder of files into documents, in the BEIR layout as well."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from agentprm.errors import ConfigurationError, InputError
from agentprm.retrievers.embeddings import token_measure
from agentprm.retrievers.formats import SUFFIXES, read_file
from agentprm.retrievers.generations import current_pointer
from agentprm.retrievers.json_rows import BadRow, JsonPassage
from agentprm.retrievers.splitting import Measure, split_text
from agentprm.text import clean_text

__all__ = ["LoadReport", "Skipped", "load_folder"]

_logger = logging.getLogger(__name__)

_ENDINGS = ", ".join(SUFFIXES)
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
    path: str | os.PathLike[str],
    *,
    chunk_size: int = 1000,
    chunk_overlap: int = 100,
    embeddings: Embeddings | None = None,
) -> LoadReport:
    """Reads all text under a folder: text, Markdown, HTML, JSON, CSV, PDF and Word files.

    Documents have stable and distinct ids (`notes/a.md#0`, `rows.jsonl:3#0` for line 3 or `paper.pdf:3#0`
    for page 3, `list.json[2]#0` for the third item, or the `_id` or `id` that a JSON object or a line of CSV
    gives; a repeated one becomes `rows.jsonl:ID`, `rows.jsonl:ID~2`, …) and the metadata `source` (path
    relative to the folder), `title` and `chunk` (0, 1, …); other fields of a JSON object are kept as
    metadata. JSON objects with an id are passages already and stay whole, their title put before their
    text. Where a `corpus.jsonl` lies (BEIR layout), it is the only file read of its folder.
    Links are never followed, and an index inside the folder is left out. What cannot be
    read is skipped, logged and reported.

    Args:
        path: The folder, or one file.
        chunk_size: Longest chunk, in characters.
        chunk_overlap: Characters that neighbouring chunks share at most.
        embeddings: The model that will embed the documents. If it tells how many tokens it reads, chunks are
            no longer than that, and passages that are kept whole all the same are reported as skipped in
            part; without it, a model cuts what is too long for it and says nothing.

    Raises:
        ConfigurationError: The sizes are not sensible.
        InputError: The path does not exist or is an index, or no document could be read.
    """
    if chunk_size < 1 or not 0 <= chunk_overlap < chunk_size:
        raise ConfigurationError(
            f"chunk_size must be positive and chunk_overlap smaller, not {chunk_size} and {chunk_overlap}."
        )
    root = Path(path)
    if not root.exists():
        raise InputError(f"There is no file or folder {root}: check the path.")
    measure = token_measure(embeddings) if embeddings is not None else None
    documents: list[Document] = []
    ids = _Ids()
    skipped: list[Skipped] = []
    too_long: list[Skipped] = []
    for file in _files(root, skipped):
        source = file.name if file == root else file.relative_to(root).as_posix()
        found: list[Document] = []
        for row in read_file(file, source):
            if isinstance(row, BadRow):
                skipped.append(Skipped(*row))
                continue
            for document in _chunks(row, source, chunk_size, chunk_overlap, measure):
                document.id = ids.distinct(str(document.id), source)
                found.append(document)
        if measure is not None and (reason := _cut_short(found, measure)):
            too_long.append(Skipped(source, reason))
        documents += found
    skipped[:0] = too_long  # one line for each file, and easily overlooked behind many others
    for source, reason in skipped:
        _logger.warning("Skipped %s: %s.", source, reason)
    if not documents and current_pointer(root) is not None:
        raise InputError(f"{root} is an index: give the folder of the documents that it was made of.")
    if not documents:
        why = f"; {skipped[0].source}: {skipped[0].reason}" if skipped else ""
        raise InputError(f"No readable document in {root}{why}. Put files there that end in {_ENDINGS}.")
    return LoadReport(documents, skipped)


def _files(root: Path, skipped: list[Skipped]) -> Iterator[Path]:
    """Files to read, in the order of their paths."""
    if root.is_file():
        if root.suffix.lower() in SUFFIXES:
            yield root
        else:
            skipped.append(Skipped(root.name, f"not one of {_ENDINGS}"))
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
        elif current_pointer(entry) is not None:
            skipped.append(Skipped(source, "an index, whose documents lie elsewhere"))
        elif entry.is_dir():
            try:
                inner = sorted(entry.iterdir())
            except OSError as error:
                skipped.append(Skipped(source, f"cannot be read ({error.strerror})"))
                continue
            yield from _walk(inner, root, skipped)
        elif corpus and entry.name != _BEIR:
            skipped.append(Skipped(source, f"only {_BEIR} is read of a folder that holds one"))
        elif entry.suffix.lower() not in SUFFIXES:
            skipped.append(Skipped(source, f"not one of {_ENDINGS}"))
        elif not entry.is_file():
            skipped.append(Skipped(source, "not a regular file"))
        else:
            yield entry


def _chunks(
    row: JsonPassage, source: str, size: int, overlap: int, measure: Measure | None
) -> Iterator[Document]:
    if row.id is not None:
        content = f"{row.title}\n{row.text}" if row.title else row.text
        yield Document(
            id=row.id,
            page_content=content,
            metadata={**row.metadata, "source": source, "title": row.title, "chunk": 0},
        )
        return
    markdown = source.lower().endswith((".md", ".markdown"))
    parts = split_text(row.text, size, overlap, markdown=markdown, measure=measure)
    for number, part in enumerate(parts):
        yield Document(
            id=f"{row.place}#{number}",
            page_content=part,
            metadata={**row.metadata, "source": source, "title": row.title, "chunk": number},
        )


def _cut_short(documents: list[Document], measure: Measure) -> str:
    """What to say of documents that are longer than the embedding model reads; empty if there are none."""
    counts = measure.counts(document.page_content for document in documents)
    long = [count for count in counts if count > measure.limit]
    if not long:
        return ""
    return (
        f"{len(long)} of {len(documents)} passages are longer than the {measure.limit} tokens that the "
        f"embedding model reads (up to {max(long)}): their ends are indexed for search by words only"
    )
