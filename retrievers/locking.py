"""Locks: many readers or one writer inside a process, one writer of a folder between processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from agentprm.errors import AgentPRMError
from agentprm.forking import after_fork
from agentprm.retrievers.files import refuse_link

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["FolderLock", "ReadWriteLock", "WriterConflictError"]


class WriterConflictError(AgentPRMError):
    """Another writer holds the folder, or has changed it since this store was opened."""


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


class FolderLock:
    """Exclusive lock of the writers of one folder, freed by the system when its holder dies.

    Args:
        path: The lock file; created when missing and never deleted.
        timeout_s: Seconds to wait for another writer before giving up.
    """

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._file: IO[bytes] | None = None

    def __enter__(self) -> FolderLock:
        self._file = refuse_link(self._path).open("a+b")
        deadline = time.monotonic() + self._timeout_s
        try:
            while not _locked(self._file):
                if time.monotonic() >= deadline:
                    raise WriterConflictError(
                        f"Another process is writing to {self._path.parent}; it did not finish within "
                        f"{self._timeout_s:g} s. Wait for it, or pass a longer lock_timeout_s."
                    )
                time.sleep(0.02)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _locked(file: IO[bytes]) -> bool:
    """Takes the lock of an open file, unless somebody else has it."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            file.seek(0)
            locking: Any = msvcrt
            locking.locking(file.fileno(), locking.LK_NBLCK, 1)
    except OSError:
        return False
    return True
