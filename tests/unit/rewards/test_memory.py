import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentprm.errors import ConfigurationError
from agentprm.rewards.base import Memory

KEYS = st.lists(st.integers(0, 6), max_size=5)


@given(st.integers(1, 4), st.lists(st.tuples(st.booleans(), KEYS), max_size=20))
def test_keeps_what_was_used_last(size, turns):
    memory: Memory[int, int] = Memory(size)
    order: list[int] = []  # the oracle: keys by their last use
    values: dict[int, int] = {}
    for number, (write, keys) in enumerate(turns):
        keys = list(dict.fromkeys(keys))
        if write:
            memory.keep(dict.fromkeys(keys, number))
            values.update(dict.fromkeys(keys, number))
        else:
            keys = [key for key in keys if key in order]
            assert memory.known([*keys, 7]) == {key: values[key] for key in keys}
        order = ([key for key in order if key not in keys] + keys)[-size:]
        assert len(memory) == len(order)
    assert memory.known(range(7)) == {key: values[key] for key in order}
    memory.clear()
    assert len(memory) == 0
    assert memory.get(0) is None


def test_a_size_below_one_is_refused_by_its_name():
    with pytest.raises(ConfigurationError, match="places must be at least 1, not 0"):
        Memory(0, "places")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_while_another_thread_holds_the_lock():
    memory: Memory[str, int] = Memory(2)
    held, done = threading.Event(), threading.Event()

    def hold():
        with memory._lock:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    child = os.fork()
    if not child:
        threading.Timer(20, os._exit, (1,)).start()
        memory.keep({"a": 1})
        os._exit(0 if memory.get("a") == 1 else 2)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
