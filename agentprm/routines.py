"""Work written once for threads and event loops: a routine is a generator that pauses where it waits.

    def routine(model: LanguageModel, prompts: list[Prompt]) -> Routine[str]:
        rows = yield from wait(model.sample, model.asample, prompts, 1)
        return rows[0][0].text

`drive(routine(...))` runs it in the current thread, `await adrive(routine(...))` in the event loop.

What can only be awaited, as clients that belong to one event loop, runs on a loop in a thread of its own,
which routines of all threads and loops share: `wait_on_loop`.

Calls that wait side by side are `Helpers.map` in threads and `all_of` on a loop.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, NamedTuple, ParamSpec, TypeAlias, TypeVar

from agentprm.forking import ForkSafeLock, after_fork

__all__ = [
    "Helpers",
    "Pause",
    "Routine",
    "adrive",
    "all_of",
    "drive",
    "wait",
    "wait_for",
    "wait_in_thread",
    "wait_on_loop",
]

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


class Pause(NamedTuple):
    """What a routine waits for, in a thread and in an event loop; `wait` makes it."""

    sync: Callable[[], None]
    on_loop: Callable[[], Awaitable[None]]


Routine: TypeAlias = Generator[Pause, None, T]
"""Pauses where it waits, and returns a `T`."""


def wait(
    sync: Callable[P, T], on_loop: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
) -> Routine[T]:
    """Waits for a function, or in an event loop for its async twin, with the same arguments.

    Use it with `yield from`; what the function raises is raised there.
    """
    result: list[T] = []

    async def in_loop() -> None:
        result.append(await on_loop(*args, **kwargs))

    yield Pause(lambda: result.append(sync(*args, **kwargs)), in_loop)
    return result[0]


def wait_in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Routine[T]:
    """Waits for a function that only blocks; the event loop runs it in a thread."""

    async def on_loop() -> T:
        return await asyncio.to_thread(function, *args, **kwargs)

    return (yield from wait(lambda: function(*args, **kwargs), on_loop))


def wait_for(future: Future[T]) -> Routine[T]:
    """Waits for a future; an interrupt or a cancelled caller cancels it."""
    try:
        # Its method has an argument, which the twin has not.
        return (yield from wait(lambda: future.result(), lambda: asyncio.wrap_future(future)))  # noqa: PLW0108
    finally:
        future.cancel()  # which takes no notice if it is done


def wait_on_loop(work: Coroutine[Any, Any, T]) -> Routine[T]:
    """Waits for a coroutine on the shared loop; an interrupt or a cancelled caller cancels it."""
    return (yield from wait_for(asyncio.run_coroutine_threadsafe(work, _shared_loop())))


async def all_of(call: Callable[..., Awaitable[T]], *columns: Iterable[Any]) -> list[T]:
    """Like `map`, with all calls at once; the first failure cancels the others."""
    tasks = [asyncio.ensure_future(call(*row)) for row in zip(*columns, strict=True)]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Helpers:
    """Threads that stay, for calls that wait side by side: the caller's own thread makes them as well.

    To start threads for each batch costs more than short calls do. Each helper calls the next one as it
    begins: where calls do not wait, the caller has made them all before many have woken up.

    Args:
        most: Calls of a batch that are under way at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._renew()
        after_fork(self, Helpers._renew)

    def _renew(self) -> None:
        """Begins without threads, at first and in a forked process."""
        self._pool = ThreadPoolExecutor(max(1, self._most - 1), "agentprm-helper")

    def map(self, call: Callable[[S], T], items: Sequence[S]) -> list[T]:
        """What `call` gives for each item, in their order; each helper has a copy of the caller's context.

        After a failure no further call is begun.
        """
        waiting = deque(enumerate(items))
        found: dict[int, T] = {}

        def work() -> None:
            while True:
                try:
                    place, item = waiting.popleft()
                except IndexError:
                    return
                try:
                    found[place] = call(item)
                except BaseException:
                    waiting.clear()
                    raise

        most = min(self._most, len(items)) - 1
        helpers: list[Future[None]] = []

        def call_helper() -> None:
            if waiting and len(helpers) < most:
                helpers.append(self._pool.submit(copy_context().run, help_out))

        def help_out() -> None:
            call_helper()
            work()

        call_helper()
        work()
        for helper in helpers:  # each has called the next one, if at all, before it is done
            if not helper.cancel():  # one that has not begun has nothing left to do
                helper.result()
        return [found[place] for place in range(len(items))]


_lock = ForkSafeLock()
_current: tuple[int, asyncio.AbstractEventLoop] | None = None  # process id, its loop


def _shared_loop() -> asyncio.AbstractEventLoop:
    """The loop; a process that was forked starts its own, as threads do not survive a fork."""
    global _current  # noqa: PLW0603
    with _lock:
        if _current is None or _current[0] != os.getpid():
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="agentprm-models", daemon=True).start()
            _current = (os.getpid(), loop)
        return _current[1]


def drive(routine: Routine[T]) -> T:
    """Runs a routine in the current thread and returns what it returns."""
    try:
        pause = next(routine)
        while True:
            try:
                pause.sync()
            except BaseException as error:
                pause = routine.throw(error)  # where the routine waits: it may clean up, or go on
            else:
                pause = next(routine)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


async def adrive(routine: Routine[T]) -> T:
    """Runs a routine in the event loop and returns what it returns."""
    try:
        pause = next(routine)
        while True:
            try:
                await pause.on_loop()
            except BaseException as error:
                pause = routine.throw(error)
            else:
                pause = next(routine)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
