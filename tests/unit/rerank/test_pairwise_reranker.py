"""The pairwise reranker: memory, budgets, deadlines, failing judges, concurrency, documents."""

import asyncio
import threading
import time
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.errors import GraphInterrupt
from pydantic import ValidationError

from agentprm.errors import ConfigurationError, TransientModelError
from agentprm.lm import ChatLM
from agentprm.rerank import (
    FunctionComparator,
    PairwiseReranker,
    Ranked,
    VerdictCache,
    heapsort,
)
from agentprm.rerank.comparator import Comparator, Comparison
from agentprm.retrievers.retrieving import rrf
from agentprm.testing import ScriptedChatModel, ScriptedLanguageModel
from tests.unit.rerank.graded import best_first, documents, grade_in, places

METHODS = ("all_pair", "heapsort", "sliding", "active")


class Judge(Comparator):
    """Prefers the higher grade in the text, and writes down what it was asked.

    Pairs for which `fails` is true raise an exception.
    """

    def __init__(self, *, width=None, fails=lambda a, b: False, error=RuntimeError, seconds=0.0):
        self.width, self.fails, self.error, self.seconds = width, fails, error, seconds
        self.batches, self.running, self.most_running = [], 0, 0
        self.lock = threading.Lock()

    @property
    def asked(self):
        return [pair for batch in self.batches for pair in batch]

    def _begin(self, pairs):
        with self.lock:
            self.batches.append([(a.page_content, b.page_content) for a, b in pairs])
            self.running += 1
            self.most_running = max(self.most_running, self.running)

    def _end(self, pairs):
        with self.lock:
            self.running -= 1
        if any(self.fails(a.page_content, b.page_content) for a, b in pairs):
            raise self.error("the judge is not at home")
        grades = [(grade_in(a.page_content), grade_in(b.page_content)) for a, b in pairs]
        return [Comparison(0.5 + 0.5 * ((a > b) - (a < b))) for a, b in grades]

    def compare(self, query, pairs):
        self._begin(pairs)
        time.sleep(self.seconds)
        return self._end(pairs)

    async def acompare(self, query, pairs):
        self._begin(pairs)
        await asyncio.sleep(self.seconds)
        return self._end(pairs)


def reranker(judge, **fields):
    return PairwiseReranker(model=judge, **{"cache": VerdictCache(), **fields})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("width", [None, 4])
def test_documents_come_in_a_new_order_as_new_objects(method, width):
    grades = [1, 3, 0, 2, 3, 1]
    given = documents(grades)
    before = [document.model_copy(deep=True) for document in given]
    judge = Judge(width=width)
    ranked = reranker(judge, aggregation=method).compress_documents(given, "q")
    assert places(ranked) == best_first(grades)
    assert given == before
    assert not {id(d) for d in ranked} & {id(d) for d in given}
    names = {
        "all_pair": "all-pair",
        "heapsort": "heapsort-10",
        "sliding": "sliding-10",
        "active": "active-10",
    }
    for rank, document in enumerate(ranked):
        record = document.metadata["rerank"]
        assert record["rank"] == rank
        assert record["method"] == f"pairwise {names[method]}"
        assert record["calls"] == 2 * len(judge.asked)
        assert record["failures"] == 0
        assert "stopped" not in record
        assert [type(record[key]) for key in ("score", "rank", "prior_rank", "calls")] == [
            float,
            int,
            int,
            int,
        ]
    serde = JsonPlusSerializer(pickle_fallback=False)
    assert serde.loads_typed(serde.dumps_typed(ranked)) == ranked


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=25)
@given(
    grades=st.lists(st.integers(0, 3), max_size=12),
    k=st.integers(1, 12),
    bound=st.none() | st.integers(0, 30),
    bad=st.integers(0, 3),
    width=st.sampled_from([None, 3]),
)
def test_async_equals_sync_and_nobody_is_lost(method, grades, k, bound, bad, width):
    def fails(a, b):
        return bad in (grade_in(a), grade_in(b)) and grade_in(a) != grade_in(b)

    given_documents = documents(grades)
    fields = {"aggregation": method, "k": k, "max_judgements": bound}
    judge, twin = Judge(width=width, fails=fails), Judge(width=width, fails=fails)
    ranked = reranker(judge, **fields).compress_documents(given_documents, "q")
    again = asyncio.run(reranker(twin, **fields).acompress_documents(given_documents, "q"))
    assert ranked == again
    assert sorted(places(ranked)) == list(range(len(grades)))
    if bound is not None:
        assert len({frozenset(pair) for pair in judge.asked}) <= bound


