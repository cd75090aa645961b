"""Arrays that grow at the end, on top of a part that may stay on disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["GrowingArray"]

_SMALLEST = 64


class GrowingArray:
    """Rows that are read and never changed; more of them make another array.

    The base may be a memory map: it is only ever read, and only where rows of it are asked for.

    Args:
        base: The first rows (n x …); not copied.
    """

    def __init__(self, base: npt.NDArray[Any]) -> None:
        self._base = base
        self._tail = np.empty((0, *base.shape[1:]), dtype=base.dtype)
        self._tail_size = 0

    def __len__(self) -> int:
        return len(self._base) + self._tail_size

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(self._base.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""
        return self._base.dtype

    def extended(self, rows: npt.NDArray[Any]) -> GrowingArray:
        """This array with rows (m x …) at its end; this one stays as it is.

        Both share their memory, so only one of the longer arrays made of this one may be kept.
        """
        longer = GrowingArray(self._base)
        longer._tail_size = self._tail_size + len(rows)
        if longer._tail_size > len(self._tail):
            room = max(longer._tail_size, 2 * len(self._tail), _SMALLEST)
            longer._tail = np.empty((room, *self.row_shape), self.dtype)
            longer._tail[: self._tail_size] = self._tail[: self._tail_size]
        else:
            longer._tail = self._tail
        longer._tail[self._tail_size : longer._tail_size] = rows
        return longer

    def parts(self) -> list[tuple[int, npt.NDArray[Any]]]:
        """The contiguous parts, each with the number of its first row; empty parts left out."""
        tail = self._tail[: self._tail_size]
        both = [(0, self._base), (len(self._base), tail)]
        return [(start, part) for start, part in both if len(part)]

    def blocks(self, size: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """All rows in order, at most `size` at a time, each block with the number of its first row."""
        for start, part in self.parts():
            for offset in range(0, len(part), size):
                yield start + offset, part[offset : offset + size]

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Copy of the given rows, in the given order."""
        split = len(self._base)
        if not self._tail_size:
            return np.asarray(self._base[rows])
        out = np.empty((len(rows), *self._base.shape[1:]), self._base.dtype)
        in_base = rows < split
        out[in_base] = self._base[rows[in_base]]
        out[~in_base] = self._tail[rows[~in_base] - split]
        return out

    def locate(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Rows of `values` in a strictly ascending one-dimensional array; -1 where a value is missing."""
        found = np.full(len(values), -1, dtype=np.int64)
        for start, part in self.parts():
            place = np.minimum(np.searchsorted(part, values), len(part) - 1)
            hit = part[place] == values
            found[hit] = place[hit] + start
        return found
