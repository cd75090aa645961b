"""The items of a run on their way through an executor."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from agentprm.scale.base import Outcome

__all__ = ["Assignment", "Backlog"]


@dataclass
class Assignment:
    """One item, its place, and how many workers have died under it."""

    index: int
    item: Any
    lost: int = 0


class Backlog:
    """Numbers items, takes lost ones back, and holds early outcomes until their turn.

    Args:
        items: The items; taken one by one.
        window: How far the items taken may be ahead of the first one without an outcome, or `None`
            where outcomes may leave in any order.
    """

    def __init__(self, items: Iterable[Any], window: int | None) -> None:
        self._items = enumerate(items)
        self._window = window
        self._returned: deque[Assignment] = deque()
        self._early: dict[int, Outcome] = {}
        self._next = 0  # the first item whose outcome has not left, if they leave in order
        self._taken = 0
        self._ended = False

    def take(self) -> Assignment | None:
        """The next item to work on, or `None` if there is none or it has to wait."""
        if self._returned:
            return self._returned.popleft()
        if self._ended or (self._window is not None and self._taken >= self._next + self._window):
            return None
        for index, item in self._items:
            self._taken = index + 1
            return Assignment(index, item)
        self._ended = True
        return None

    def give_back(self, job: Assignment) -> None:
        """Takes an item back whose worker is gone; it goes before all others."""
        self._returned.appendleft(job)

    def finish(self, outcome: Outcome) -> Iterator[Outcome]:
        """Outcomes that may leave now that this one is known."""
        if self._window is None:
            yield outcome
            return
        self._early[outcome.index] = outcome
        while self._next in self._early:
            self._next += 1
            yield self._early.pop(self._next - 1)