class TestMemory:
    def test_no_pair_is_asked_twice(self):
        grades = [0, 1, 2, 0, 3, 1, 2, 0, 1, 3]
        cache, judge = VerdictCache(), Judge()
        first = reranker(judge, aggregation="sliding", cache=cache).rank(documents(grades), "q")
        assert len({frozenset(pair) for pair in judge.asked}) == len(judge.asked) == len(cache)
        again = reranker(judge, aggregation="sliding", cache=cache).rank(documents(grades), "q")
        assert again.judging.calls == 0
        assert again.order == first.order
        other = reranker(judge, aggregation="all_pair", cache=cache).rank(documents(grades)[::-1], "q")
        assert 0 < other.judging.judgements < 45
        assert len({frozenset(pair) for pair in judge.asked}) == len(judge.asked) == len(cache) == 45

    def test_it_is_shared_by_default(self):
        judge = Judge()
        PairwiseReranker(model=judge).rank(documents([0, 1]), "q")
        assert (
            PairwiseReranker(model=judge, aggregation="all_pair").rank(documents([0, 1]), "q").judging.calls
            == 0
        )
        assert PairwiseReranker(model=judge, cache=None).rank(documents([0, 1]), "q").judging.calls == 2

    def test_other_queries_texts_and_judges_are_other_questions(self):
        cache, judge = VerdictCache(), Judge()
        reranker(judge, cache=cache).rank(documents([0, 1]), "q")
        assert reranker(judge, cache=cache).rank(documents([0, 1]), "another").judging.calls == 2
        assert reranker(judge, cache=cache).rank(documents([0, 2]), "q").judging.calls == 2
        assert reranker(Judge(), cache=cache).rank(documents([0, 1]), "q").judging.calls == 2

    def test_failures_are_asked_again_in_the_next_list_but_not_in_this_one(self):
        judge = Judge(fails=lambda a, b: True)
        cache = VerdictCache()
        ranking = reranker(judge, k=3, cache=cache).rank(documents([0, 0, 0, 0]), "q")
        # Three pairs; the batches that failed were halved until each stood alone.
        alone = [batch[0] for batch in judge.batches if len(batch) == 1]
        assert len(alone) == len(set(alone)) == 3
        assert (ranking.judging.calls, ranking.judging.failures, len(cache)) == (6, 6, 0)
        judge.fails = lambda a, b: False
        assert reranker(judge, k=3, cache=cache).rank(documents([0, 0, 0, 0]), "q").judging.failures == 0

    def test_unusable_answers_are_not_remembered(self):
        replies = iter(["Well.", "Passage A", "Passage B", "Passage A"])
        model, cache = ScriptedChatModel(script=lambda text: next(replies)), VerdictCache()
        # One request at a time, so that the replies come in order.
        lm = ChatLM(model, max_concurrency=1)
        first = reranker(lm, cache=cache).rank(documents([0, 1]), "q")
        assert (first.order, first.judging.failures, len(cache)) == ((0, 1), 1, 0)
        again = reranker(lm, cache=cache).rank(documents([0, 1]), "q")
        assert (again.order, again.judging.failures, len(cache)) == ((1, 0), 0, 1)

    def test_it_is_bounded_and_forgets_the_oldest(self):
        cache = VerdictCache(size=2)
        for text in ("a", "b", "c"):
            cache.put("f", "q", text, "z", 0.75)
        assert len(cache) == 2
        assert cache.get("f", "q", "a", "z") is None
        assert cache.get("f", "q", "z", "c") == 0.25
        assert (cache.hits, cache.misses) == (1, 1)
        cache.clear()
        assert (len(cache), cache.hits) == (0, 0)
        with pytest.raises(ConfigurationError, match="size"):
            VerdictCache(0)

    def test_keys_do_not_run_into_each_other(self):
        cache = VerdictCache()
        cache.put("f", "q", "ab", "c", 1.0)
        assert cache.get("f", "q", "a", "bc") is None
        assert cache.get("f", "qa", "b", "c") is None
        cache.put("f", "q", "\ud800", "x", 1.0)  # half a surrogate pair, as broken files have it
        assert cache.get("f", "q", "\ud800", "x") == 1.0

    def test_threads_share_it(self):
        cache, judge = VerdictCache(), Judge()
        threads = [
            threading.Thread(target=lambda: reranker(judge, cache=cache).rank(documents([0, 1, 2, 3]), "q"))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(cache) == 6


class TestFailures:
    @pytest.mark.parametrize("width", [None, 2])
    @pytest.mark.parametrize("error", [RuntimeError, TransientModelError, TimeoutError, KeyError, TypeError])
    def test_a_judge_that_fails_on_one_pair_loses_no_list(self, width, error, caplog):
        def fails(a, b):
            return {a, b} == {"text 0 of grade 1", "text 2 of grade 3"}

        judge = Judge(width=width, fails=fails, error=error)
        ranked = reranker(judge, aggregation="all_pair").compress_documents(documents([1, 2, 3]), "q")
        assert places(ranked) == [2, 1, 0]
        assert ranked[0].metadata["rerank"]["failures"] == 2
        assert ranked[0].metadata["rerank"]["score"] == 0.75
        assert "not at home" in caplog.text

    def test_a_failing_batch_is_halved_and_the_others_are_judged(self):
        judge = Judge(fails=lambda a, b: "text 7" in a + b and "text 3" in a + b)
        ranking = reranker(judge, aggregation="all_pair").rank(documents(range(16)), "q")
        assert ranking.order == tuple(reversed(range(16)))
        assert (ranking.judging.judgements, ranking.judging.failures) == (120, 2)
        assert len(judge.batches) < 20

    @pytest.mark.parametrize("error", [ConfigurationError, GraphInterrupt, KeyboardInterrupt])
    @pytest.mark.parametrize("width", [None, 2])
    async def test_errors_that_are_not_the_judge_s_pass(self, error, width):
        judge = Judge(width=width, fails=lambda a, b: True, error=error)
        with pytest.raises(error):
            reranker(judge).compress_documents(documents([1, 2, 3]), "q")
        if error is not KeyboardInterrupt:  # asyncio hands it to the loop's caller
            with pytest.raises(error):
                await reranker(judge).acompress_documents(documents([1, 2, 3]), "q")

    def test_a_judge_with_too_few_verdicts_is_named(self):
        class Short(Judge):
            def compare(self, query, pairs):
                return super().compare(query, pairs)[1:]

        with pytest.raises(ConfigurationError, match=r"0 results for 1 items"):
            reranker(Short()).compress_documents(documents([1, 2]), "q")

    def test_a_verdict_that_is_no_probability_is_a_tie(self):
        class Odd(Judge):
            def compare(self, query, pairs):
                return [Comparison(float("nan"))] * len(pairs)

        cache = VerdictCache()
        ranked = reranker(Odd(), cache=cache).compress_documents(documents([1, 2]), "q")
        assert places(ranked) == [0, 1]
        assert (ranked[0].metadata["rerank"]["failures"], len(cache)) == (1, 0)

    def test_a_chat_model_that_breaks_now_and_then(self):
        count = iter(range(10_000))

        def reply(text):
            if next(count) % 5 == 4:
                raise ValueError("no such deployment")
            first, second = text.split("Passage A:")[1].split("Passage B:")
            return "Passage A" if grade_in(first) > grade_in(second) else "Passage B"

        model = ScriptedChatModel(script=reply)
        ranked = reranker(model, aggregation="all_pair").compress_documents(documents(range(8)), "q")
        assert sorted(places(ranked)) == list(range(8))
        assert 0 < ranked[0].metadata["rerank"]["failures"] < 56
        assert len(model.prompts) == 56  # no prompt is repeated because another one failed


class TestBounds:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("bound", [0, 1, 5])
    def test_a_budget_ends_in_a_valid_order(self, method, bound):
        judge = Judge()
        ranked = reranker(judge, aggregation=method, max_judgements=bound).compress_documents(
            documents(range(12)), "q"
        )
        assert sorted(places(ranked)) == list(range(12))
        assert len(judge.asked) == bound
        record = ranked[0].metadata["rerank"]
        assert (record["stopped"], record["calls"]) == ("max_judgements", 2 * bound)
        if bound == 0:
            assert places(ranked) == list(range(12))

    def test_a_budget_that_suffices_is_not_reported(self):
        ranked = reranker(Judge(), aggregation="all_pair", max_judgements=3).compress_documents(
            documents([0, 1, 2]), "q"
        )
        assert "stopped" not in ranked[0].metadata["rerank"]

    def test_known_verdicts_are_free(self):
        cache, judge = VerdictCache(), Judge()
        full = reranker(judge, cache=cache, k=4).rank(documents(range(6)), "q")
        again = reranker(judge, cache=cache, k=4, max_judgements=0).rank(documents(range(6)), "q")
        assert (again.order, again.judging.stopped) == (full.order, None)

    @pytest.mark.parametrize("width", [None, 2])
    @pytest.mark.parametrize("how", ["sync", "async"])
    def test_a_deadline_ends_in_a_valid_order(self, width, how):
        judge = Judge(width=width, seconds=0.03)
        one = reranker(judge, aggregation="all_pair", deadline=0.3)
        start = time.monotonic()
        if how == "sync":
            ranked = one.compress_documents(documents(range(40)), "q")
        else:
            ranked = asyncio.run(one.acompress_documents(documents(range(40)), "q"))
        assert time.monotonic() - start < 10  # all of it would take 12 seconds or more
        assert sorted(places(ranked)) == list(range(40))
        # A batching judge is given larger batches once it has shown its speed.
        if width is not None:
            assert ranked[0].metadata["rerank"]["stopped"] == "deadline"
            assert len(judge.asked) < 780

    @pytest.mark.parametrize("how", ["sync", "async"])
    def test_a_judge_that_hangs_is_not_waited_for(self, how):
        gate = threading.Event()

        def slow(query, a, b):
            gate.wait(60)
            return 1.0

        async def aslow(query, a, b):
            await asyncio.sleep(60)
            return 1.0

        one = reranker(FunctionComparator(slow, afunction=aslow), deadline=0.1)
        start = time.monotonic()
        try:
            if how == "sync":
                ranked = one.compress_documents(documents([0, 1, 2]), "q")
            else:
                ranked = asyncio.run(one.acompress_documents(documents([0, 1, 2]), "q"))
        finally:
            gate.set()
        assert time.monotonic() - start < 20
        assert places(ranked) == [0, 1, 2]
        assert ranked[0].metadata["rerank"]["stopped"] == "deadline"

    def test_no_time_at_all(self):
        judge = Judge()
        ranked = reranker(judge, deadline=0).compress_documents(documents([0, 1]), "q")
        assert (places(ranked), judge.asked) == ([0, 1], [])

    async def test_cancelling_cancels_the_judge(self):
        judge = Judge(width=4, seconds=30)
        work = asyncio.create_task(reranker(judge).acompress_documents(documents([0, 1, 2]), "q"))
        await asyncio.sleep(0.05)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    def test_top_n(self):
        ranked = reranker(Judge(), top_n=2).compress_documents(documents([0, 1, 2]), "q")
        assert places(ranked) == [2, 1]

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.sampled_from([0.3, 1.0, 2.0]))
    def test_the_incoming_order_may_have_a_say(self, grades, weight):
        plain = reranker(Judge(), aggregation="all_pair").compress_documents(documents(grades), "q")
        ranked = reranker(Judge(), aggregation="all_pair", prior_weight=weight).compress_documents(
            documents(grades), "q"
        )
        lists = [[(d, 0.0) for d in plain], [(d, 0.0) for d in documents(grades)]]
        expected = rrf(lists, [1.0, weight])
        prior = {d.id: place for place, d in enumerate(documents(grades))}
        expected.sort(key=lambda found: (-found[1], prior[found[0].id]))
        assert [d.id for d in ranked] == [d.id for d, _ in expected]
        for document, (_, score) in zip(ranked, expected, strict=True):
            assert document.metadata["rerank"]["score"] == pytest.approx(score)
            assert document.metadata["rerank"]["method"] == f"pairwise all-pair with prior {weight:g}"

    @pytest.mark.parametrize(
        "fields",
        [
            {"k": 0},
            {"top_n": 0},
            {"max_judgements": -1},
            {"deadline": -1},
            {"deadline": float("nan")},
            {"prior_weight": -1},
            {"prior_weight": float("nan")},
        ],
    )
    def test_refused_settings(self, fields):
        with pytest.raises(ConfigurationError, match=f"^{next(iter(fields))} must be"):
            PairwiseReranker(model=Judge(), **fields)

    def test_a_model_that_cannot_compare_is_refused_at_construction(self):
        with pytest.raises(ConfigurationError, match="int is no language model"):
            PairwiseReranker(model=7)

    def test_a_misspelt_setting_is_refused(self):
        with pytest.raises(ValidationError, match="passes"):
            PairwiseReranker(model=Judge(), passes=3)


