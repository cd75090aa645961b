"""Callers that use one model at once: merged, independent of each other, free to leave."""

import asyncio
import gc
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from agentprm.budget import metered  # noqa: E402
from agentprm.engine.tokenizing import common_length  # noqa: E402
from agentprm.lm import Prompt, SamplingParams, TransformersLM  # noqa: E402

FOUR = ["llama", "qwen3", "mistral", "gemma3"]  # full attention, sliding windows, and both in turn


def ask(text, prefix=""):
    return Prompt((("user", text),), prefix)


@pytest.fixture(params=FOUR)
def lm(request, models, tokenizer):
    return TransformersLM(models[request.param], tokenizer)


class Passes:
    """Watches forward passes; the first ones wait until they are let go."""

    def __init__(self, lm, hold=False):
        self.sizes = []
        self.begun = threading.Event()
        self.go = threading.Event()
        if not hold:
            self.go.set()
        forward = lm._engine.forward

        def watched(pieces, keep):
            self.sizes.append([len(piece.ids) for piece in pieces])
            self.begun.set()
            self.go.wait(10)
            return forward(pieces, keep)

        lm._engine.forward = watched


@contextmanager
def background(*works):
    with ThreadPoolExecutor(len(works)) as pool:
        yield [pool.submit(work) for work in works]


@contextmanager
def arriving(lm, *works):
    """The first call is in its first forward pass when the others arrive, all before its second."""
    passes = Passes(lm, hold=True)
    with ThreadPoolExecutor(len(works)) as pool:
        futures = [pool.submit(works[0])]
        try:
            assert passes.begun.wait(10)
            futures += [pool.submit(work) for work in works[1:]]
            until(lambda: len({id(item.request) for item in lm.scheduler._inbox}) == len(works) - 1)
        finally:
            passes.go.set()
        yield passes, [future.result for future in futures]


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


async def soon(condition, seconds=20):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


def same(left, right):
    assert [(c.text, c.tokens, c.finish_reason) for c in left] == [
        (c.text, c.tokens, c.finish_reason) for c in right
    ]
    for a, b in zip(left, right, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4, rel=1e-5)


CALLS = st.lists(
    st.tuples(
        st.sampled_from(["sample", "greedy", "score", "judge"]),
        st.sampled_from(["Who wrote the play?", "The capital of France is", "a", "passage thought " * 6]),
        st.sampled_from(["", "Step", "Step the river", "The"]),
        st.integers(1, 4),
        st.integers(0, 6),
    ),
    min_size=2,
    max_size=6,
)
SCORED = [" Paris", " the river is", " x"]


def plain(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=CALLS, bound=st.sampled_from([0, 30_000, 2**30]), slots=st.sampled_from([1, 200, 16384]))
def test_random_arrivals_change_no_result(lm, calls, bound, slots):
    """Calls that arrive while others run, against plain transformers and against each alone."""
    shared = TransformersLM(lm.model, lm.tokenizer, cache_bytes=bound, max_batch_tokens=slots)
    passes = Passes(shared)

    def run(model, call):
        kind, text, prefix, n, _ = call
        prompt = ask(text, prefix)
        if kind == "score":
            return model.loglikelihood([prompt], [SCORED])[0]
        if kind == "judge":
            return model.loglikelihood([prompt], [["A", "B"]])[0]
        params = SamplingParams(max_tokens=4 * n, temperature=float(kind == "sample"), top_p=0.9, seed=n)
        return model.sample([prompt], n, params)[0]

    def arrive(call):
        end = time.monotonic() + 0.5
        while len(passes.sizes) < call[-1] and time.monotonic() < end:
            time.sleep(0.0005)
        return run(shared, call)

    with background(*[lambda c=c: arrive(c) for c in calls]) as futures:
        results = [future.result() for future in futures]
    assert shared.cache_bytes <= bound
    for call, got in zip(calls, results, strict=True):
        ids = lm._text.encode([lm._text.render(ask(call[1], call[2]))])[0]
        if call[0] in ("score", "judge"):
            texts = SCORED if call[0] == "score" else ["A", "B"]
            for text, score in zip(texts, got, strict=True):
                new = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
                rows = plain(lm.model, ids + new)
                want = sum(rows[len(ids) - 1 + i, t].item() for i, t in enumerate(new))
                assert score == pytest.approx(want, abs=1e-4, rel=1e-5)
            continue
        lm.clear_cache()
        same(got, run(lm, call))
        if call[0] == "greedy":
            out = lm.model.generate(
                torch.tensor([ids]),
                max_new_tokens=4 * call[3],
                do_sample=False,
                eos_token_id=2,
                pad_token_id=0,
            )[0, len(ids) :].tolist()
            assert got[0].tokens == len(out)
            assert got[0].text == lm.tokenizer.decode([i for i in out if i > 2]).rstrip("\ufffd")


