"""The words of a store's texts on disk: arrays that are mapped, and a list of ids and words."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agentprm.errors import IndexCorruptError
from agentprm.retrievers.files import read_array
from agentprm.retrievers.generations import Generation
from agentprm.retrievers.lexical import Bm25Index, Segment, text_words

__all__ = ["StoredWords", "write_words"]

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
        return Bm25Index.of(text_words, Segment(ids, vocabulary, starts, places, counts, lengths, alive, {}))

    def _corrupt(self, reason: str) -> IndexCorruptError:
        return IndexCorruptError(f"The words in {self._folder} are damaged ({reason}); index again.")


def _file(name: str) -> str:
    return f"words-{name}.npy"