class TestConcurrency:
    def test_all_pairs_go_to_a_batching_judge_at_once(self):
        judge = Judge()
        reranker(judge, aggregation="all_pair").rank(documents(range(20)), "q")
        assert [len(batch) for batch in judge.batches] == [190]

    def test_sliding_goes_as_a_wavefront(self):
        judge = Judge()
        ranking = reranker(judge, k=5, cache=None).rank(documents([0] * 20), "q")
        assert ranking.judging.rounds == len(judge.batches) == 19  # the later passes are known by then
        judge = Judge()
        ranking = reranker(judge, k=5, cache=None).rank(documents(range(20)), "q")
        assert ranking.judging.rounds == 19 + 4
        assert ranking.judging.judgements == 19 + 18 + 17 + 16 + 15

    @pytest.mark.parametrize("how", ["sync", "async"])
    def test_requests_run_side_by_side_up_to_the_width(self, how):
        judge = Judge(width=6, seconds=0.1)
        one = reranker(judge, aggregation="all_pair")
        if how == "sync":
            one.rank(documents(range(9)), "q")
        else:
            asyncio.run(one.arank(documents(range(9)), "q"))
        assert judge.most_running == 6
        assert [len(batch) for batch in judge.batches] == [1] * 36


class TestDocuments:
    def test_none_and_one(self):
        assert reranker(Judge()).compress_documents([], "q") == []
        (only,) = reranker(Judge()).compress_documents(documents([1]), "q")
        assert only.metadata["rerank"]["score"] == 0.5
        assert only.metadata["rerank"]["calls"] == 0

    @pytest.mark.parametrize("method", METHODS)
    def test_documents_with_one_id_stay_apart(self, method):
        ranked = reranker(Judge(), aggregation=method).compress_documents(
            documents([0, 2, 1], same_id=True), "q"
        )
        assert places(ranked) == [1, 2, 0]
        assert {d.id for d in ranked} == {"same"}

    @pytest.mark.parametrize("method", METHODS)
    def test_copies_of_a_passage_are_a_tie_and_cost_one_question(self, method):
        def prefers_gold(prompt, text):
            best = "A" if "gold" in prompt.split("Passage B:")[0] else "B"
            return 0.0 if text.endswith(best) else -3.0

        model = ScriptedLanguageModel({}, likelihood=prefers_gold)
        given = [Document("lead"), Document("gold"), Document("lead", id="3"), Document("gold")]
        ranked = reranker(model, aggregation=method).compress_documents(given, "q")
        assert places(ranked) == [1, 3, 0, 2]
        assert ranked[0].metadata["rerank"]["calls"] == 2

    def test_metadata_is_kept_and_an_old_record_replaced(self):
        given = Document("text 0 of grade 1", metadata={"source": {"page": 3}, "rerank": {"score": 9}})
        (ranked,) = reranker(Judge()).compress_documents([given], "q")
        assert ranked.metadata["source"] == {"page": 3}
        assert ranked.metadata["rerank"]["score"] == 0.5
        assert given.metadata["rerank"] == {"score": 9}

    def test_one_s_own_tournament(self):
        def champion(n, k, left):
            """Knocks out from the bottom; only the winner is settled."""
            best = n - 1
            for other in reversed(range(n - 1)):
                (p,) = yield [(best, other)]
                best = best if p is not None and p > 0.5 else other
            return Ranked([best], [0.0] * n)

        ranked = reranker(Judge(), aggregation=champion).compress_documents(documents([1, 0, 3, 2]), "q")
        assert places(ranked) == [2, 0, 1, 3]
        assert ranked[0].metadata["rerank"]["method"] == "pairwise champion-10"
        assert reranker(Judge(), aggregation=partial(heapsort, stable=False)).method == "pairwise heapsort-10"

    def test_callbacks_see_the_calls_of_a_chat_model(self):
        class Counter(BaseCallbackHandler):
            seen = 0

            def on_chat_model_start(self, *args, **kwargs):
                Counter.seen += 1

        model = ScriptedChatModel(script=lambda text: "Passage A")
        one = reranker(model)
        one.compress_documents(documents([0, 1]), "q", callbacks=[Counter()])
        assert Counter.seen == 2
        asyncio.run(reranker(model, cache=None).acompress_documents(documents([0, 1]), "q", [Counter()]))
        assert Counter.seen == 4
