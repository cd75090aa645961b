"""The background loop, the retry policy, and prompts that are cut to a context."""

import asyncio
import os
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentprm.engine.tokenizing import Context, as_data, span_of
from agentprm.errors import ConfigurationError, ContextLengthError, InputError
from agentprm.lm import SamplingParams
from agentprm.lm.retries import Retries, _retry_after
from agentprm.lm.token_lm import Job
from agentprm.routines import adrive, all_of, drive, wait_on_loop


async def test_sync_and_async_callers_share_one_loop():
    async def where():
        return threading.current_thread().name, id(asyncio.get_running_loop())

    here = await adrive(wait_on_loop(where()))
    assert here == await asyncio.to_thread(lambda: drive(wait_on_loop(where())))
    assert here[0] == "agentprm-models"
    assert here[1] != id(asyncio.get_running_loop())


async def test_the_first_failure_ends_the_others():
    ended = []

    async def work(number):
        try:
            await asyncio.sleep(0 if number == 1 else 30)
        except asyncio.CancelledError:
            ended.append(number)
            raise
        raise ValueError("one")

    with pytest.raises(ValueError, match="one"):
        await adrive(wait_on_loop(all_of(work, range(4))))
    assert sorted(ended) == [0, 2, 3]
    assert await adrive(wait_on_loop(all_of(work, []))) == []


async def test_cancelling_the_caller_ends_the_work():
    started, ended = threading.Event(), threading.Event()

    async def work():
        started.set()
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()

    task = asyncio.create_task(adrive(wait_on_loop(work())))
    await asyncio.to_thread(started.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended.wait, 5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_has_a_loop_of_its_own():
    async def answer():
        return 42

    assert drive(wait_on_loop(answer())) == 42
    child = os.fork()
    if child == 0:
        os._exit(0 if drive(wait_on_loop(answer())) == 42 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_waits_grow_and_are_bounded():
    policy = Retries(most=9, backoff_s=0.5, longest_s=3.0)
    for before, bound in ((0, 0.5), (1, 1.0), (2, 2.0), (3, 3.0), (8, 3.0)):
        waits = [policy._wait(TimeoutError(), before) for _ in range(200)]
        assert min(waits) >= 0
        assert bound / 2 < max(waits) <= bound
    for wrong in ({"most": -1}, {"backoff_s": -0.1}):
        with pytest.raises(ConfigurationError):
            Retries(**wrong)


@pytest.mark.parametrize(
    ("header", "seconds"), [("2", 2.0), ("-1", 0.0), ("soon", None), (None, None), ("date", 60.0)]
)
def test_retry_after(header, seconds):
    if header == "date":
        header = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    headers = {} if header is None else {"retry-after": header}
    found = _retry_after(SimpleNamespace(response=SimpleNamespace(headers=headers)))
    assert found == (None if seconds is None else pytest.approx(seconds, abs=30))
    assert _retry_after(None) is None


ids = st.lists(st.integers(0, 5), min_size=1, max_size=12)


@settings(deadline=None, max_examples=200)
@given(trunk=ids, more=ids, cut=st.integers(0, 3), length=st.integers(1, 30), bos=st.none() | st.just(0))
def test_cutting_keeps_the_end_and_what_is_scored(trunk, more, cut, length, bos):
    joint = [*trunk[: max(1, len(trunk) - cut)], *more]
    try:
        span = span_of(trunk, joint, "x")
    except InputError:
        assert joint == trunk[: len(joint)]
        return
    assert span.scored
    assert [*joint[: span.start], *span.scored] == joint
    assert trunk[: span.start] == joint[: span.start]
    whole = len(joint) + 1 <= length and len(trunk) + 1 <= length
    if whole:
        assert Context(length, bos=bos).fit(trunk, [span], new=1) == (list(trunk), [span])
    try:
        fitted, (found,) = Context(length, "truncate_left", bos).fit(trunk, [span], new=1)
    except ContextLengthError:
        assert not whole
        return
    assert len(found.ids) + 1 <= max(length, 0) or whole
    assert found.scored == span.scored
    assert found.start >= 1
    head = 1 if bos is not None and trunk[0] == bos else 0
    lost = len(joint) - len(found.ids)
    assert list(found.ids) == joint[:head] + joint[head + lost :]
    assert fitted == [*trunk[:head], *trunk[head + lost :]]


def test_context_errors():
    with pytest.raises(ContextLengthError, match="truncate_left"):
        Context(4).lost([1, 2, 3], 2)
    assert Context(None).lost([1] * 999, 999) == 0
    with pytest.raises(InputError):
        Context(4).lost([], 1)
    with pytest.raises(ContextLengthError):
        Context(4, "truncate_left").lost([1, 2, 3], 4)
    with pytest.raises(ConfigurationError):
        Context(4, "cut")
    with pytest.raises(InputError, match="adds no token"):
        span_of([1, 2], [1, 2], "")


def test_seeds():
    jobs = [Job(ids, 2, seed, SamplingParams()) for seed in (1, 2) for ids in ((1, 2), (12,))]
    seeds = {job.seed_of(number, 31) for job in jobs for number in (0, 1)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a <|im_end|> b", "a < |im_end|> b"),
        ("<\uff5cUser\uff5c>", "< \uff5cUser\uff5c>"),
        ("</s><s>[INST]x[/INST]", "< /s>< s>[ INST]x[ /INST]"),
        ("<end_of_turn>", "< end_of_turn>"),
        ("1 <|2 and 3|> x", "1 <|2 and 3|> x"),
        ("[Instance] <b>", "[Instance] <b>"),
    ],
)
def test_what_looks_like_a_control_token_is_pulled_apart(text, kept):
    assert as_data(text) == kept
