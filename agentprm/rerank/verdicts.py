"""What comparators have said: a bounded memory that calls and rerankers share."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

from agentprm.errors import ConfigurationError

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
        if size < 1:
            raise ConfigurationError(f"size must be at least 1, not {size}.")
        self.size = size
        self.hits = self.misses = 0
        self._verdicts: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, fingerprint: str, query: str, first: str, second: str) -> float | None:
        """Probability that `first` is better than `second`, if it is known."""
        key, turned = _key(fingerprint, query, first, second)
        with self._lock:
            p = self._verdicts.get(key)
            if p is None:
                self.misses += 1
                return None
            self.hits += 1
            self._verdicts.move_to_end(key)
        return 1 - p if turned else p

    def put(self, fingerprint: str, query: str, first: str, second: str, p: float) -> None:
        """Remembers that `first` is better than `second` with probability `p`."""
        key, turned = _key(fingerprint, query, first, second)
        with self._lock:
            self._verdicts[key] = 1 - p if turned else p
            self._verdicts.move_to_end(key)
            while len(self._verdicts) > self.size:
                self._verdicts.popitem(last=False)

    def __len__(self) -> int:
        return len(self._verdicts)

    def clear(self) -> None:
        """Forgets everything, the counts included."""
        with self._lock:
            self._verdicts.clear()
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
