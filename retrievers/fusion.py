"""Puts ranked lists together: reciprocal ranks, weighted scores, Borda counts."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document

from agentprm.errors import ConfigurationError

__all__ = ["RankedList", "borda", "combine_scores", "reciprocal_ranks", "rrf", "weighted"]

RankedList = Sequence[tuple[Document, float]]
"""Documents with scores, best first. Their ids tell them apart."""

_RRF_K = 60  # Cormack et al., SIGIR 2009


def rrf(
    rankings: Sequence[RankedList], weights: Sequence[float] | None = None
) -> list[tuple[Document, float]]:
    """Reciprocal rank fusion: the sum of weight / (60 + rank) over the lists.

    Args:
        rankings: The lists.
        weights: One for each list; 1 when `None`.
    """
    totals = [
        reciprocal_ranks(len(ranking), weight)
        for ranking, weight in zip(rankings, _weights(rankings, weights), strict=True)
    ]
    return _summed(rankings, totals)


def reciprocal_ranks(count: int, weight: float = 1.0) -> list[float]:
    """What each place of a list, best first, counts in reciprocal rank fusion."""
    return [weight / (_RRF_K + rank) for rank in range(1, count + 1)]


def weighted(
    rankings: Sequence[RankedList], weights: Sequence[float] | None = None
) -> list[tuple[Document, float]]:
    """Weighted sum of scores that are scaled to [0, 1] within each list; a missing document scores 0."""
    totals = []
    for ranking, weight in zip(rankings, _weights(rankings, weights), strict=True):
        scores = [score for _, score in ranking]
        low, high = min(scores, default=0.0), max(scores, default=0.0)
        totals.append([weight * ((s - low) / (high - low) if high > low else 1.0) for s in scores])
    return _summed(rankings, totals)


def borda(rankings: Sequence[RankedList]) -> list[tuple[Document, float]]:
    """Borda count: a document of rank r among n gets (n - r + 1) / n points from a list (r from 1)."""
    totals = [[(len(r) - rank) / len(r) for rank in range(len(r))] for r in rankings]
    return _summed(rankings, totals)


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


def _weights(rankings: Sequence[RankedList], weights: Sequence[float] | None) -> Sequence[float]:
    if weights is None:
        return [1.0] * len(rankings)
    if len(weights) != len(rankings) or min(weights, default=0.0) < 0:
        raise ConfigurationError(f"There must be {len(rankings)} weights of at least 0, not {weights}.")
    return weights


def _summed(
    rankings: Sequence[RankedList], points: Sequence[Sequence[float]]
) -> list[tuple[Document, float]]:
    documents: dict[str, Document] = {}
    totals: dict[str, float] = {}
    for ranking, values in zip(rankings, points, strict=True):
        for (document, _), value in zip(ranking, values, strict=True):
            documents.setdefault(str(document.id), document)
            totals[str(document.id)] = totals.get(str(document.id), 0.0) + value
    return [(documents[i], totals[i]) for i in sorted(totals, key=lambda i: -totals[i])]
