"""The base of rerankers: asking in batches, halving what fails, and routines that go wrong."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document

from agentprm.errors import ConfigurationError
from agentprm.lm import Capabilities, ChatLM
from agentprm.rerank import Assessor, Judging, Ranked, Reranker
from agentprm.rerank.judging import Missing, width_of
from agentprm.testing import ScriptedChatModel, ScriptedLanguageModel

DOCS = Path(__file__).resolve().parents[3] / "docs" / "reranking.md"


def asked(judging, judge, items):
    """Runs `Judging.ask` by hand."""
    work = judging.ask(judge, items)
    try:
        call = next(work)
        while True:
            call = work.send(call.sync())
    except StopIteration as done:
        return done.value


@settings(deadline=None, max_examples=150)
@given(
    count=st.integers(0, 40),
    bad=st.sets(st.integers(0, 39)),
    bound=st.none() | st.integers(0, 45),
    width=st.sampled_from([None, 1, 5]),
    deadline=st.sampled_from([None, 60.0]),
)
def test_every_item_is_judged_once_and_failures_stand_alone(count, bad, bound, width, deadline):
    judged, batches = [], []

    def judge(items):
        batches.append(len(items))
        if bad & set(items):
            raise RuntimeError("no")
        judged.extend(items)
        return [-item for item in items]

    judging = Judging(bound, deadline)
    results = asked(judging, Assessor(judge, width=width, cost=2), list(range(count)))
    reached = count if bound is None else min(count, bound)
    failed = bad & set(range(reached))
    expected = [Missing.FAILED if i in failed else -i for i in range(reached)]
    expected += [Missing.UNASKED] * (count - reached)
    assert results == expected
    assert sorted(judged) == [i for i in range(reached) if i not in failed]
    assert judging.judgements == reached
    assert judging.calls == judging.failures == 2 * len(failed)
    assert judging.stopped == ("max_judgements" if reached < count else None)
    assert len(judging.errors) == min(5, len(failed))
    if width is not None:
        assert set(batches) <= {1}


def test_a_second_question_counts_on_and_a_stopped_run_asks_nothing():
    judging = Judging(max_judgements=3)
    judge = Assessor(lambda items: items)
    assert asked(judging, judge, [1, 2]) == [1, 2]
    assert asked(judging, judge, [3, 4]) == [3, Missing.UNASKED]
    assert asked(judging, judge, [5]) == [Missing.UNASKED]
    assert (judging.judgements, judging.rounds, judging.judgements_left) == (3, 2, 0)
    assert not Missing.FAILED


def test_a_width_must_be_positive():
    with pytest.raises(ConfigurationError, match="width"):
        Assessor(lambda items: items, width=0)


def test_apis_are_asked_side_by_side_and_local_models_in_batches():
    assert width_of(ChatLM(ScriptedChatModel(script={}), max_concurrency=3)) == 3
    assert width_of(ScriptedLanguageModel({})) == 8
    batching = ScriptedLanguageModel({}, capabilities=Capabilities(prefix_cache=True))
    assert width_of(batching) is None


class Fixed(Reranker):
    """Returns what it is told."""

    ranked: tuple = ()

    @property
    def method(self):
        return "fixed"

    def routine(self, query, documents, judging):
        yield from ()
        return Ranked(*self.ranked)


def test_a_routine_may_leave_places_out_but_not_invent_them():
    documents = [Document(text) for text in "abc"]
    (first, *_) = Fixed(ranked=([2], [0, 0, 1])).compress_documents(documents, "q")
    assert first.page_content == "c"
    assert Fixed(ranked=([2], [0, 0, 1])).rank(documents, "q").order == (2, 0, 1)
    for wrong in (([3], [0, 0, 1]), ([0, 1, 2], [0, 1])):
        with pytest.raises(ConfigurationError, match="must rank 3 documents"):
            Fixed(ranked=wrong).compress_documents(documents, "q")


def test_the_documented_reranker_of_one_s_own_works():
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if "class Longest" in block]
    namespace = {}
    exec(block, namespace)  # our own page
    ranked = namespace["Longest"]().compress_documents([Document("a"), Document("abc")], "q")
    assert [d.page_content for d in ranked] == ["abc", "a"]
    assert ranked[0].metadata["rerank"]["calls"] == 2


@pytest.mark.parametrize("width", [None, 3])
def test_without_budget_or_time_the_judge_hears_nothing(width):
    def never(items):
        raise AssertionError(items)

    for judging in (Judging(max_judgements=0), Judging(deadline=0.0)):
        assert asked(judging, Assessor(never, width=width), [1, 2]) == [Missing.UNASKED] * 2
        assert (judging.rounds, judging.judgements, judging.errors) == (0, 0, [])
        assert judging.stopped == ("deadline" if judging.deadline is not None else "max_judgements")