def test_waiting_callers_share_a_pass(llama):
    prompts = [ask(f"Who wrote the play? {'x' * i}") for i in range(6)]

    def score(i):
        return llama.loglikelihood([prompts[i]], [["A", "B"]])

    with arriving(llama, *[lambda i=i: score(i) for i in range(6)]) as (passes, results):
        got = [result() for result in results]
    assert len(passes.sizes) <= 3  # the first; what the five share; the five
    for i in range(6):
        llama.clear_cache()
        assert score(i)[0] == pytest.approx(got[i][0], abs=1e-4)


def test_joining_and_leaving_a_running_batch(llama):
    llama._ends = set()
    long = SamplingParams(max_tokens=40, temperature=1.0, seed=1)
    short = SamplingParams(max_tokens=5, temperature=1.0, seed=2)
    works = [lambda: llama.sample([ask("a")], 3, long), lambda: llama.sample([ask("The capital")], 2, short)]
    with arriving(llama, *works) as (passes, (first, second)):
        assert [c.tokens for c in first()[0] + second()[0]] == [40] * 3 + [5] * 2
    ids = llama._text.encode([llama._text.render(ask(text)) for text in ("a", "The capital")])
    new = len(ids[1]) - common_length(*ids)
    assert passes.sizes[1] == [3, new]  # the second prompt joins the first one's samples
    assert passes.sizes[2:6] == [[3, 2]] * 4  # together, nothing padded
    assert passes.sizes[6:] == [[3]] * 34


def test_a_scoring_call_does_not_wait_for_samples(llama):
    llama._ends = set()
    params = SamplingParams(max_tokens=300, temperature=1.0, seed=1)
    passes = Passes(llama)
    with background(lambda: llama.sample([ask("a")], 1, params)) as (sampling,):
        until(lambda: len(passes.sizes) > 3)
        before = len(passes.sizes)
        llama.loglikelihood([ask("The capital")], [["A"]])
        assert len(passes.sizes) - before < 20
        assert not sampling.done()


def test_a_small_call_does_not_wait_for_a_large_one(llama, monkeypatch):
    monkeypatch.setattr("agentprm.engine.scheduler.PASS", 64)
    large = [ask(f"{i} " + "the play was written by a poet " * 6) for i in range(20)]
    works = [
        lambda: llama.loglikelihood(large, [["A"]] * len(large)),
        lambda: llama.sample([ask("The capital")], 1, SamplingParams(max_tokens=3, temperature=0)),
        lambda: llama.loglikelihood([ask("Who wrote")], [["A", " x"]]),
    ]
    with arriving(llama, *works) as (passes, results):
        results[1](), results[2]()
        assert len(passes.sizes) < 12
        results[0]()
        assert len(passes.sizes) > 16


def test_everybody_pays_for_themselves(llama):
    prompts = [ask("Who wrote the play? " * 6, f"Step {i}") for i in range(5)]

    def pay(i):
        with metered() as meter:
            if i % 2:
                llama.sample([prompts[i]], 2, SamplingParams(max_tokens=3, temperature=1.0, seed=i))
            else:
                llama.loglikelihood([prompts[i]], [["A", " the river"]])
        return meter.usage

    with arriving(llama, *[lambda i=i: pay(i) for i in range(5)]) as (_, results):
        usages = [result() for result in results]
    assert sum(usage["computed_tokens"] for usage in usages) == llama.tokens_computed
    assert sum(u["prompt_tokens"] + u["completion_tokens"] for u in usages) == llama.tokens_asked
    for i, usage in enumerate(usages):
        assert usage["model_calls"] == 1
        assert usage["computed_tokens"] > 0
        assert (usage["completion_tokens"] > 0) == bool(i % 2)


def test_an_error_hits_only_its_own_request(llama, monkeypatch):
    llama._ends = set()
    rare = llama.tokenizer("東", add_special_tokens=False)["input_ids"][0]

    def fail(module, args, kwargs):
        if (kwargs["input_ids"] == rare).any():
            raise RuntimeError("out of memory")

    prompts = [ask("Who wrote the play?"), ask("The capital of France")]
    params = SamplingParams(max_tokens=12, temperature=0)
    want = llama.sample(prompts, 1, params)
    llama.clear_cache()
    handle = llama.model.register_forward_pre_hook(fail, with_kwargs=True)
    try:
        with arriving(
            llama,
            lambda: llama.sample(prompts[:1], 1, params),
            lambda: llama.sample([ask("東京")], 1, params),
            lambda: llama.sample(prompts[1:], 1, params),
            lambda: llama.loglikelihood([ask("東京")], [["A"]]),
        ) as (_, (first, bad, second, worse)):
            same(first()[0], want[0])
            same(second()[0], want[1])
            for result in (bad, worse):
                with pytest.raises(RuntimeError, match="out of memory"):
                    result()
    finally:
        handle.remove()
    assert llama.sample([ask("東京")], 1, params)[0][0].tokens == 12
    assert llama.scheduler.row_bytes == 0


