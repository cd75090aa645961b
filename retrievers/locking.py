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

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["FolderLock", "ReadWriteLock", "WriterConflictError"]


class WriterConflictError(AgentPRMError):
    """Another writer holds the folder, or has changed it since this store was opened."""


class ReadWriteLock:
    """Any number of readers, or one writer; a waiting writer goes before new readers.

    Not re-entrant: code that holds either side must not ask for the lock again.
    """

    def __init__(self) -> None:
        self._reset()
        after_fork(self, ReadWriteLock._reset)

    def _reset(self) -> None:
        """Begins with nobody inside, at first and in a forked process."""
        self._condition = threading.Condition()
        self._readers = 0
        self._writing = False
        self._writers_waiting = 0

    @contextmanager
    def read(self) -> Iterator[None]:
        """Holds the lock together with other readers."""
        with self._condition:
            self._condition.wait_for(lambda: not self._writing and not self._writers_waiting)
            self._readers += 1
        try:
            yield
        finally:
            with self._condition:
                self._readers -= 1
                self._condition.notify_all()

    @contextmanager
    def write(self) -> Iterator[None]:
        """Holds the lock alone."""
        with self._condition:
            self._writers_waiting += 1
            try:
                self._condition.wait_for(lambda: not self._writing and not self._readers)
            finally:
                self._writers_waiting -= 1
            self._writing = True
        try:
            yield
        finally:
            with self._condition:
                self._writing = False
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
        file = self._path.open("a+b")
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                _lock(file)
            except OSError:
                if time.monotonic() >= deadline:
                    file.close()
                    raise WriterConflictError(
                        f"Another process is writing to {self._path.parent}; it did not finish within "
                        f"{self._timeout_s:g} s. Wait for it, or pass a longer lock_timeout_s."
                    ) from None
                time.sleep(0.02)
            else:
                self._file = file
                return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _lock(file: IO[bytes]) -> None:
    """Takes the lock of an open file, or raises `OSError` when somebody else has it."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    import msvcrt

    file.seek(0)
    locking: Any = msvcrt
    locking.locking(file.fileno(), locking.LK_NBLCK, 1)
