"""BM25 search of documents, with feedback: RM3 and Rocchio over the words of the first hits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, Self

from langchain_core.documents import Document

from agentprm.errors import ConfigurationError, InputError
from agentprm.retrievers.bm25 import Bm25Index
from agentprm.retrievers.filters import Filter, compile_filter
from agentprm.text import terms as terms_of

__all__ = ["LexicalIndex", "text_words"]

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
        allowed = compile_filter(filter)
        seen: set[str] = set()
        found: list[tuple[Document, float]] = []
        size = k if filter is None else 4 * k
        while True:
            scores = dict(self._bm25.best(weights, size))
            fresh = [i for i in scores if i not in seen]
            found += [(d, scores[str(d.id)]) for d in self._get(fresh) if allowed(d)]
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