@pytest.mark.parametrize("kind", ["sample", "score"])
async def test_cancelling_leaves_the_others_alone(llama, kind):
    llama._ends = set()
    params = SamplingParams(max_tokens=60, temperature=1.0, seed=3)
    want = llama.sample([ask("The capital")], 2, params)[0]
    llama.clear_cache()
    passes = Passes(llama)
    other = asyncio.create_task(llama.asample([ask("The capital")], 2, params))
    await asyncio.sleep(0)
    if kind == "sample":
        gone = asyncio.create_task(
            llama.asample([ask("Who wrote the play?")], 3, SamplingParams(max_tokens=400, seed=0))
        )
        await soon(lambda: any(3 in sizes for sizes in passes.sizes))
    else:
        texts = [" the river" * 40 + " x" * i for i in range(8)]
        gone = asyncio.create_task(llama.aloglikelihood([ask(f"play {i}") for i in range(50)], [texts] * 50))
        await soon(lambda: len(passes.sizes) >= 4)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    at = len(passes.sizes)
    same((await other)[0], want)
    # The pass under way may still have had the rows of the one who left; later ones have not.
    assert all(sum(sizes) <= 2 or sum(sizes) < 60 for sizes in passes.sizes[at + 1 :])
    assert not any(3 in sizes for sizes in passes.sizes[at + 1 :])
    until(lambda: llama.scheduler.row_bytes == 0)
    assert llama.scheduler._idle()


async def test_cancelling_frees_memory_and_counts_what_it_cost(llama):
    llama._ends = set()
    passes = Passes(llama)
    with metered() as meter:
        task = asyncio.create_task(llama.asample([ask("a " * 60)], 8, SamplingParams(max_tokens=300, seed=0)))
        await soon(lambda: len(passes.sizes) >= 20)
        held = llama.scheduler.row_bytes
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert held > 0
    until(lambda: llama.scheduler._idle())
    gc.collect()
    assert llama.scheduler.row_bytes == 0
    assert 0 < meter.usage["computed_tokens"] <= llama.tokens_computed
    # Nothing of the samples was kept, only the prompt, which others may share.
    prompt = len(llama._text.encode([llama._text.render(ask("a " * 60))])[0])
    per_token = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, head size, bytes
    assert llama.cache_bytes == prompt * per_token


async def test_cancelling_before_the_work_begins(llama):
    passes = Passes(llama, hold=True)
    blocker = asyncio.create_task(llama.asample([ask("a")], 1, SamplingParams(max_tokens=4, temperature=0)))
    await soon(passes.begun.is_set)
    gone = asyncio.create_task(llama.aloglikelihood([ask("Who wrote the play?")], [["A"]]))
    await soon(lambda: llama.scheduler._inbox)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    passes.go.set()
    await blocker
    prompt = len(llama._text.encode([llama._text.render(ask("a"))])[0])
    assert llama.tokens_computed <= prompt + 3


async def test_many_tasks_on_one_loop(llama):
    """More waiting calls than a thread pool has threads: none of them needs one."""
    prompts = [ask("Who wrote", f"the play {i}") for i in range(100)]
    want = llama.loglikelihood(prompts, [["A", " river bank"]] * 100)
    llama.clear_cache()
    got = await asyncio.gather(*(llama.aloglikelihood([p], [["A", " river bank"]]) for p in prompts))
    for mine, (scores,) in zip(want, got, strict=True):
        assert scores == pytest.approx(mine, abs=1e-4)


