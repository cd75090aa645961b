"""Bounded memories of what was computed once, shared by threads: by key, and by prefix of a trajectory."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from agentprm.errors import ConfigurationError
from agentprm.forking import ForkSafeLock

__all__ = ["Memory", "PrefixMemory", "Recall"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memory(Generic[K, V]):
    """Keeps the entries that were used last.

    Args:
        size: Entries that are kept.
        name: What the setting is called where the user makes it, for errors.
    """

    def __init__(self, size: int, name: str = "cache_size") -> None:
        if size < 1:
            raise ConfigurationError(f"{name} must be at least 1, not {size}.")
        self.size = size
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._lock = ForkSafeLock()

    def known(self, keys: Iterable[K]) -> dict[K, V]:
        """Those of the keys that are kept, with their values; they count as used."""
        with self._lock:
            found = {key: self._entries[key] for key in keys if key in self._entries}
            for key in found:
                self._entries.move_to_end(key)
        return found

    def get(self, key: K) -> V | None:
        """The value of one key, if it is kept."""
        return self.known((key,)).get(key)

    def keep(self, entries: Mapping[K, V]) -> None:
        """Takes entries in, the last one as the one used last; what is over `size` goes."""
        with self._lock:
            for key, value in entries.items():
                self._entries[key] = value
                self._entries.move_to_end(key)
            while len(self._entries) > self.size:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)


@dataclass(frozen=True)
class Recall(Generic[V]):
    """What is known of a call's trajectories.

    Attributes:
        keys: A key per step of each trajectory, for the prefix that ends there.
        known: Values by key.
        new: The unknown prefixes, each once: from its key to its place, the numbers of a trajectory and
            of its step.
    """

    keys: list[list[str]]
    known: dict[str, V]
    new: dict[str, tuple[int, int]]

    def new_steps(self) -> list[tuple[int, list[int]]]:
        """The trajectories with unknown prefixes, and the numbers of these steps, ascending."""
        steps: dict[int, list[int]] = {}
        for row, step in self.new.values():
            steps.setdefault(row, []).append(step)
        return list(steps.items())


class PrefixMemory(Generic[V]):
    """A bounded memory of a value per prefix; shared by threads.

    A prefix's key is made of the one before it, so that a trajectory costs time linear in its length.

    Args:
        size: Prefixes that are kept; the least recently used go first.
    """

    def __init__(self, size: int = 10_000) -> None:
        self._values = Memory[str, V](size)

    def recall(self, question: str, rows: Sequence[Sequence[str]], *, whole: bool = False) -> Recall[V]:
        """What is known, and what is not.

        Args:
            question: The question.
            rows: The steps of each trajectory as texts that tell them apart.
            whole: A value belongs to its step in the light of the later ones too.
        """
        keys = [_keys(question, steps) for steps in rows]
        if whole:
            keys = [[f"{row[-1]} {k}" for k in range(len(row))] for row in keys]
        known = self._values.known(key for row in keys for key in row)
        new: dict[str, tuple[int, int]] = {}
        for i, row in enumerate(keys):
            for k, key in enumerate(row):
                if key not in known:
                    new.setdefault(key, (i, k))
        return Recall(keys, known, new)

    def settle(self, recall: Recall[V], found: Iterable[V]) -> list[list[V]]:
        """Remembers the values of `recall.new`, in its order, and gives those of the whole call."""
        known = {**recall.known, **dict(zip(recall.new, found, strict=True))}
        self._values.keep({key: known[key] for row in recall.keys for key in row})
        return [[known[key] for key in row] for row in recall.keys]

    def clear(self) -> None:
        """Forgets everything."""
        self._values.clear()


def _keys(question: str, steps: Sequence[str]) -> list[str]:
    digest, keys = hashlib.sha256(question.encode("utf-8", "surrogatepass")), []
    for step in steps:
        data = step.encode("utf-8", "surrogatepass")
        digest = digest.copy()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
        keys.append(digest.hexdigest())
    return keys
