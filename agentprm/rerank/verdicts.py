"""What comparators have said: a bounded memory that calls and rerankers share."""

from __future__ import annotations

import hashlib

from agentprm.forking import ForkSafeLock
from agentprm.rewards.base import Memory

__all__ = ["VERDICTS", "VerdictCache"]


class VerdictCache:
    """Verdicts by comparator (model, prompt, policy), query and unordered pair of passages.

    Passages count by what the comparator sees of them, not by their ids: a document that changes under
    its id is judged anew, and the same text in two indexes is not. Unusable answers are not kept. Safe
    to use from several threads.

    Args:
        size: Verdicts that are kept, about 200 bytes each; the least recently used go first.

    Attributes:
        hits: Questions that were answered from memory.
        misses: Questions that were not.
    """

    def __init__(self, size: int = 100_000) -> None:
        self.hits = self.misses = 0
        self._verdicts = Memory[bytes, float](size, "size")
        self._lock = ForkSafeLock()

    def get(self, fingerprint: str, query: str, first: str, second: str) -> float | None:
        """Probability that `first` is better than `second`, if it is known."""
        key, turned = _key(fingerprint, query, first, second)
        p = self._verdicts.get(key)
        with self._lock:
            if p is None:
                self.misses += 1
                return None
            self.hits += 1
        return 1 - p if turned else p

    def put(self, fingerprint: str, query: str, first: str, second: str, p: float) -> None:
        """Remembers that `first` is better than `second` with probability `p`."""
        key, turned = _key(fingerprint, query, first, second)
        self._verdicts.keep({key: 1 - p if turned else p})

    def __len__(self) -> int:
        return len(self._verdicts)

    def clear(self) -> None:
        """Forgets everything, the counts included."""
        self._verdicts.clear()
        with self._lock:
            self.hits = self.misses = 0


def _key(fingerprint: str, query: str, first: str, second: str) -> tuple[bytes, bool]:
    """The key of an unordered pair, and whether the pair was turned for it."""
    turned = second < first
    digest = hashlib.sha256()
    for text in (fingerprint, query, *((second, first) if turned else (first, second))):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.digest(), turned


VERDICTS = VerdictCache()
"""The cache that rerankers share unless they are given one of their own."""
