"""BM25 search of documents, with feedback: RM3 and Rocchio over the words of the first hits.

Postings lie in arrays, in a few segments that are never changed in place.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from langchain_core.documents import Document

from agentprm.errors import ConfigurationError, InputError
from agentprm.forking import ForkSafeLock
from agentprm.retrievers.filters import Filter, compile_filter
from agentprm.text import terms as terms_of

__all__ = ["Bm25Index", "LexicalIndex", "Segment", "text_words"]

_K1, _B = 0.9, 0.4  # Anserini's
_MOST_SEGMENTS = 8

Words = Callable[[str], list[str]]
Int32Array = npt.NDArray[np.int32]


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
        numbers: Place of each id, filled when the first text is removed.
    """

    ids: list[str]
    vocabulary: dict[str, int]
    starts: npt.NDArray[np.int64]
    places: Int32Array
    counts: Int32Array
    lengths: Int32Array
    alive: npt.NDArray[np.bool_]
    gone: Mapping[str, int]
    numbers: dict[str, int]

    def postings(self, word: str) -> tuple[Int32Array, Int32Array]:
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
        numbers = segment.numbers
        if len(numbers) < len(segment.ids):
            numbers.update(zip(segment.ids, range(len(segment.ids)), strict=True))
        dead = [numbers[name] for name in texts if name in numbers and segment.alive[numbers[name]]]
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


def _ints(values: array[int]) -> Int32Array:
    return np.array(values, dtype=np.int32)


def _sorted(
    ids: list[str],
    vocabulary: dict[str, int],
    numbers: Int32Array,
    places: Int32Array,
    counts: Int32Array,
    lengths: Int32Array,
    alive: npt.NDArray[np.bool_],
) -> Segment:
    """Segment of postings in any order."""
    order = np.argsort(numbers, kind="stable")
    starts = np.zeros(len(vocabulary) + 1, dtype=np.int64)
    np.cumsum(np.bincount(numbers, minlength=len(vocabulary)), out=starts[1:])
    return Segment(ids, vocabulary, starts, places[order], counts[order], lengths, alive, {}, {})


def _joined(segments: Sequence[Segment]) -> Segment:
    """One segment of what is alive in several."""
    vocabulary: dict[str, int] = {}
    ids: list[str] = []
    parts: list[tuple[Int32Array, Int32Array, Int32Array]] = []
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


# English function words that carry no topic (the list of Lucene's StandardAnalyzer).
_STOP_LIST = """
a an and are as at be but by for if in into is it no not of on or such that the their then there
these they this to was will with
"""
_STOP = frozenset(_STOP_LIST.split())
# Anserini's limits on the length of expansion terms.
_SHORTEST, _LONGEST = 2, 20
_COMMON = 0.1


