"""Locks and other state in a forked process."""

import gc
import os
import threading
import weakref

import pytest

from agentprm.forking import ForkSafeLock, ReadWriteLock, after_fork

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


def exit_code_of_child(work):
    child = os.fork()
    if not child:
        threading.Timer(20, os._exit, (1,)).start()  # a lock that is never free
        os._exit(0 if work() else 2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_lock_that_another_thread_holds_is_open_in_the_child():
    lock = ForkSafeLock()
    held, done = threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            done.wait(30)

    def free():
        with lock:
            return True

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    code = exit_code_of_child(free)
    done.set()
    thread.join()
    assert code == 0


def test_the_child_leaves_a_block_that_the_parent_entered():
    lock = ForkSafeLock()
    with lock:
        child = os.fork()
    if not child:
        with lock:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_lock_keeps_others_out():
    lock, order = ForkSafeLock(), []

    def second():
        with lock:
            order.append("second")

    with lock:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.05)
        order.append("first")
    thread.join(20)
    assert order == ["first", "second"]


def test_methods_are_called_while_their_object_lives():
    class Thing:
        calls = 0

        def reset(self):
            self.calls += 1

    thing = Thing()
    after_fork(thing, Thing.reset)
    assert exit_code_of_child(lambda thing=thing: thing.calls == 1) == 0
    assert thing.calls == 0
    gone = weakref.ref(thing)
    del thing
    gc.collect()
    assert gone() is None  # the list of what to reset kept nothing alive


def test_readers_of_the_parent_keep_no_writer_of_the_child_out():
    lock = ReadWriteLock()

    def write():
        with lock.write():
            return True

    with lock.read():
        assert exit_code_of_child(write) == 0
