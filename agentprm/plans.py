"""Work written once for threads and event loops: a plan is a generator that pauses where it waits.

    def plan(model: LanguageModel, prompts: list[Prompt]) -> Plan[str]:
        rows = yield from wait(model.sample, model.asample, prompts, 1)
        return rows[0][0].text

`drive(plan(...))` runs it in the current thread, `await adrive(plan(...))` in the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import NamedTuple, ParamSpec, TypeAlias, TypeVar

__all__ = ["Pause", "Plan", "adrive", "drive", "wait", "wait_in_thread"]

P = ParamSpec("P")
T = TypeVar("T")


class Pause(NamedTuple):
    """What a plan waits for, in a thread and in an event loop; `wait` makes it."""

    sync: Callable[[], None]
    on_loop: Callable[[], Awaitable[None]]


Plan: TypeAlias = Generator[Pause, None, T]
"""Pauses where it waits, and returns a `T`."""


def wait(
    sync: Callable[P, T], on_loop: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
) -> Plan[T]:
    """Waits for a function, or in an event loop for its async twin, with the same arguments.

    Use it with `yield from`; what the function raises is raised there.
    """
    result: list[T] = []

    def in_thread() -> None:
        result.append(sync(*args, **kwargs))

    async def in_loop() -> None:
        result.append(await on_loop(*args, **kwargs))

    yield Pause(in_thread, in_loop)
    return result[0]


def wait_in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Plan[T]:
    """Waits for a function that only blocks; the event loop runs it in a thread."""

    async def on_loop() -> T:
        return await asyncio.to_thread(function, *args, **kwargs)

    return (yield from wait(lambda: function(*args, **kwargs), on_loop))


def drive(plan: Plan[T]) -> T:
    """Runs a plan in the current thread and returns what it returns."""
    try:
        pause = next(plan)
        while True:
            try:
                pause.sync()
            except BaseException as error:
                pause = plan.throw(error)  # where the plan waits: it may clean up, or go on
            else:
                pause = next(plan)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


async def adrive(plan: Plan[T]) -> T:
    """Runs a plan in the event loop and returns what it returns."""
    try:
        pause = next(plan)
        while True:
            try:
                await pause.on_loop()
            except BaseException as error:
                pause = plan.throw(error)
            else:
                pause = next(plan)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
