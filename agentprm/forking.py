"""Locks and threads in a forked process, where the threads of the parent do not exist.

A lock that another thread holds at the moment of a fork stays locked in the child for ever.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["ForkSafeLock", "after_fork"]

T = TypeVar("T")

_resets: weakref.WeakKeyDictionary[Any, list[Callable[[Any], None]]] = weakref.WeakKeyDictionary()


def after_fork(thing: T, reset: Callable[[T], None]) -> None:
    """Has `reset(thing)` called in every child process that is forked while the object lives."""
    _resets.setdefault(thing, []).append(reset)


class ForkSafeLock:
    """A lock that is open in a forked process, whoever held it in the parent. It is not re-entrant.

    A thread that has it and asks for it was interrupted (Ctrl-C) as it took it or let go of it, outside the
    block that would free it: it gets it afresh.
    """

    def __init__(self) -> None:
        self._renew()
        after_fork(self, ForkSafeLock._renew)

    def _renew(self) -> None:
        self._lock: Any = threading.RLock()

    def __enter__(self) -> None:
        while self._lock._is_owned():
            self._lock.release()
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        # In a child, the thread that forked leaves blocks that it entered in the parent.
        if self._lock._is_owned():
            self._lock.release()


def _in_child() -> None:
    for thing, resets in list(_resets.items()):
        for reset in resets:
            reset(thing)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
