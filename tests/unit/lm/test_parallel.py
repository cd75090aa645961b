"""Parts of a pass side by side: how they are cut, that nothing changes, errors, threads, forks."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from agentprm.engine import parallel  # noqa: E402
from agentprm.engine.parallel import even_parts, side_by_side  # noqa: E402
from agentprm.lm import Prompt, SamplingParams, TransformersLM  # noqa: E402


@given(st.lists(st.integers(1, 300), min_size=1, max_size=30), st.integers(1, 8))
def test_parts_are_even_runs(sizes, threads):
    parts = even_parts(sizes, threads)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(len(sizes)))
    loads = [sum(sizes[part]) for part in parts]
    assert len(parts) <= threads
    if len(parts) > 1:
        assert sum(loads) >= 0.75 * len(parts) * max(loads)
        assert sum(loads) >= 64 * len(parts)


def test_what_is_cut_and_what_is_not():
    assert even_parts([70] * 29, 2) == [slice(0, 14), slice(14, 29)]
    assert even_parts([500, 480], 2) == [slice(0, 1), slice(1, 2)]
    assert even_parts([500, 20, 30], 2) == [slice(0, 3)]  # one thread would do nearly all
    assert even_parts([10] * 8, 2) == [slice(0, 8)]  # little work
    assert even_parts([1000], 8) == [slice(0, 1)]
    assert even_parts([70] * 29, 1) == [slice(0, 29)]


@pytest.fixture(autouse=True)
def as_many_threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def three_threads(monkeypatch):
    torch.set_num_threads(3)
    monkeypatch.setattr(parallel, "_LEAST", 4)


class Left:
    """A row with some tokens to compute."""

    def __init__(self, left):
        self.left = left


def test_rows_share_a_pass_so_that_no_thread_waits(models, tokenizer, monkeypatch):
    scheduler = TransformersLM(models["llama"], tokenizer).scheduler
    monkeypatch.setattr("agentprm.engine.scheduler.PASS", 64)

    def shares(*left):
        return scheduler._shares([Left(left) for left in left])

    torch.set_num_threads(1)  # one after the other
    assert shares(40, 40, 40) == [40, 24, 0]
    assert shares(100, 10) == [64, 0]
    torch.set_num_threads(2)
    assert shares(40, 40) == [40, 40]
    assert shares(40, 40, 40, 40) == [40, 40, 40, 40]  # a little more than a pass, rather than a rest
    assert shares(60, 60, 60) == [42, 42, 42]  # not 60, 60 and 8
    assert shares(5, 90, 90, 90) == [5, 41, 41, 41]  # a small one whole
    assert shares(500) == [64]


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_nothing_changes(name, models, tokenizer, three_threads, monkeypatch):
    asks = [Prompt((("user", f"Who wrote the play number {i}? " + "north " * (i % 5)),)) for i in range(12)]
    texts = [[" the poet", " a river of the north"], [" Paris"]] * 6
    params = SamplingParams(max_tokens=5, temperature=1.0, seed=3)

    def results():
        lm = TransformersLM(models[name], tokenizer)
        scores = [score for row in lm.loglikelihood(asks, texts) for score in row]
        samples = lm.sample(asks[:6], 3, params)
        return scores, [c.text for row in samples for c in row], lm.tokens_computed

    parts = []
    monkeypatch.setattr(
        "agentprm.engine.engine.side_by_side",
        lambda work, calls, threads: parts.append(len(calls)) or side_by_side(work, calls, threads),
    )
    scores, samples, computed = results()
    assert max(parts) == 3
    monkeypatch.setattr("agentprm.engine.engine.even_parts", lambda sizes, threads: [slice(0, len(sizes))])
    again = results()
    assert scores == pytest.approx(again[0], abs=1e-4)
    assert (samples, computed) == again[1:]


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(0, 5), max_size=3))
def test_an_error_waits_for_the_others(bad):
    ended = []

    def work(number):
        try:
            if number in bad:
                raise RuntimeError(f"no {number}")
            threading.Event().wait(0.005)
            return number
        finally:
            ended.append(number)

    calls = [(number,) for number in range(6)]
    if bad:
        with pytest.raises(RuntimeError, match=f"no {min(bad)}"):
            side_by_side(work, calls, 2)
    else:
        assert side_by_side(work, calls, 2) == list(range(6))
    assert sorted(ended) == list(range(6))


def test_only_the_call_at_fault_fails(models, tokenizer, three_threads, monkeypatch):
    lm = TransformersLM(models["llama"], tokenizer)
    poison = set(tokenizer("river 😀 is")["input_ids"]) - set(tokenizer("river is")["input_ids"])
    forward = lm._engine.forward

    def failing(pieces, keep):
        if any(poison & set(piece.ids) for piece in pieces):
            raise RuntimeError("poisoned")
        return forward(pieces, keep)

    monkeypatch.setattr(lm._engine, "forward", failing)
    asks = [Prompt((("user", f"{i} The river {'is long ' * i}"),)) for i in range(9)]
    asks[4] = Prompt((("user", "The river 😀 is long"),))
    with ThreadPoolExecutor(9) as pool:
        calls = [pool.submit(lm.loglikelihood, [ask], [[" the river"]]) for ask in asks]
    for number, call in enumerate(calls):
        if number == 4:
            with pytest.raises(RuntimeError, match="poisoned"):
                call.result()
        else:
            right = TransformersLM(models["llama"], tokenizer).loglikelihood([asks[number]], [[" the river"]])
            assert call.result()[0] == pytest.approx(right[0], abs=1e-4)


def test_threads_of_torch_stay_what_they_were(three_threads):
    def seen():
        found = []
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return found[0]

    for count in (3, 2):
        torch.set_num_threads(count)
        barrier = threading.Barrier(count)

        def threads(_, barrier=barrier):
            barrier.wait(20)
            return torch.get_num_threads()

        assert side_by_side(threads, [(i,) for i in range(count)], count) == [1] * count
        assert (torch.get_num_threads(), seen()) == (count, count)


def test_models_with_different_numbers_of_threads_do_not_disturb_each_other():
    def run(count):
        return [side_by_side(lambda i: i, [(i,) for i in range(count)], count) for _ in range(60)]

    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(run, (2, 3, 4)))
    assert runs == [[list(range(count))] * 60 for count in (2, 3, 4)]


def test_threads_that_cannot_be_started(monkeypatch):
    assert side_by_side(lambda i: i, [(0,), (1,)], 2) == [0, 1]
    begin, begun = threading.Thread.start, []

    def start(thread):
        if thread.name.startswith("agentprm-part") and len(begun) == 2:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start"):
        side_by_side(lambda i: i, [(0,), (1,), (2,)], 3)
    for thread in begun:  # they do not wait for the third one for ever
        thread.join(20)
        assert not thread.is_alive()
    monkeypatch.undo()
    assert side_by_side(lambda i: i, [(0,), (1,), (2,)], 3) == [0, 1, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_process_has_threads_of_its_own():
    assert side_by_side(lambda x: x, [(1,), (2,)], 2) == [1, 2]
    child = os.fork()
    if not child:
        threading.Timer(30, os._exit, (1,)).start()
        os._exit(0 if side_by_side(lambda x: x, [(3,), (4,)], 2) == [3, 4] else 2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