def test_an_interrupt_frees_the_work(llama, monkeypatch):
    """Ctrl-C in a thread that waits: the call ends, its work stops, the next call works."""
    llama._ends = set()
    passes = Passes(llama)

    def interrupted(self, timeout=None):
        until(lambda: len(passes.sizes) > 5)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("concurrent.futures.Future.result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            llama.sample([ask("a")], 2, SamplingParams(max_tokens=400, seed=0))
    until(lambda: llama.scheduler._idle())
    assert len(passes.sizes) < 300
    assert llama.sample([ask("a")], 1, SamplingParams(max_tokens=3))[0][0].tokens == 3


def test_the_thread_ends_when_there_is_nothing_to_do(llama, monkeypatch):
    monkeypatch.setattr("agentprm.engine.scheduler._LINGER_S", 0.02)

    def threads():
        return [t for t in threading.enumerate() if t.name == "agentprm-lm" and t is llama.scheduler._thread]

    for _ in range(3):
        llama.loglikelihood([ask("a")], [["A"]])
        until(lambda: not threads())
    assert llama.scheduler._thread is None


def test_without_a_thread_to_be_had(llama, monkeypatch):
    want = llama.loglikelihood([ask("a")], [["A", " the river"]])

    def none_left(self):
        raise RuntimeError("can't start new thread")

    until(lambda: llama.scheduler._idle())
    llama.scheduler.close()
    llama.scheduler._reset()
    monkeypatch.setattr(threading.Thread, "start", none_left)
    assert llama.loglikelihood([ask("a")], [["A", " the river"]]) == [pytest.approx(want[0], abs=1e-4)]
    assert llama.sample([ask("a")], 2, SamplingParams(max_tokens=3, seed=0))[0][1].tokens > 0


def test_closed_at_exit(llama):
    passes = Passes(llama, hold=True)
    with background(lambda: llama.sample([ask("a")], 1, SamplingParams(max_tokens=50))) as (future,):
        assert passes.begun.wait(20)
        closing = threading.Thread(target=llama.scheduler.close)
        closing.start()
        until(lambda: llama.scheduler._closed)
        passes.go.set()
        closing.join()
        with pytest.raises((RuntimeError, CancelledError)):
            future.result()
    # Somebody's own clean-up at exit may still ask.
    assert llama.loglikelihood([ask("a")], [["A"]])


SCRIPT = """
import os, sys, threading, time
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import conftest
from agentprm.lm import Prompt, SamplingParams, TransformersLM
tokenizer = conftest.build_tokenizer()
lm = TransformersLM(conftest.build_model("llama", len(tokenizer)), tokenizer)
lm._ends = set()
ask = Prompt((("user", "a"),))
long = SamplingParams(max_tokens=450, temperature=1.0, seed=0)
want = lm.loglikelihood([ask], [["A", " the river"]])[0]

def sample():
    try:
        while True:
            lm.sample([ask], 16, long)
    except Exception as error:
        pass

threading.Thread(target=sample, daemon=True).start()
while lm.tokens_computed < 200:
    time.sleep(0.001)
child = os.fork() if hasattr(os, "fork") else None
if child == 0:
    got = lm.loglikelihood([ask], [["A", " the river"]])[0]
    ok = all(abs(a - b) < 1e-4 for a, b in zip(got, want))
    ok = ok and lm.sample([ask], 2, SamplingParams(max_tokens=3, seed=0))[0][0].tokens == 3
    os._exit(0 if ok else 1)
assert child is None or os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("leaving")
"""


def test_forking_and_leaving_while_work_is_under_way():
    """A forked process has a model of its own; the interpreter ends without finishing what nobody reads."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-c", SCRIPT, os.path.dirname(__file__)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, done.stdout) == (0, "leaving\n"), done.stderr
    assert "Traceback" not in done.stderr


def test_rows_of_random_shapes(models, tokenizer):
    """Rows and lanes in one ragged pass, against one forward pass for each."""
    from agentprm.engine.cache import Known, Row
    from agentprm.engine.engine import Piece

    random.seed(1)
    for name in FOUR:
        engine = TransformersLM(models[name], tokenizer)._engine
        model = models[name]
        rows, texts = [], []
        for lanes in (0, 1, 3):
            trunk = [random.randrange(300) for _ in range(random.randint(1, 40))]
            row = Row(Known(), 0, engine.device)
            engine._append([Piece(row, trunk, range(len(trunk)), [0] * len(trunk), [0] * len(trunk))], [])
            rows.append((row, trunk, lanes))
        pieces, keep, at = [], [], 0
        for row, trunk, lanes in rows:
            ids, position, lane, start = [], [], [], []
            for number in range(1, max(1, lanes) + 1):
                new = [random.randrange(300) for _ in range(random.randint(1, 30))]
                begin = random.randint(1, len(trunk)) if lanes else len(trunk)
                texts.append((trunk[:begin] + new, len(new)))
                ids += new
                position += range(begin, begin + len(new))
                lane += [number if lanes else 0] * len(new)
                start += [begin] * len(new)
            pieces.append(Piece(row, ids, position, lane, start))
            keep += range(at, at + len(ids))
            at += len(ids)
        got = engine._append(pieces, keep)
        with torch.no_grad():
            want = [model(torch.tensor([text]), use_cache=False).logits[0, -count:] for text, count in texts]
        assert torch.allclose(got, torch.cat(want), atol=1e-4, rtol=1e-4)
