"""One event loop in a thread of its own, on which sync and async callers run the same coroutines."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from agentprm.forking import ForkSafeLock

__all__ = ["all_of", "arun", "run"]

T = TypeVar("T")

_lock = ForkSafeLock()
_current: tuple[int, asyncio.AbstractEventLoop] | None = None  # process id, its loop


def _loop() -> asyncio.AbstractEventLoop:
    """The loop; a process that was forked starts its own, as threads do not survive a fork."""
    global _current  # noqa: PLW0603
    with _lock:
        if _current is None or _current[0] != os.getpid():
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="agentprm-models", daemon=True).start()
            _current = (os.getpid(), loop)
        return _current[1]


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end; an interrupt of the caller cancels it."""
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()  # does nothing if it was the coroutine that failed
        raise


async def arun(work: Coroutine[Any, Any, T]) -> T:
    """Async twin of `run`; cancelling the caller cancels the coroutine."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, _loop()))


async def all_of(call: Callable[..., Awaitable[T]], *columns: Iterable[Any]) -> list[T]:
    """Like `map`, with all calls at once; the first failure cancels the others."""
    tasks = [asyncio.ensure_future(call(*row)) for row in zip(*columns, strict=True)]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
