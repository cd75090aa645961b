"""A bounded memory of what was computed once, shared by threads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from typing import Generic, TypeVar

from agentprm.errors import ConfigurationError
from agentprm.forking import ForkSafeLock

__all__ = ["Memory"]

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
