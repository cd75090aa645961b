"""Threads and the serial executor: every item once, in order where asked, few of them in memory."""

import random
import sys
import threading
import time
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentprm.budget import empty_usage, metered, record
from agentprm.errors import ConfigurationError
from agentprm.scale import LocalExecutor
from agentprm.scale.base import Backlog, Outcome


def doubler():
    def double(item):
        record(model_calls=1, prompt_tokens=item)
        if item % 10 == 7:
            raise ValueError(f"not {item}")
        return 2 * item

    return double


def slow_first():
    def work(item):
        time.sleep(0.2 if item == 0 else 0.001)
        return item

    return work


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("ordered", [False, True])
def test_every_item_has_one_outcome(threads, ordered):
    with metered() as meter:
        outcomes = list(LocalExecutor(threads).stream(doubler, range(40), ordered=ordered))
    if ordered:
        assert [o.index for o in outcomes] == list(range(40))
    outcomes.sort(key=lambda o: o.index)
    assert [o.value for o in outcomes] == [None if i % 10 == 7 else 2 * i for i in range(40)]
    assert [str(o.failure) for o in outcomes if o.failure] == [
        f"ValueError: not {i}" for i in (7, 17, 27, 37)
    ]
    assert "in double" in outcomes[7].failure.trace
    assert [o.usage["prompt_tokens"] for o in outcomes] == list(range(40))
    assert (meter.usage["model_calls"], meter.usage["prompt_tokens"]) == (40, sum(range(40)))


@pytest.mark.parametrize(("ordered", "most"), [(False, 3), (True, 16)])
def test_items_are_taken_only_as_there_is_room(ordered, most):
    taken = 0

    def items():
        nonlocal taken
        for taken in range(1, 101):
            yield taken - 1

    left = 0
    for left, _ in enumerate(LocalExecutor(2).stream(slow_first, items(), ordered=ordered), 1):
        # finished ones of a batch may not have been handed over yet
        assert taken - left <= most
    assert left == 100


def test_threads_work_at_once_with_one_worker():
    made, together = [], threading.Barrier(4)

    def make():
        made.append(1)
        return lambda item: together.wait(5) >= 0

    assert all(o.value for o in LocalExecutor(4).stream(make, range(4)))
    assert len(made) == 1


def test_no_worker_is_made_for_nothing():
    for threads in (1, 2):
        assert list(LocalExecutor(threads).stream(lambda: 1 / 0, [])) == []


def test_closing_stops_the_work():
    done = []
    stream = LocalExecutor(2).stream(lambda: done.append, range(1000))
    next(stream)
    stream.close()
    assert len(done) <= 4


def test_mistakes():
    with pytest.raises(ConfigurationError, match="at least 1"):
        LocalExecutor(0)
    for factory in ("no path", "a:", "a.b", ":f", 7):
        with pytest.raises(ConfigurationError):
            LocalExecutor().stream(factory, [1])
    with pytest.raises(ConfigurationError, match="cannot be imported"):
        list(LocalExecutor().stream("agentprm.nowhere:f", [1]))
    with pytest.raises(ConfigurationError, match="cannot be imported"):
        list(LocalExecutor().stream("agentprm.scale:nothing", [1]))
    with pytest.raises(ConfigurationError, match="cannot be made: ZeroDivisionError"):
        list(LocalExecutor().stream(lambda: 1 / 0, [1]))
    with pytest.raises(ConfigurationError, match="returns the function"):
        list(LocalExecutor(2).stream(lambda: 3, [1]))


def test_a_worker_by_its_import_path(monkeypatch):
    module = types.ModuleType("made_up")
    module.doubler = doubler
    monkeypatch.setitem(sys.modules, "made_up", module)
    assert [o.value for o in LocalExecutor().stream("made_up:doubler", [1, 2])] == [2, 4]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 12), st.integers(1, 4) | st.none())
def test_backlog(seed, count, window):
    """Any order of finishing and losing: each outcome leaves once, in order, and the window holds."""
    chance = random.Random(seed)
    backlog, under_way, left = Backlog(range(count), window), [], []
    while True:
        while (job := backlog.take()) is not None:
            under_way.append(job)
            if window is None and len(under_way) == 3:
                break
        if not under_way:
            break
        if window is not None:
            assert max(job.index for job in under_way) < len(left) + window
        job = under_way.pop(chance.randrange(len(under_way)))
        if chance.random() < 0.25:
            backlog.give_back(job)
        else:
            left += [o.index for o in backlog.finish(Outcome(job.index, job.item, None, empty_usage()))]
    assert sorted(left) == list(range(count))
    assert window is None or left == list(range(count))
