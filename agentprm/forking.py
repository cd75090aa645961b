"""Locks that a forked process finds open, where the threads of the parent do not exist.

A lock that another thread holds at the moment of a fork stays locked in the child for ever.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["ForkSafeLock", "ReadWriteLock", "after_fork"]

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


class ReadWriteLock:
    """Any number of readers, or one writer; a waiting writer goes before new readers.

    A thread that holds the lock never asks to write: one that does has been interrupted so early or so
    late that it could not let go, and what it held is freed.
    """

    def __init__(self) -> None:
        self._reset()
        after_fork(self, ReadWriteLock._reset)

    def _reset(self) -> None:
        """Begins with nobody inside, at first and in a forked process."""
        # Entered directly: a signal can come within the condition's own `__enter__`, which is Python.
        self._mutex = threading.RLock()
        self._condition = threading.Condition(self._mutex)
        self._readers: dict[int, int] = {}
        self._writer: int | None = None
        self._waiting: set[int] = set()

    @contextmanager
    def read(self) -> Iterator[None]:
        """Holds the lock together with other readers."""
        me = threading.get_ident()
        with self._mutex:
            if self._writer == me:
                self._writer = None
            self._waiting.discard(me)
            if me not in self._readers:
                self._condition.wait_for(lambda: self._writer is None and not self._waiting)
            self._readers[me] = self._readers.get(me, 0) + 1
        try:
            yield
        finally:
            with self._mutex:
                left = self._readers.get(me, 0) - 1
                if left > 0:
                    self._readers[me] = left
                else:
                    self._readers.pop(me, None)
                self._condition.notify_all()

    @contextmanager
    def write(self) -> Iterator[None]:
        """Holds the lock alone."""
        me = threading.get_ident()
        with self._mutex:
            if self._writer == me:
                self._writer = None
            self._readers.pop(me, None)
            self._waiting.add(me)
            try:
                self._condition.wait_for(lambda: self._writer is None and not self._readers)
            finally:
                self._waiting.discard(me)
            self._writer = me
        try:
            yield
        finally:
            with self._mutex:
                self._writer = None
                self._condition.notify_all()


def _in_child() -> None:
    for thing, resets in list(_resets.items()):
        for reset in resets:
            reset(thing)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