class LexicalIndex:
    """BM25 (k1 = 0.9, b = 0.4 as in Anserini) over documents; `FaissStore.lexical` is that of a store.

    Words are compared without accents and in small letters. Languages that put no blanks between words
    are searched by pairs of characters (see `agentprm.text.terms`).

    Args:
        documents: What to index; ids must be set.

    Raises:
        InputError: There are no documents, or one has no id.
    """

    def __init__(self, documents: Iterable[Document]) -> None:
        by_id = {str(d.id): d for d in documents if d.id}
        rows = list(documents) if isinstance(documents, Sequence) else list(by_id.values())
        if not rows or len(rows) != len(by_id):
            raise InputError("A lexical index needs at least one document, and a distinct id for each.")
        self._bm25 = Bm25Index(text_words)
        self._bm25.add((i, d.page_content) for i, d in by_id.items())
        self._get: Callable[[list[str]], list[Document]] = lambda ids: [
            by_id[i].model_copy(deep=True) for i in ids
        ]

    @classmethod
    def over(cls, bm25: Bm25Index, get_by_ids: Callable[[list[str]], list[Document]]) -> Self:
        """Index of words that somebody else keeps, with the documents of a store.

        Args:
            bm25: The words, cut by `text_words`.
            get_by_ids: Gives the documents of the ids that exist, in order.
        """
        index = cls.__new__(cls)
        index._bm25, index._get = bm25, get_by_ids
        return index

    def search(self, query: str, k: int = 10, filter: Filter = None) -> list[tuple[Document, float]]:
        """Best `k` documents with BM25 scores; only those that share a word with the query.

        Args:
            query: The query.
            k: Documents wanted.
            filter: Which documents may come back; see `compile_filter`.
        """
        return self._search(Counter(_query_words(query)), k, filter)

    def search_with_feedback(
        self,
        query: str,
        k: int = 10,
        method: Literal["rm3", "rocchio"] = "rm3",
        *,
        depth: int = 10,
        terms: int = 10,
        query_weight: float = 0.5,
        beta: float = 0.75,
        filter: Filter = None,
    ) -> list[tuple[Document, float]]:
        """Searches, adds the weightiest words of the first hits to the query, and searches again.

        Args:
            query: The query.
            k: Documents wanted.
            method: `rm3` (relevance model, interpolated) or `rocchio`. Defaults are Anserini's.
            depth: Hits to learn from.
            terms: Words that are kept.
            query_weight: RM3's weight of the original query.
            beta: Rocchio's weight of the hits, the query having 1.
            filter: Which documents may come back, and be learned from.

        Raises:
            ConfigurationError: The method is unknown or a number is out of range.
        """
        if method not in ("rm3", "rocchio"):
            raise ConfigurationError(f"method must be 'rm3' or 'rocchio', not {method!r}.")
        if depth < 1 or terms < 1 or not 0 <= query_weight <= 1 or beta < 0:
            raise ConfigurationError("depth and terms must be at least 1, query_weight in [0, 1], beta >= 0.")
        words = Counter(_query_words(query))
        hits = self._search(words, depth, filter)
        if not hits:
            return []
        if method == "rm3":
            expanded = self._rm3(words, hits, terms, query_weight)
        else:
            expanded = self._rocchio(words, hits, terms, beta)
        return self._search(expanded, k, filter)

    def _rm3(
        self, words: Mapping[str, float], hits: list[tuple[Document, float]], terms: int, query_weight: float
    ) -> dict[str, float]:
        model: dict[str, float] = {}
        for document, score in hits:
            vector = self._vector(document, terms)
            total = sum(vector.values())
            for word, count in vector.items():
                model[word] = model.get(word, 0.0) + score * count / total
        expansion = _scaled(_heaviest(model, terms), 1)
        original = _scaled(words, 1)
        return {
            word: query_weight * original.get(word, 0.0) + (1 - query_weight) * expansion.get(word, 0.0)
            for word in {**original, **expansion}
        }

    def _rocchio(
        self, words: Mapping[str, float], hits: list[tuple[Document, float]], terms: int, beta: float
    ) -> dict[str, float]:
        mean: dict[str, float] = {}
        for document, _ in hits:
            for word, weight in _scaled(self._vector(document, None), 2).items():
                mean[word] = mean.get(word, 0.0) + weight / len(hits)
        expansion = _scaled(_heaviest(mean, terms), 2)
        original = _scaled(words, 2)
        return {
            word: original.get(word, 0.0) + beta * expansion.get(word, 0.0)
            for word in {**original, **expansion}
        }

    def _vector(self, document: Document, terms: int | None) -> dict[str, float]:
        """Counts of a document's words that may expand a query."""
        most = _COMMON * len(self._bm25)
        counts = {
            word: float(count)
            for word, count in Counter(text_words(document.page_content)).items()
            if "_" not in word and _SHORTEST <= len(word) <= _LONGEST and self._bm25.frequency(word) <= most
        }
        return counts if terms is None else _heaviest(counts, terms)

    def _search(self, weights: Mapping[str, float], k: int, filter: Filter) -> list[tuple[Document, float]]:
        if k < 1:
            raise ConfigurationError(f"k must be at least 1, not {k}.")
        allowed = None if filter is None else compile_filter(filter)
        seen: set[str] = set()
        found: list[tuple[Document, float]] = []
        size = k if allowed is None else 4 * k
        while True:
            scores = dict(self._bm25.best(weights, size))
            fresh = [i for i in scores if i not in seen]
            found += [(d, scores[str(d.id)]) for d in self._get(fresh) if allowed is None or allowed(d)]
            if len(found) >= k or len(scores) < size:
                return found[:k]
            seen.update(fresh)
            size *= 4


def text_words(text: str) -> list[str]:
    """Words of a text that carry a topic, as they are indexed."""
    return [word for word in terms_of(text, single=True) if word not in _STOP]


def _query_words(text: str) -> list[str]:
    return [word for word in terms_of(text) if word not in _STOP]


def _heaviest(weights: Mapping[str, float], count: int) -> dict[str, float]:
    return dict(sorted(weights.items(), key=lambda item: (-item[1], item[0]))[:count])


def _scaled(weights: Mapping[str, float], order: int) -> dict[str, float]:
    """Weights of L1 or L2 norm 1."""
    norm = sum(abs(weight) ** order for weight in weights.values()) ** (1 / order)
    return {word: weight / norm for word, weight in weights.items()} if norm else {}
