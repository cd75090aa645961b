"""What a store keeps of its texts for link feedback and BM25: titles and words, collected at first use."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from langchain_core.documents import Document

from agentprm.errors import IndexCorruptError
from agentprm.forking import ForkSafeLock
from agentprm.retrievers.generations import Generation
from agentprm.retrievers.kept_words import StoredWords, write_words
from agentprm.retrievers.lexical import Bm25Index, text_words
from agentprm.retrievers.mentions import MentionIndex

__all__ = ["KeptMentions"]

_FILE = "mentions.json"


class KeptMentions:
    """A `MentionIndex` and a `Bm25Index` that cost nothing until they are asked for.

    A saved one is mapped when its generation is opened, and read and verified at first use: a reader
    that never follows links reads no title, and the map outlives the file.

    Args:
        generation: Where a saved one may be; `None` for a new store.
    """

    def __init__(self, generation: Generation | None = None) -> None:
        self._index: MentionIndex | None = None
        self._words: Bm25Index | None = None
        self._stored: np.memmap[tuple[int], np.dtype[np.uint8]] | None = None
        self._stored_words: StoredWords | None = None
        self._digest = ""
        self._half_changed = False
        self._lock = ForkSafeLock()
        if generation is not None and _FILE in generation.manifest["files"]:
            path = generation.folder / _FILE
            self._digest = generation.manifest["files"][_FILE]["sha256"]
            try:
                self._stored = np.memmap(path, dtype=np.uint8, mode="r")
            except (OSError, ValueError) as error:
                raise IndexCorruptError(f"{path} cannot be read ({error}); index again.") from None
        if generation is not None and StoredWords.are_in(generation):
            self._stored_words = StoredWords(generation)

    @property
    def kept(self) -> bool:
        """Whether there is anything to keep up to date."""
        return self._has_titles or self._has_words

    @property
    def _has_titles(self) -> bool:
        return self._index is not None or self._stored is not None

    @property
    def _has_words(self) -> bool:
        return self._words is not None or self._stored_words is not None

    def get(self, documents: Callable[[], Iterable[Document]]) -> MentionIndex:
        """The index itself.

        Args:
            documents: Gives all documents of the store, to collect their titles when that was never done.

        Raises:
            IndexCorruptError: The saved one is damaged.
        """
        with self._lock:
            self._forget_half_changed()
            if self._index is None:
                self._index = self._loaded() or MentionIndex.from_documents(documents())
                self._stored = None
            return self._index

    def words(self, documents: Callable[[], Iterable[Document]]) -> Bm25Index:
        """The words of the documents; see `get`."""
        with self._lock:
            self._forget_half_changed()
            if self._words is None:
                if self._stored_words is not None:
                    words = self._stored_words.load()
                else:
                    words = Bm25Index(text_words)
                    words.add(_texts(documents()))
                self._words, self._stored_words = words, None
            return self._words

    def change(self, removed: Iterable[Document], added: Iterable[Document]) -> bool:
        """Keeps both up to date, as far as they are there.

        Returns:
            Whether they are up to date: the caller then confirms that the change counts. Until that they are
            taken for half changed, and collected anew when they are asked for.
        """
        if self._half_changed or not self.kept:
            return False
        removed, added = list(removed), list(added)
        index = self.get(list) if self._has_titles else None
        words = self.words(list) if self._has_words else None
        self._half_changed = True
        if index is not None:
            for document in removed:
                index.remove(document)
            for document in added:
                index.add(document)
        if words is not None:
            words.remove(_texts(removed))
            words.add(_texts(added))
        return True

    def confirm(self) -> None:
        """Says that what the last `change` was told has come to pass."""
        self._half_changed = False

    def write(self, folder: Path, documents: Callable[[], Iterable[Document]]) -> None:
        """Writes the files of a generation, if there is anything to write.

        Args:
            folder: The folder of the generation.
            documents: As for `get`.
        """
        if self._index is not None:
            (folder / _FILE).write_text(self.get(documents).to_json(), encoding="utf-8")
        elif self._stored is not None:
            (folder / _FILE).write_bytes(self._stored.data)
        if self._has_words:
            write_words(self.words(documents), folder)

    def _forget_half_changed(self) -> None:
        if self._half_changed:
            self._index = self._words = None
            self._half_changed = False

    def _loaded(self) -> MentionIndex | None:
        if self._stored is None:
            return None
        data = self._stored.tobytes()
        if hashlib.sha256(data).hexdigest() != self._digest:
            raise IndexCorruptError("The titles of the index are damaged (wrong checksum); index again.")
        try:
            return MentionIndex.from_json(data.decode())
        except ValueError as error:
            raise IndexCorruptError(f"The titles of the index are damaged: {error}") from None


def _texts(documents: Iterable[Document]) -> Iterable[tuple[str, str]]:
    return ((str(document.id), document.page_content) for document in documents)
