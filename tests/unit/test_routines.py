"""Plans: the same generator in a thread and in an event loop, failures included."""

import asyncio

import pytest

from agentprm.routines import adrive, drive, wait, wait_in_thread


def double(x):
    if x < 0:
        raise ValueError("negative")
    return 2 * x


async def adouble(x):
    await asyncio.sleep(0)
    return double(x)


def routine(x, log):
    try:
        y = yield from wait(double, adouble, x)
        return (yield from wait_in_thread(double, y))
    except ValueError:
        return (yield from wait(double, adouble, 50))
    finally:
        log.append("closed")


@pytest.mark.parametrize(("x", "result"), [(3, 12), (-1, 100)])
async def test_thread_and_loop_agree(x, result):
    log = []
    assert drive(routine(x, log)) == await adrive(routine(x, log)) == result
    assert log == ["closed", "closed"]


async def test_a_failure_that_the_plan_leaves_comes_through_at_once():
    def failing(log):
        try:
            yield from wait(double, adouble, -1)
        finally:
            log.append("closed")

    log = []
    with pytest.raises(ValueError, match="negative"):
        drive(failing(log))
    assert log == ["closed"]
    with pytest.raises(ValueError, match="negative"):
        await adrive(failing(log))
    assert log == ["closed", "closed"]


async def test_cancelling_closes_the_plan():
    log = []

    def endless():
        try:
            yield from wait(double, lambda x: asyncio.sleep(60), 1)
        finally:
            log.append("closed")

    task = asyncio.create_task(adrive(endless()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["closed"]
