"""Files of folders that a stranger may have made or that may lie on a failing disk.

What is read is a regular file of a bounded size, never a pipe, a device or a link; what is written is
never written through a link, and by one process at a time; what the disk refuses is said in one sentence.
"""

from __future__ import annotations

import errno
import math
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from agentprm.errors import AgentPRMError, IndexCorruptError, StorageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "FolderLock",
    "WriterConflictError",
    "create_file",
    "open_regular",
    "read_array",
    "read_bounded",
    "refuse_link",
    "storage_errors",
]

_READ = os.O_RDONLY | sum(getattr(os, flag, 0) for flag in ("O_NONBLOCK", "O_NOFOLLOW", "O_BINARY"))
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
# Results of SQLite (the lowest byte) that speak of the disk, and not of the file's contents.
_SQLITE_FULL = 13
_SQLITE_DISK = {3, 5, 6, 8, 10, _SQLITE_FULL, 14}


def open_regular(path: Path) -> BufferedReader:
    """Opens a file for reading, without ever waiting for a pipe.

    Raises:
        OSError: It is missing, a link, or no regular file.
    """
    descriptor = os.open(path, _READ)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path: Path, limit: int) -> bytes:
    """Bytes of a regular file.

    Raises:
        OSError: It is missing, no regular file, or longer than `limit`; no more is read then.
    """
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"longer than {limit} bytes", str(path))
    return data


def read_array(
    path: Path, shape: tuple[int, ...] | None, dtype: np.dtype[Any], mmap: bool
) -> npt.NDArray[Any]:
    """An array whose header says the wanted type and shape, and whose file is as long as they ask.

    Args:
        path: The file.
        shape: What it must be; `None` for one dimension of any length.
        dtype: Type of the numbers.
        mmap: Leave it on disk.

    Raises:
        IndexCorruptError: It is another array, or none.
    """
    try:
        with open_regular(path) as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("of another format version")
            found, fortran, stored = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
            size = os.fstat(file.fileno()).st_size - start
            expected = found if shape is None and len(found) == 1 else shape
            if found != expected or fortran or stored != dtype or size != dtype.itemsize * math.prod(found):
                raise ValueError("it does not fit the manifest")
            if not size:
                return np.empty(found, dtype)
            if mmap:
                return np.memmap(file, dtype, "r", start, found)
            return np.frombuffer(file.read(), dtype).reshape(found)
    except (OSError, ValueError, EOFError) as error:
        raise IndexCorruptError(f"{path} cannot be read ({error}); restore a copy or index again.") from None


def create_file(path: Path) -> BinaryIO:
    """Opens a new file for writing.

    Raises:
        FileExistsError: Something is there already, a link included.
    """
    return path.open("xb")


def refuse_link(path: Path) -> Path:
    """`path` itself, unless it is a link.

    Raises:
        IndexCorruptError: It is one: writing would change what it points to.
    """
    if path.is_symlink():
        raise IndexCorruptError(f"{path} is a link, which no index has: remove it and try again.")
    return path


@contextmanager
def storage_errors(folder: Path, kept: str) -> Iterator[None]:
    """Turns what the disk refuses into a `StorageError`.

    Args:
        folder: Where is written.
        kept: A sentence on what is not lost.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise _storage_error(folder, error.errno in _FULL, error.strerror or str(error), kept) from error
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without one it is Python's own
        if code not in _SQLITE_DISK:
            raise
        raise _storage_error(folder, code == _SQLITE_FULL, str(error), kept) from error


def _storage_error(folder: Path, full: bool, reason: str, kept: str) -> StorageError:
    if full:
        return StorageError(f"The disk of {folder} is full: free some space and try again. {kept}")
    return StorageError(
        f"{folder} cannot be read or written ({reason}): check the disk and try again. {kept}"
    )


class WriterConflictError(AgentPRMError):
    """Another writer holds the folder, or has changed it since this store was opened."""


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
