"""Parts of a data set that share no question, and sets without near-duplicates."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

from agentprm.errors import ConfigurationError
from agentprm.evaluation.qa import normalize_unicode
from agentprm.text import terms
from agentprm.training.data import Record

__all__ = ["drop_near_duplicates", "split_by_question"]

R = TypeVar("R", bound=Record)


def split_by_question(records: Iterable[R], share: float = 0.1, *, seed: int = 0) -> tuple[list[R], list[R]]:
    """A part to train on, and one to evaluate on, which share no question.

    The question alone decides, so that records of all kinds and later additions to a set fall on the
    same side: a question that was trained on is never evaluated on.

    Args:
        records: Records of any kind.
        share: Share of the questions to evaluate on; the part has about that many.
        seed: Another seed gives another split.

    Returns:
        The records to train on, and those to evaluate on, each in order.
    """
    if not 0 <= share <= 1:
        raise ConfigurationError(f"share must lie in [0, 1], not {share}.")
    parts: tuple[list[R], list[R]] = ([], [])
    for record in records:
        digest = hashlib.sha256(f"{seed}\n{normalize_unicode(record.question)}".encode()).digest()
        parts[int.from_bytes(digest[:8], "big") < share * 2**64].append(record)
    return parts


def drop_near_duplicates(
    records: Sequence[R], against: Iterable[str] = (), *, threshold: float = 0.8
) -> list[R]:
    """The records whose question is like none before it, and like none of `against`.

    Two questions are near-duplicates if the words they share weigh at least `threshold` of all words that
    either has. A word weighs `log(1 + N / n)` where n of the N questions have it, so that questions of one
    pattern about different names are no duplicates.

    Args:
        records: Records of any kind; of near-duplicates the first stays.
        against: Questions that must not be trained on, for instance those of an evaluation set.
        threshold: 1 drops only questions of the same words.
    """
    if not 0 < threshold <= 1:
        raise ConfigurationError(f"threshold must lie in (0, 1], not {threshold}.")
    others = [frozenset(terms(question)) for question in against]
    own = [frozenset(terms(record.question)) for record in records]
    known = Counter(word for question in [*others, *own] for word in question)
    weight = {word: math.log(1 + (len(others) + len(own)) / n) for word, n in known.items()}
    seen = _Seen(weight, threshold)
    for question in others:
        seen.add(question)
    kept = []
    for record, question in zip(records, own, strict=True):
        if not seen.has_like(question):
            seen.add(question)
            kept.append(record)
    return kept


class _Seen:
    """Sets of weighted words, and which of them are like another.

    Two sets that share enough have one of each other's heaviest words in common: what lies behind a set's
    prefix weighs less than `threshold` of it, so that sharing this alone would not do.
    """

    def __init__(self, weight: dict[str, float], threshold: float) -> None:
        self._weight = weight
        self._threshold = threshold
        self._sets: list[frozenset[str]] = []
        self._by_word: dict[str, list[int]] = {}

    def add(self, question: frozenset[str]) -> None:
        for word in self._prefix(question):
            self._by_word.setdefault(word, []).append(len(self._sets))
        self._sets.append(question)

    def has_like(self, question: frozenset[str]) -> bool:
        candidates = {place for word in self._prefix(question) for place in self._by_word.get(word, ())}
        return any(self._alike(question, self._sets[place]) for place in candidates)

    def _alike(self, one: frozenset[str], other: frozenset[str]) -> bool:
        return self._sum(one & other) >= self._threshold * self._sum(one | other) - 1e-9

    def _sum(self, words: frozenset[str]) -> float:
        return sum(self._weight[word] for word in words)

    def _prefix(self, question: frozenset[str]) -> list[str]:
        left = self._sum(question)
        least = self._threshold * left - 1e-9
        prefix = []
        for word in sorted(question, key=lambda word: (-self._weight[word], word)):
            if left < least:
                break
            prefix.append(word)
            left -= self._weight[word]
        return prefix
