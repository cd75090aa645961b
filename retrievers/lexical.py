"""BM25 with feedback: RM3 and Rocchio over the words of the first hits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from langchain_core.documents import Document

from agentprm.errors import ConfigurationError, InputError, MissingDependencyError
from agentprm.text import terms as terms_of

__all__ = ["LexicalIndex"]

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
    """BM25 (bm25s, k1 = 0.9, b = 0.4 as in Anserini) over documents in memory.

    Words are compared without accents and in small letters. Languages that put no blanks between words
    are searched by pairs of characters (see `agentprm.text.terms`).

    Args:
        documents: What to index; ids must be set.

    Raises:
        InputError: There are no documents, or one has no id.
        MissingDependencyError: bm25s is not installed.
    """

    def __init__(self, documents: Iterable[Document]) -> None:
        try:
            import bm25s
        except ImportError:
            raise MissingDependencyError.for_extra("bm25s", "lexical") from None
        self._documents = list(documents)
        if not self._documents or not all(d.id for d in self._documents):
            raise InputError("A lexical index needs at least one document, and an id for each.")
        self._counts = [Counter(_words(d.page_content, single=True)) for d in self._documents]
        self._frequency = Counter(word for count in self._counts for word in count)
        self._bm25: Any = bm25s.BM25(k1=0.9, b=0.4)
        self._bm25.index([list(c.elements()) for c in self._counts], show_progress=False)

    def search(self, query: str, k: int = 10) -> list[tuple[Document, float]]:
        """Best `k` documents with BM25 scores; only those that share a word with the query."""
        return self._search(Counter(_words(query)), k)

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

        Raises:
            ConfigurationError: The method is unknown or a number is out of range.
        """
        if method not in ("rm3", "rocchio"):
            raise ConfigurationError(f"method must be 'rm3' or 'rocchio', not {method!r}.")
        if depth < 1 or terms < 1 or not 0 <= query_weight <= 1 or beta < 0:
            raise ConfigurationError("depth and terms must be at least 1, query_weight in [0, 1], beta >= 0.")
        words = Counter(_words(query))
        hits = self._scored(words, depth)
        if not hits:
            return []
        if method == "rm3":
            expanded = self._rm3(words, hits, terms, query_weight)
        else:
            expanded = self._rocchio(words, hits, terms, beta)
        return self._search(expanded, k)

    def _rm3(
        self, words: Mapping[str, float], hits: list[tuple[int, float]], terms: int, query_weight: float
    ) -> dict[str, float]:
        model: dict[str, float] = {}
        for place, score in hits:
            vector = self._vector(place, terms)
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
        self, words: Mapping[str, float], hits: list[tuple[int, float]], terms: int, beta: float
    ) -> dict[str, float]:
        mean: dict[str, float] = {}
        for place, _ in hits:
            for word, weight in _scaled(self._vector(place, None), 2).items():
                mean[word] = mean.get(word, 0.0) + weight / len(hits)
        expansion = _scaled(_heaviest(mean, terms), 2)
        original = _scaled(words, 2)
        return {
            word: original.get(word, 0.0) + beta * expansion.get(word, 0.0)
            for word in {**original, **expansion}
        }

    def _vector(self, place: int, terms: int | None) -> dict[str, float]:
        """Counts of a document's words that may expand a query."""
        most = _COMMON * len(self._documents)
        counts = {
            word: float(count)
            for word, count in self._counts[place].items()
            if "_" not in word and _SHORTEST <= len(word) <= _LONGEST and self._frequency[word] <= most
        }
        return counts if terms is None else _heaviest(counts, terms)

    def _search(self, weights: Mapping[str, float], k: int) -> list[tuple[Document, float]]:
        if k < 1:
            raise ConfigurationError(f"k must be at least 1, not {k}.")
        return [
            (self._documents[place].model_copy(deep=True), score) for place, score in self._scored(weights, k)
        ]

    def _scored(self, weights: Mapping[str, float], k: int) -> list[tuple[int, float]]:
        totals = np.zeros(len(self._documents), dtype=np.float64)
        for word, weight in weights.items():
            if weight > 0 and word in self._frequency:
                totals += weight * self._bm25.get_scores([word])
        places = np.argsort(-totals, kind="stable")[:k]
        return [(int(place), float(totals[place])) for place in places if totals[place] > 0]


def _words(text: str, *, single: bool = False) -> list[str]:
    return [word for word in terms_of(text, single=single) if word not in _STOP]


def _heaviest(weights: Mapping[str, float], count: int) -> dict[str, float]:
    return dict(sorted(weights.items(), key=lambda item: (-item[1], item[0]))[:count])


def _scaled(weights: Mapping[str, float], order: int) -> dict[str, float]:
    """Weights of L1 or L2 norm 1."""
    norm = sum(abs(weight) ** order for weight in weights.values()) ** (1 / order)
    return {word: weight / norm for word, weight in weights.items()} if norm else {}
