"""BM25 over the words of texts: postings in arrays, in a few segments that are never changed in place."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from agentprm.forking import ForkSafeLock

__all__ = ["Bm25Index", "Segment"]

_K1, _B = 0.9, 0.4  # Anserini's
_MOST_SEGMENTS = 8

Words = Callable[[str], list[str]]
IntArray = npt.NDArray[np.int32]


class Segment(NamedTuple):
    """Some texts.

    Attributes:
        ids: Their ids.
        vocabulary: Number of each word.
        starts: Where the postings of a word begin; one more than there are words.
        places: Places in `ids`, word after word.
        counts: How often the word is in that text.
        lengths: Words of each text.
        alive: Which texts have not been removed.
        gone: How many removed texts hold a word.
    """

    ids: list[str]
    vocabulary: dict[str, int]
    starts: npt.NDArray[np.int64]
    places: IntArray
    counts: IntArray
    lengths: IntArray
    alive: npt.NDArray[np.bool_]
    gone: Mapping[str, int]

    def postings(self, word: str) -> tuple[IntArray, IntArray]:
        """Places and counts of a word."""
        number = self.vocabulary.get(word)
        span = slice(0, 0) if number is None else slice(self.starts[number], self.starts[number + 1])
        return self.places[span], self.counts[span]


class Bm25Index:
    """Ids of texts by the words in them (k1 = 0.9, b = 0.4; Lucene's form of the formula).

    Args:
        words: Cuts a text into the words that count.
    """

    def __init__(self, words: Words) -> None:
        self._words = words
        # Replaced as a whole by every change, so that a search under way sees one state.
        self._segments: tuple[Segment, ...] = ()
        self._lock = ForkSafeLock()

    @classmethod
    def of(cls, words: Words, segment: Segment) -> Self:
        """Index of texts whose words are known."""
        index = cls(words)
        index._segments = (segment,) if segment.ids else ()
        return index

    def joined(self) -> Segment:
        """Everything in one segment."""
        return _joined(self._segments) if self._segments else _segment([])

    def __len__(self) -> int:
        return sum(int(segment.alive.sum()) for segment in self._segments)

    def add(self, texts: Iterable[tuple[str, str]]) -> None:
        """Takes in texts, given as (id, text), whose ids are new."""
        segment = _segment((name, Counter(self._words(text))) for name, text in texts)
        if not segment.ids:
            return
        with self._lock:
            segments = (*self._segments, segment)
            if len(segments) > _MOST_SEGMENTS:
                # The first is the large one; it is copied only once the others come to a quarter of it.
                rest = sum(len(s.ids) for s in segments[1:])
                first = () if 4 * rest > len(segments[0].ids) else segments[:1]
                segments = (*first, _joined(segments[len(first) :]))
            self._segments = segments

    def remove(self, texts: Iterable[tuple[str, str]]) -> None:
        """Forgets texts that are in the index, given as they were added."""
        gone = dict(texts)
        with self._lock:
            self._segments = tuple(self._without(segment, gone) for segment in self._segments)

    def _without(self, segment: Segment, texts: Mapping[str, str]) -> Segment:
        dead = [place for place, name in enumerate(segment.ids) if name in texts and segment.alive[place]]
        if not dead:
            return segment
        alive = segment.alive.copy()
        alive[dead] = False
        gone = Counter(segment.gone)
        for place in dead:
            gone.update(set(self._words(texts[segment.ids[place]])))
        return segment._replace(alive=alive, gone=gone)

    def frequency(self, word: str) -> int:
        """How many texts hold a word."""
        return _frequency(self._segments, word)

    def best(self, weights: Mapping[str, float], k: int) -> list[tuple[str, float]]:
        """Best `k` ids with scores for weighted words; only texts that hold one of them."""
        segments = self._segments
        size = sum(int(segment.alive.sum()) for segment in segments)
        if not size:
            return []
        total = sum(int(segment.lengths[segment.alive].sum()) for segment in segments)
        mean = max(total / size, 1e-9)
        idf = {}
        for word, weight in weights.items():
            df = _frequency(segments, word) if weight > 0 else 0
            if df:
                idf[word] = weight * float(np.log1p((size - df + 0.5) / (df + 0.5)))
        found: list[tuple[str, float]] = []
        for segment in segments:
            scores = np.zeros(len(segment.ids))
            for word, weight in idf.items():
                places, counts = segment.postings(word)
                norm = _K1 * (1 - _B + _B * segment.lengths[places] / mean)
                scores[places] += weight * counts / (counts + norm)
            scores[~segment.alive] = 0
            matching = np.flatnonzero(scores > 0)
            if len(matching) > k:  # with all that are as good as the last one, so that ties keep their order
                least = np.partition(scores[matching], len(matching) - k)[len(matching) - k]
                matching = matching[scores[matching] >= least]
            order = matching[np.argsort(-scores[matching], kind="stable")][:k]
            found += [(segment.ids[place], float(scores[place])) for place in order]
        found.sort(key=lambda item: -item[1])
        return found[:k]


def _frequency(segments: Sequence[Segment], word: str) -> int:
    return sum(len(segment.postings(word)[0]) - segment.gone.get(word, 0) for segment in segments)


def _segment(texts: Iterable[tuple[str, Mapping[str, int]]]) -> Segment:
    vocabulary: dict[str, int] = {}
    ids: list[str] = []
    numbers, places, counts, lengths = array("i"), array("i"), array("i"), array("i")
    for name, words in texts:
        for word, count in words.items():
            numbers.append(vocabulary.setdefault(word, len(vocabulary)))
            places.append(len(ids))
            counts.append(count)
        lengths.append(sum(words.values()))
        ids.append(name)
    alive = np.ones(len(ids), dtype=np.bool_)
    return _sorted(ids, vocabulary, _ints(numbers), _ints(places), _ints(counts), _ints(lengths), alive)


def _ints(values: array[int]) -> IntArray:
    return np.array(values, dtype=np.int32)


def _sorted(
    ids: list[str],
    vocabulary: dict[str, int],
    numbers: IntArray,
    places: IntArray,
    counts: IntArray,
    lengths: IntArray,
    alive: npt.NDArray[np.bool_],
) -> Segment:
    """Segment of postings in any order."""
    order = np.argsort(numbers, kind="stable")
    starts = np.zeros(len(vocabulary) + 1, dtype=np.int64)
    np.cumsum(np.bincount(numbers, minlength=len(vocabulary)), out=starts[1:])
    return Segment(ids, vocabulary, starts, places[order], counts[order], lengths, alive, {})


def _joined(segments: Sequence[Segment]) -> Segment:
    """One segment of what is alive in several."""
    vocabulary: dict[str, int] = {}
    ids: list[str] = []
    parts: list[tuple[IntArray, IntArray, IntArray]] = []
    for segment in segments:
        own = np.fromiter(
            (vocabulary.setdefault(word, len(vocabulary)) for word in segment.vocabulary),
            dtype=np.int32,
            count=len(segment.vocabulary),
        )
        kept = segment.alive[segment.places]
        moved = np.cumsum(segment.alive, dtype=np.int32) - 1 + len(ids)
        numbers = np.repeat(own, np.diff(segment.starts))
        parts.append((numbers[kept], moved[segment.places[kept]], segment.counts[kept]))
        ids += [name for name, alive in zip(segment.ids, segment.alive, strict=True) if alive]
    numbers, places, counts = (np.concatenate([part[i] for part in parts]) for i in range(3))
    lengths = np.concatenate([segment.lengths[segment.alive] for segment in segments])
    return _sorted(ids, vocabulary, numbers, places, counts, lengths, np.ones(len(ids), dtype=np.bool_))
