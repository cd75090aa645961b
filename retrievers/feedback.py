"""Methods of relevance feedback: new queries from a query and the passages it found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from agentprm.errors import ConfigurationError, InputError
from agentprm.retrievers.selectors import Selection, TopSelector
from agentprm.retrievers.vectors import FloatArray, RankedList, VectorIndex

__all__ = [
    "BridgeFeedback",
    "EncoderFeedback",
    "FeedbackMethod",
    "Merge",
    "TextFeedback",
    "VectorFeedback",
    "average",
    "borda",
    "combine_scores",
    "rocchio",
]


def average(query: npt.ArrayLike, docs: npt.ArrayLike) -> FloatArray:
    """Mean of the query and the feedback passages, all with equal weight (Li et al., arXiv 2108.11044).

    Args:
        query: Query vector (d).
        docs: Vectors of feedback passages (n x d); none leaves the query as it is.

    Returns:
        The new query vector (d), not normalised again.

    Raises:
        InputError: The shapes do not fit.
    """
    q = _vector(query)
    rows = np.vstack([q[None, :], _matrix(docs, len(q))])
    return np.asarray(rows.mean(axis=0, dtype=np.float64), dtype=np.float32)


def rocchio(
    query: npt.ArrayLike,
    positives: npt.ArrayLike,
    negatives: npt.ArrayLike | None = None,
    alpha: float = 0.5,
    beta: float = 0.5,
    gamma: float = 0.0,
    *,
    weights: npt.ArrayLike | None = None,
) -> FloatArray:
    """`alpha · query + beta · mean(positives) - gamma · mean(negatives)` (Rocchio, 1971).

    Args:
        query: Query vector (d).
        positives: Vectors of relevant passages (n x d); none of them leaves the query as it is.
        negatives: Vectors of irrelevant passages (m x d).
        alpha: Weight of the query.
        beta: Weight of the positives' mean.
        gamma: Weight of the negatives' mean.
        weights: A weight of each positive in the mean (n), for instance by rank; equal when `None`.

    Returns:
        The new query vector (d), not normalised again.

    Raises:
        ConfigurationError: A weight is negative or not finite.
        InputError: The shapes do not fit.
    """
    for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
        if not 0 <= value < float("inf"):
            raise ConfigurationError(f"{name} must be a number of at least 0, not {value}.")
    q = _vector(query)
    good = _matrix(positives, len(q))
    bad = _matrix([] if negatives is None else negatives, len(q))
    if not len(good) and not (len(bad) and gamma):
        return q.copy()
    new = (alpha if len(good) else 1.0) * q.astype(np.float64)
    if len(good):
        new += beta * np.average(good, axis=0, weights=_weights(weights, len(good)))
    if len(bad):
        new -= gamma * bad.mean(axis=0, dtype=np.float64)
    return new.astype(np.float32)


def _vector(query: npt.ArrayLike) -> FloatArray:
    q = np.asarray(query, dtype=np.float32)
    if q.ndim != 1:
        raise InputError(f"The query must be one vector (d), not an array of shape {q.shape}.")
    return q


def _matrix(docs: npt.ArrayLike, dimension: int) -> FloatArray:
    matrix = np.asarray(docs, dtype=np.float32)
    if matrix.size == 0:
        return np.empty((0, dimension), dtype=np.float32)
    if matrix.ndim != 2 or matrix.shape[1] != dimension:
        raise InputError(f"Passages of shape {matrix.shape} do not fit a query of {dimension} dimensions.")
    return matrix


def _weights(weights: npt.ArrayLike | None, count: int) -> npt.NDArray[np.float64] | None:
    if weights is None:
        return None
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (count,) or not (values >= 0).all() or not values.sum() > 0:
        raise ConfigurationError(f"weights must be {count} numbers of at least 0, not all 0.")
    return values


Merge = Literal["replace", "keep", "rrf"]
"""How a second list meets the first: take the second, with what only the first has behind it; keep the first
hits and fill up from the second; or fuse the ranks, the first list counting twice. The last is what blind
feedback does by default: it acts within the first hits, and costs no recall further down."""


class FeedbackMethod(Protocol):
    """Makes a second list out of a first one.

    Attributes:
        merge: How its list meets the first one unless the caller says otherwise.
    """

    merge: Merge

    def expand(
        self,
        query: str,
        vector: FloatArray,
        hits: RankedList,
        index: VectorIndex,
        *,
        k: int,
        selection: Selection | None = None,
        filter: Any = None,
    ) -> list[tuple[Document, float]]:
        """Second list of about `k` documents.

        Args:
            query: The query.
            vector: Its vector (d).
            hits: First list, best first.
            index: What to search again.
            k: Documents wanted.
            selection: Which hits to learn from; the method's own choice when `None`.
            filter: Which documents may come back.
        """
        ...


class VectorFeedback:
    """Moves the query's vector towards that of relevant passages and searches again.

    Args:
        method: `rocchio` or `average` (the query and the passages with equal weight).
        alpha: Rocchio's weight of the query.
        beta: Rocchio's weight of the relevant passages' mean.
        gamma: Rocchio's weight of the irrelevant passages' mean.
        iterations: How often to move and search; every further round learns from the latest list's top.
    """

    merge: Merge = "rrf"

    def __init__(
        self,
        method: Literal["rocchio", "average"] = "rocchio",
        *,
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 0.0,
        iterations: int = 1,
    ) -> None:
        if method not in ("rocchio", "average"):
            raise ConfigurationError(f"method must be 'rocchio' or 'average', not {method!r}.")
        if iterations < 1:
            raise ConfigurationError(f"iterations must be at least 1, not {iterations}.")
        rocchio([0.0], [[0.0]], None, alpha, beta, gamma)  # checks the weights
        self._method = method
        self._weights = (alpha, beta, gamma)
        self._iterations = iterations

    def expand(
        self,
        query: str,
        vector: FloatArray,
        hits: RankedList,
        index: VectorIndex,
        *,
        k: int,
        selection: Selection | None = None,
        filter: Any = None,
    ) -> list[tuple[Document, float]]:
        """Second list; see `FeedbackMethod`."""
        found = list(hits)
        moved = vector
        for round_ in range(self._iterations):
            chosen = selection if selection is not None and not round_ else TopSelector().select(query, found)
            good = _vectors(index, found, chosen.positives)
            if self._method == "average":
                moved = average(moved, good)
            else:
                moved = rocchio(moved, good, _vectors(index, found, chosen.negatives), *self._weights)
            found = index.search_vectors(moved[None, :], k, filter)[0]
        return found


def borda(rankings: Sequence[RankedList]) -> list[tuple[Document, float]]:
    """Borda count: a document of rank r among n gets (n - r + 1) / n points from a list (r from 1)."""
    documents: dict[str, Document] = {}
    totals: dict[str, float] = {}
    for ranking in rankings:
        for rank, (document, _) in enumerate(ranking):
            documents.setdefault(str(document.id), document)
            points = (len(ranking) - rank) / len(ranking)
            totals[str(document.id)] = totals.get(str(document.id), 0.0) + points
    return [(documents[i], totals[i]) for i in sorted(totals, key=lambda i: -totals[i])]


def combine_scores(rankings: Sequence[RankedList], how: str) -> list[tuple[Document, float]]:
    """Fuses lists that share one score scale.

    Args:
        rankings: The lists.
        how: `average` (a missing document counts with the lowest score of that list), `max` or `borda`.

    Raises:
        ConfigurationError: There is no such way.
    """
    if how == "borda":
        return borda(rankings)
    if how not in ("average", "max"):
        raise ConfigurationError(f"The aggregation must be 'average', 'max' or 'borda', not {how!r}.")
    documents = {str(d.id): d for ranking in rankings for d, _ in ranking}
    tables = [{str(d.id): score for d, score in ranking} for ranking in rankings if ranking]
    totals: dict[str, float] = {}
    for i in documents:
        if how == "max":
            totals[i] = max(table[i] for table in tables if i in table)
        else:
            totals[i] = sum(table.get(i, min(table.values())) for table in tables) / len(tables)
    return [(documents[i], totals[i]) for i in sorted(totals, key=lambda i: -totals[i])]


class TextFeedback:
    """Embeds the query together with the text of relevant passages and searches again.

    Args:
        variant: `concatenate` (one text, cut), `aggregate` (one text for each passage) or `window`
            (windows over the joined passages); arXiv 2108.11044.
        aggregation: How the lists of several texts are joined: `average`, `max` or `borda`.
        words: Longest text, in words; about 256 tokens of an English text.
        window: Words in a window, half of which the next one shares; MS MARCO's mean passage length.
    """

    merge: Merge = "rrf"

    def __init__(
        self,
        variant: Literal["concatenate", "aggregate", "window"] = "aggregate",
        *,
        aggregation: Literal["average", "max", "borda"] = "borda",
        words: int = 190,
        window: int = 65,
    ) -> None:
        if variant not in ("concatenate", "aggregate", "window"):
            raise ConfigurationError(
                f"variant must be 'concatenate', 'aggregate' or 'window', not {variant!r}."
            )
        if words < 1 or window < 2:
            raise ConfigurationError(f"words must be at least 1 and window 2, not {words} and {window}.")
        combine_scores([], aggregation)  # checks the name
        self._variant = variant
        self._aggregation = aggregation
        self._words = words
        self._window = window

    def expand(
        self,
        query: str,
        vector: FloatArray,
        hits: RankedList,
        index: VectorIndex,
        *,
        k: int,
        selection: Selection | None = None,
        filter: Any = None,
    ) -> list[tuple[Document, float]]:
        """Second list; see `FeedbackMethod`."""
        chosen = selection or TopSelector().select(query, hits)
        texts = self.texts(query, [hits[place][0].page_content for place in chosen.positives])
        if not texts:
            return list(hits)
        vectors = np.vstack([index.embed_query(text) for text in texts])
        return combine_scores(index.search_vectors(vectors, k, filter), self._aggregation)

    def texts(self, query: str, passages: Sequence[str]) -> list[str]:
        """The texts that are embedded."""
        if not passages:
            return []
        if self._variant == "aggregate":
            bodies = [passage.split() for passage in passages]
        else:
            joined = " ".join(passages).split()
            bodies = [joined]
            if self._variant == "window":
                last = max(0, len(joined) - self._window)
                step = self._window // 2
                starts = [*range(0, last, step), last]
                bodies = [joined[start : start + self._window] for start in starts]
        return [" ".join([*query.split(), *body][: self._words]) for body in bodies]


class BridgeFeedback(TextFeedback):
    """One query for each top passage, its text appended: finds second hops where there are no titles.

    The lists share a score scale, so the nearest to any of the queries win. The first list is fused in.
    """

    def __init__(self, *, words: int = 190) -> None:
        super().__init__("aggregate", aggregation="max", words=words)


class EncoderFeedback:
    """Lets a query encoder read the query and the passages, as ANCE-PRF does (arXiv 2108.13454).

    Args:
        encoder: Embeddings of the joined text in the index's vector space; trained for this or not.
        separator: Between the query and the passages.
    """

    merge: Merge = "rrf"

    def __init__(self, encoder: Embeddings, *, separator: str = " [SEP] ") -> None:
        self._encoder = encoder
        self._separator = separator

    def expand(
        self,
        query: str,
        vector: FloatArray,
        hits: RankedList,
        index: VectorIndex,
        *,
        k: int,
        selection: Selection | None = None,
        filter: Any = None,
    ) -> list[tuple[Document, float]]:
        """Second list; see `FeedbackMethod`."""
        chosen = selection or TopSelector().select(query, hits)
        if not chosen.positives:
            return list(hits)
        text = self._separator.join([query, *(hits[place][0].page_content for place in chosen.positives)])
        encoded = np.asarray([self._encoder.embed_query(text)], dtype=np.float32)
        return index.search_vectors(encoded, k, filter)[0]


def _vectors(index: VectorIndex, hits: RankedList, places: Sequence[int]) -> FloatArray:
    return index.vectors_for([str(hits[place][0].id) for place in places])
