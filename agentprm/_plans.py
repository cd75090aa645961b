"""Work written once for threads and event loops: a generator yields what it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, NamedTuple, TypeVar

__all__ = ["Call", "adrive", "drive"]

T = TypeVar("T")


class Call(NamedTuple):
    """One piece of work that waits for something: how to do it in a thread and in an event loop."""

    sync: Callable[[], Any]
    on_loop: Callable[[], Awaitable[Any]]

    @classmethod
    def both(cls, sync: Callable[..., Any], on_loop: Callable[..., Awaitable[Any]], *args: Any) -> Call:
        """The call of a method and of its async twin with the same arguments."""
        return cls(lambda: sync(*args), lambda: on_loop(*args))

    @classmethod
    def blocking(cls, function: Callable[..., Any], *args: Any) -> Call:
        """The call of something that only blocks; the event loop runs it in a thread."""
        return cls(lambda: function(*args), lambda: asyncio.to_thread(function, *args))


def drive(plan: Generator[Call, Any, T]) -> T:
    """Runs a plan in the current thread and returns what it returns."""
    try:
        call = next(plan)
        while True:
            call = plan.send(call.sync())
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


async def adrive(plan: Generator[Call, Any, T]) -> T:
    """Runs a plan in the event loop and returns what it returns."""
    try:
        call = next(plan)
        while True:
            call = plan.send(await call.on_loop())
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
