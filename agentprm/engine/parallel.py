"""Parts of a pass that run side by side, each on one thread of torch.

Threads that share every matrix product of a small pass wait for each other at every operation; threads
that compute rows of their own meet once, at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

from agentprm.forking import after_fork

__all__ = ["even_parts", "side_by_side"]

T = TypeVar("T")

_LEAST = 64  # tokens of a part; with fewer, reading the weights takes longer than the products
_EVEN = 0.75  # of the threads' time must be work, or sharing the operations is the better way


def even_parts(sizes: Sequence[int], threads: int) -> list[slice]:
    """Cuts a sequence of pieces into runs of about equally many tokens.

    Args:
        sizes: Tokens of the pieces.
        threads: Most runs.

    Returns:
        Slices of the sequence, in order; a single one if it cannot be cut evenly.
    """
    whole, total = [slice(0, len(sizes))], sum(sizes)
    count = min(threads, len(sizes), total // _LEAST)
    if count < 2:
        return whole
    cuts, done = [0], 0
    for index, size in enumerate(sizes):
        # The next run begins here if that is nearer to an even cut than behind this piece.
        if len(cuts) < count and index > cuts[-1] and done + size / 2 >= total * len(cuts) / count:
            cuts.append(index)
        done += size
    parts = [slice(begin, end) for begin, end in zip(cuts, [*cuts[1:], len(sizes)], strict=True)]
    largest = max(sum(sizes[part]) for part in parts)
    return parts if total >= _EVEN * count * largest else whole


def side_by_side(work: Callable[..., T], calls: Sequence[tuple[Any, ...]], threads: int) -> list[T]:
    """Results of `work(*call)`, computed at the same time with one thread of torch for each.

    An error of one is raised when all have ended.
    """
    futures = _workers.submit(work, calls, threads)
    wait(futures)
    return [future.result() for future in futures]


class _Workers:
    """Threads that all models share, so that two models do not take more of them than one."""

    def __init__(self) -> None:
        self._reset()
        after_fork(self, _Workers._reset)

    def _reset(self) -> None:
        """Begins without threads, at first and in a forked process."""
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._count = 0

    def submit(self, work: Callable[..., T], calls: Sequence[tuple[Any, ...]], count: int) -> list[Future[T]]:
        """Hands the calls to `count` threads."""
        with self._lock:  # so that nobody replaces the threads in between
            if self._pool is None or self._count != count:
                if self._pool is not None:
                    self._pool.shutdown(wait=False)  # after what they have been given
                    self._pool = None
                self._pool, self._count = _started(count), count
            return [self._pool.submit(work, *call) for call in calls]


def _started(count: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(count, "agentprm-part")
    all_there = threading.Barrier(count)

    def alone() -> None:
        torch.get_num_threads()  # the first question sets it to what holds elsewhere
        torch.set_num_threads(1)
        all_there.wait()

    try:
        wait([pool.submit(alone) for _ in range(count)])
    except RuntimeError:  # there are no more threads; those that have begun must not wait for them
        all_there.abort()
        pool.shutdown(wait=False)
        raise
    finally:
        # It holds for the thread that sets it, and for threads that are yet to begin. The latter are
        # not ours, so it is put back.
        torch.set_num_threads(count)
    return pool


_workers = _Workers()
