"""Documents of a store: a read-only SQLite file, with additions and deletions on top."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from langchain_core.documents import Document

from agentprm.documents import plain
from agentprm.errors import IndexCorruptError, InputError
from agentprm.forking import ForkSafeLock
from agentprm.retrievers.files import storage_errors
from agentprm.text import clean_text

__all__ = ["DocumentTable", "StoredDocument", "TableChange", "make_record"]

_CHUNK = 500
_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode  # `plain` has checked
_MOST_STATED = 2**31 - 1
_SCHEMA = (
    "CREATE TABLE documents (key INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, text TEXT, metadata TEXT)"
)


class StoredDocument(NamedTuple):
    """A stored document: its id, its text and its metadata as JSON."""

    id: str
    text: str
    metadata: str

    def document(self) -> Document:
        """A fresh `Document`, so that callers cannot change each other's.

        Raises:
            IndexCorruptError: The metadata is not JSON of a dictionary.
        """
        return Document(id=self.id, page_content=self.text, metadata=_metadata(self.metadata, self.id))


def make_record(name: str, text: str, metadata: Mapping[str, Any] | None) -> StoredDocument:
    """The record of a document, whose text is cleaned and whose metadata is made plain; `None` is empty.

    Raises:
        InputError: The id is no valid Unicode, the text is no string, or the metadata cannot be stored; the
            message names the document, and the key.
    """
    if clean_text(name) != name:  # cleaned, two ids could become one
        raise InputError(f"The id {name!r} is not valid Unicode; use another one.")
    if not isinstance(text, str):
        raise InputError(f"The text of document {name!r} is a {type(text).__name__} and not a string.")
    if metadata is not None and not isinstance(metadata, Mapping):
        kind = type(metadata).__name__
        raise InputError(f"The metadata of document {name!r} is a {kind} and not a dictionary.")
    values = plain(metadata or {}, f"The metadata of document {name!r}", json_only=True)
    return StoredDocument(name, clean_text(text), _encode(values))


class TableChange(NamedTuple):
    """What is taken out of a table and put into it; in effect twice it is the same as once.

    Attributes:
        dropped: Keys in the table's file.
        removed: Keys on top of it, with their ids.
        added: Records by their new keys.
    """

    dropped: list[int]
    removed: dict[int, str]
    added: dict[int, StoredDocument]


class DocumentTable:
    """Documents by key (a number that the store gives) and by id.

    Args:
        path: SQLite file that `write` made, opened read-only, or `None` for an empty table.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = ForkSafeLock()
        self._base: sqlite3.Connection | None = None
        self._base_size = 0
        self._records: dict[int, StoredDocument] = {}
        self._keys: dict[str, int] = {}
        self._removed: set[int] = set()
        if path is not None:
            try:
                self._base = sqlite3.connect(
                    f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
                )
            except sqlite3.Error as error:
                raise _corrupt(path, error) from None
            self._query("PRAGMA trusted_schema = OFF")
            # A view in place of the table could run for ever.
            if self._query("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL") != [(_SCHEMA,)]:
                raise _corrupt(path, "its tables are not those of an index")
            stated = self._query("PRAGMA user_version")[0][0]  # counting would read a whole index
            known = 0 < stated < _MOST_STATED
            self._base_size = stated if known else self._query("SELECT count(*) FROM documents")[0][0]

    def __len__(self) -> int:
        return self._base_size - len(self._removed) + len(self._records)

    def keys_of(self, ids: Sequence[str]) -> list[int | None]:
        """Key of each id, `None` where there is no such document."""
        found = {name: self._keys[name] for name in ids if name in self._keys}
        if self._base is not None:
            others = [name for name in dict.fromkeys(ids) if name not in found]
            rows = self._select("SELECT key, id FROM documents WHERE id IN", others)
            found |= {name: key for key, name in rows if key not in self._removed}
        return [found.get(name) for name in ids]

    def get(self, keys: Iterable[int]) -> dict[int, Document]:
        """Documents of the keys that exist."""
        wanted = list(dict.fromkeys(keys))
        found = {key: self._records[key].document() for key in wanted if key in self._records}
        missing = [key for key in wanted if key not in found and key not in self._removed]
        for key, *rest in self._select("SELECT key, id, text, metadata FROM documents WHERE key IN", missing):
            found[key] = self._record(*rest).document()
        return found

    def plan(self, removed: Iterable[int], added: dict[int, StoredDocument]) -> TableChange:
        """The change that removes documents by key and adds others under new keys; nothing happens yet."""
        dropped: list[int] = []
        on_top: dict[int, str] = {}
        for key in removed:
            if key in self._records:
                on_top[key] = self._records[key].id
            else:
                dropped.append(key)
        return TableChange(dropped, on_top, added)

    def apply(self, change: TableChange) -> None:
        """Puts a change into effect, or finishes one that was interrupted."""
        self._removed.update(change.dropped)
        for key, name in change.removed.items():
            self._records.pop(key, None)
            if self._keys.get(name) == key:
                del self._keys[name]
        self._records.update(change.added)
        self._keys.update({record.id: key for key, record in change.added.items()})

    def records(self) -> Iterator[tuple[int, StoredDocument]]:
        """All documents with their keys, in the order in which they were added."""
        last = -1
        while self._base is not None:
            rows = self._query(
                "SELECT key, id, text, metadata FROM documents WHERE key > ? ORDER BY key LIMIT ?",
                (last, _CHUNK),
            )
            for key, *rest in rows:
                if key not in self._removed:
                    yield key, self._record(*rest)
            if len(rows) < _CHUNK:
                break
            last = rows[-1][0]
        yield from sorted(self._records.items())

    def metadata(self, first: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """Metadata of the documents with keys from `first` on, in no particular order; reads no texts."""
        if self._base is not None:
            for key, metadata in self._query("SELECT key, metadata FROM documents WHERE key >= ?", (first,)):
                if key not in self._removed:
                    yield key, _metadata(metadata, key)
        for key, record in reversed(self._records.items()):  # their keys ascend
            if key < first:
                break
            yield key, _metadata(record.metadata, record.id)

    def write(self, path: Path) -> None:
        """Writes all documents to a new SQLite file."""
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            if self._base is None:
                connection.execute(_SCHEMA)
            else:
                with self._lock:
                    self._base.backup(connection)
            connection.executemany("DELETE FROM documents WHERE key = ?", ((k,) for k in self._removed))
            connection.executemany(
                "INSERT INTO documents VALUES (?, ?, ?, ?)",
                ((key, name, text, data) for key, (name, text, data) in self._records.items()),
            )
            connection.execute(f"PRAGMA user_version = {min(len(self), _MOST_STATED)}")
            connection.commit()

    def close(self) -> None:
        """Closes the file."""
        if self._base is not None:
            self._base.close()

    def _select(self, head: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        if self._base is None:
            return
        for start in range(0, len(values), _CHUNK):
            chunk = values[start : start + _CHUNK]
            yield from self._query(f"{head} ({','.join('?' * len(chunk))})", chunk)

    def _record(self, *values: Any) -> StoredDocument:
        if not all(isinstance(value, str) for value in values):
            raise _corrupt(self._path, f"document {values[0]!r} lacks its text or metadata")
        return StoredDocument(*values)

    def _query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        assert self._base is not None
        assert self._path is not None
        try:
            with self._lock, storage_errors(self._path, "The index may be whole."):
                return self._base.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise _corrupt(self._path, error) from None


def _metadata(text: Any, name: Any) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise IndexCorruptError(
            f"The metadata of document {name!r} cannot be read; restore a copy or index again."
        )
    return value


def _corrupt(path: Path | None, reason: object) -> IndexCorruptError:
    return IndexCorruptError(
        f"The documents in {path} cannot be read ({reason}); restore a copy or index again."
    )
