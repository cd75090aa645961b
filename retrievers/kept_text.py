"""What a store keeps of its texts for link feedback and BM25: titles and words, collected at first use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from langchain_core.documents import Document

from agentprm.errors import IndexCorruptError
from agentprm.forking import ForkSafeLock
from agentprm.retrievers.files import read_array
from agentprm.retrievers.generations import Generation
from agentprm.retrievers.lexical import Bm25Index, Segment, text_words
from agentprm.retrievers.mentions import MentionIndex

__all__ = ["KeptText", "StoredWords", "write_words"]

# The number changes when texts are cut into other words than before: then they are collected anew.
_LISTS = "words-1.json"
_ARRAYS = {"starts": np.int64, "places": np.int32, "counts": np.int32, "lengths": np.int32}


def write_words(index: Bm25Index, folder: Path) -> None:
    """Writes the words of a store into the folder of a generation."""
    segment = index.joined()
    lists = {"ids": segment.ids, "words": list(segment.vocabulary)}
    (folder / _LISTS).write_text(json.dumps(lists, ensure_ascii=False), encoding="utf-8")
    for name in _ARRAYS:
        np.save(folder / _file(name), getattr(segment, name), allow_pickle=False)


class StoredWords:
    """Words in a generation, mapped when it is opened and read at first use.

    Args:
        generation: The generation, whose sizes have been verified.

    Raises:
        IndexCorruptError: A file is damaged.
    """

    def __init__(self, generation: Generation) -> None:
        generation.require(_LISTS, *map(_file, _ARRAYS))
        self._folder = generation.folder
        self._digest = generation.manifest["files"][_LISTS]["sha256"]
        try:
            self._lists = np.memmap(generation.folder / _LISTS, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise self._corrupt(str(error)) from None
        self._arrays: dict[str, npt.NDArray[Any]] = {
            name: read_array(generation.folder / _file(name), None, np.dtype(kind), mmap=True)
            for name, kind in _ARRAYS.items()
        }

    @staticmethod
    def are_in(generation: Generation) -> bool:
        """Whether a generation has words."""
        return _LISTS in generation.manifest["files"]

    def load(self) -> Bm25Index:
        """The index itself.

        Raises:
            IndexCorruptError: The files contradict each other.
        """
        data = self._lists.tobytes()
        if hashlib.sha256(data).hexdigest() != self._digest:
            raise self._corrupt("wrong checksum")
        try:
            lists = json.loads(data)
            ids, words = ([str(text) for text in lists[name]] for name in ("ids", "words"))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._corrupt(str(error)) from None
        starts, places, counts, lengths = (self._arrays[name] for name in _ARRAYS)
        vocabulary = {word: number for number, word in enumerate(words)}
        fits = (
            len(starts) == len(vocabulary) + 1 == len(words) + 1
            and len(lengths) == len(ids) == len(set(ids))
            and len(places) == len(counts)
            and starts[0] == 0
            and starts[-1] == len(places)
            and not (np.diff(starts) < 0).any()
            and (not len(places) or (places.min() >= 0 and places.max() < len(ids)))
            and (not len(counts) or counts.min() > 0)
            and (not len(lengths) or lengths.min() >= 0)
        )
        if not fits:
            raise self._corrupt("they contradict each other")
        alive = np.ones(len(ids), dtype=np.bool_)
        segment = Segment(ids, vocabulary, starts, places, counts, lengths, alive, {}, {})
        return Bm25Index.of(text_words, segment)

    def _corrupt(self, reason: str) -> IndexCorruptError:
        return IndexCorruptError(f"The words in {self._folder} are damaged ({reason}); index again.")


def _file(name: str) -> str:
    return f"words-{name}.npy"


_FILE = "mentions.json"


class KeptText:
    """A `MentionIndex` and a `Bm25Index` that cost nothing until they are asked for.

    A saved one is mapped when its generation is opened, and read and verified at first use: a reader
    that never follows links reads no title, and the map outlives the file.

    Args:
        generation: Where a saved one may be; `None` for a new store.
    """

    def __init__(self, generation: Generation | None = None) -> None:
        self._titles: MentionIndex | None = None
        self._words: Bm25Index | None = None
        self._stored_titles: np.memmap[tuple[int], np.dtype[np.uint8]] | None = None
        self._stored_words: StoredWords | None = None
        self._digest = ""
        self._half_changed = False
        self._lock = ForkSafeLock()
        if generation is not None and _FILE in generation.manifest["files"]:
            path = generation.folder / _FILE
            self._digest = generation.manifest["files"][_FILE]["sha256"]
            try:
                self._stored_titles = np.memmap(path, dtype=np.uint8, mode="r")
            except (OSError, ValueError) as error:
                raise IndexCorruptError(f"{path} cannot be read ({error}); index again.") from None
        if generation is not None and StoredWords.are_in(generation):
            self._stored_words = StoredWords(generation)

    @property
    def in_use(self) -> bool:
        """Whether there is anything to keep up to date."""
        return self._has_titles or self._has_words

    @property
    def _has_titles(self) -> bool:
        return self._titles is not None or self._stored_titles is not None

    @property
    def _has_words(self) -> bool:
        return self._words is not None or self._stored_words is not None

    def titles(self, documents: Callable[[], Iterable[Document]]) -> MentionIndex:
        """The titles of the documents.

        Args:
            documents: Gives all documents of the store, to collect their titles when that was never done.

        Raises:
            IndexCorruptError: The saved one is damaged.
        """
        with self._lock:
            self._forget_half_changed()
            if self._titles is None:
                # One without any title is empty, but knows how often words occur.
                loaded = self._loaded()
                self._titles = MentionIndex.from_documents(documents()) if loaded is None else loaded
                self._stored_titles = None
            return self._titles

    def words(self, documents: Callable[[], Iterable[Document]]) -> Bm25Index:
        """The words of the documents; see `titles`."""
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
        if self._half_changed or not self.in_use:
            return False
        removed, added = list(removed), list(added)
        index = self.titles(list) if self._has_titles else None
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
            documents: As for `titles`.
        """
        if self._titles is not None:
            (folder / _FILE).write_text(self.titles(documents).to_json(), encoding="utf-8")
        elif self._stored_titles is not None:
            (folder / _FILE).write_bytes(self._stored_titles.data)
        if self._has_words:
            write_words(self.words(documents), folder)

    def _forget_half_changed(self) -> None:
        if self._half_changed:
            self._titles = self._words = None
            self._half_changed = False

    def _loaded(self) -> MentionIndex | None:
        if self._stored_titles is None:
            return None
        data = self._stored_titles.tobytes()
        if hashlib.sha256(data).hexdigest() != self._digest:
            raise IndexCorruptError("The titles of the index are damaged (wrong checksum); index again.")
        try:
            return MentionIndex.from_json(data.decode())
        except ValueError as error:
            raise IndexCorruptError(f"The titles of the index are damaged: {error}") from None


def _texts(documents: Iterable[Document]) -> Iterable[tuple[str, str]]:
    return ((str(document.id), document.page_content) for document in documents)
