"""Plans: the same generator in a thread and in an event loop, failures included."""

import asyncio
import os
import threading
import time
from contextvars import ContextVar

import pytest

from agentprm.routines import Helpers, adrive, drive, wait, wait_in_thread


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


def test_helpers_call_side_by_side_and_give_the_results_in_order():
    together = threading.Barrier(4, timeout=20)

    def call(item):
        if item < 4:
            together.wait()  # all four are under way, or this fails
        return item, threading.get_ident()

    helpers = Helpers(4)
    found = helpers.map(call, range(9))
    assert [item for item, _ in found] == list(range(9))
    assert threading.get_ident() in {thread for _, thread in found}
    assert helpers.map(call, []) == []
    assert helpers.map(call, [7]) == [(7, threading.get_ident())]


def test_helpers_keep_to_their_number():
    running, most, lock = 0, 0, threading.Lock()

    def call(item):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            running -= 1

    Helpers(3).map(call, range(12))
    assert most == 3


def test_helpers_have_the_context_of_their_caller():
    whose = ContextVar("whose", default="nobody")
    together = threading.Barrier(3, timeout=20)

    def call(item):
        together.wait()
        return whose.get()

    whose.set("mine")
    assert Helpers(3).map(call, range(3)) == ["mine"] * 3


@pytest.mark.parametrize("fails_in", ["caller", "helper"])
def test_after_a_failure_nothing_more_is_begun(fails_in):
    begun, together = [], threading.Barrier(2, timeout=20)
    caller = threading.get_ident()

    def call(item):
        begun.append(item)
        if item < 2:
            together.wait()
        else:
            time.sleep(0.01)
        if (threading.get_ident() == caller) == (fails_in == "caller"):
            raise KeyError(item)
        return item

    with pytest.raises(KeyError):
        Helpers(2).map(call, range(50))
    assert len(begun) < 10


def test_a_call_may_have_helpers_itself():
    helpers = Helpers(2)

    def call(item):
        return helpers.map(str, [item, item]) if isinstance(item, int) else item

    assert helpers.map(lambda item: helpers.map(call, [item, item]), [1, 2]) == [
        [["1", "1"], ["1", "1"]],
        [["2", "2"], ["2", "2"]],
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_process_has_helpers_of_its_own():
    helpers, together = Helpers(2), threading.Barrier(2, timeout=20)
    helpers.map(lambda item: together.wait(), range(2))  # so that there is a thread that the child lacks
    child = os.fork()
    if not child:
        threading.Timer(20, os._exit, (1,)).start()
        helpers.map(lambda item: together.wait(), range(2))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
