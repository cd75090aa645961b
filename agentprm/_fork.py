"""Objects that must forget their locks and threads in a forked process."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["reset_after_fork"]


class _Forked(Protocol):
    def after_fork(self) -> None: ...


_objects: weakref.WeakSet[_Forked] = weakref.WeakSet()


def reset_after_fork(thing: _Forked) -> None:
    """Has `thing.after_fork()` called in every child process that is forked while it lives.

    A lock that another thread holds at the moment of a fork stays locked in the child for ever, and
    that thread does not exist there.
    """
    _objects.add(thing)


def _reset() -> None:
    for thing in list(_objects):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)
