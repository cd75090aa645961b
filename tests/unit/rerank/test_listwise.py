"""Listwise windows: none of the holes of the reference code; answers of any form."""

import asyncio
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentprm.rerank.listwise import ListwiseReranker, parse_permutation, sliding_windows
from agentprm.testing import ScriptedChatModel, ScriptedLanguageModel
from tests.unit.rerank.graded import best_first, documents, places

SHOWN = re.compile(r"^\[(\d+)\] .*?grade (-?\d+)$", re.MULTILINE)


def perfect(prompt):
    shown = [(int(number), int(grade)) for number, grade in SHOWN.findall(prompt)]
    return " > ".join(f"[{number}]" for number, _ in sorted(shown, key=lambda pair: (-pair[1], pair[0])))


def chat(script=perfect):
    return ScriptedChatModel(script=script)


@given(st.integers(1, 120), st.integers(2, 30), st.integers(1, 29))
@settings(deadline=None, max_examples=300)
def test_windows_reach_every_place_and_overlap(count, size, step):
    step = min(step, size - 1)
    spans = sliding_windows(count, size, step)
    assert spans[0][1] == count
    assert spans[-1][0] == 0
    assert {place for span in spans for place in range(*span)} == set(range(count))
    assert all(0 < end - start <= size for start, end in spans)
    for (start, end), (lower_start, _) in zip(spans[1:], spans, strict=False):
        assert start < lower_start < end
        assert lower_start - start <= step


def test_the_holes_of_unclamped_windows():
    # Starts counted down from n - size without clamping never look at the top of these lists.
    assert sliding_windows(25, 20, 10) == [(5, 25), (0, 20)]
    assert sliding_windows(51, 4, 2)[-1] == (0, 4)
    assert sliding_windows(7, 20, 10) == [(0, 7)]
    for count in (7, 25, 51):
        grades = [*range(count)]
        random.Random(count).shuffle(grades)
        ranked = ListwiseReranker(model=chat()).compress_documents(documents(grades), "q")
        assert places(ranked)[0] == best_first(grades)[0]


@pytest.mark.parametrize("model", ["generates", "scores"])
def test_a_perfect_judge_gets_the_top_10_of_100(model):
    grades = random.Random(1).choices(range(50), k=100)

    def likelihood(prompt, continuation):
        return float(dict(SHOWN.findall(prompt))[continuation.strip(" []")]) - 100

    judge = chat() if model == "generates" else ScriptedLanguageModel({}, likelihood=likelihood)
    reranker = ListwiseReranker(model=judge)
    ranked = reranker.compress_documents(documents(grades), "q")
    # Half of each window is carried on, so ten places are right.
    assert places(ranked)[:10] == best_first(grades)[:10]
    record = ranked[0].metadata["rerank"]
    assert (record["calls"], record["failures"], record["score"]) == (9, 0, 1.0)
    assert ranked[-1].metadata["rerank"]["score"] == 0.0
    assert asyncio.run(reranker.acompress_documents(documents(grades), "q")) == ranked


def test_more_passes_sort_more():
    grades = [*range(12)]
    once = ListwiseReranker(model=chat(), size=4, step=2).compress_documents(documents(grades), "q")
    thrice = ListwiseReranker(model=chat(), size=4, step=2, passes=3)
    assert places(once)[:2] == [11, 10]
    assert places(once) != best_first(grades)
    assert places(thrice.compress_documents(documents(grades), "q"))[:6] == best_first(grades)[:6]


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("[2] > [1] > [3]", [1, 0, 2]),
        ("[3]", [2, 0, 1]),
        ("[3] > [3] > [9] > [1]", [2, 0, 1]),
        ("Sure! The order is: [2]>[3]>[1].", [1, 2, 0]),
        ("2 > 1 > 3", [1, 0, 2]),
        ("3, 1, 2", [2, 0, 1]),
        ("The year 2 was good", None),
        ("[0] > [2023]", None),
        ("", None),
        ("I cannot rank these.", None),
    ],
)
def test_parse_permutation(text, order):
    assert parse_permutation(text, 3) == order


@given(st.text(max_size=80) | st.text(alphabet="[]123 >,\n", max_size=80), st.integers(1, 8))
@settings(deadline=None, max_examples=500)
def test_any_answer_is_a_permutation_or_nothing(text, count):
    order = parse_permutation(text, count)
    assert order is None or sorted(order) == list(range(count))


@pytest.mark.parametrize("run", [" ", "1 ", "1> ", "1, ", "[ ", "[1"])
def test_long_runs_do_not_hang(run):
    parse_permutation("1" + run * 100_000 + "x", 20)


def test_an_unusable_answer_keeps_the_window_and_is_counted():
    replies = iter(["no idea", "[3] > [2]", ""])
    model = chat(lambda _: next(replies))
    ranked = ListwiseReranker(model=model, size=4, step=2).compress_documents(documents([0] * 8), "q")
    # Windows (4, 8), (2, 6), (0, 4); only the middle one is answered.
    assert places(ranked) == [0, 1, 4, 3, 2, 5, 6, 7]
    assert (ranked[0].metadata["rerank"]["calls"], ranked[0].metadata["rerank"]["failures"]) == (3, 2)


def test_a_failing_window_does_not_lose_the_list():
    def script(prompt):
        if "text 7" in prompt:
            raise RuntimeError("down")
        return perfect(prompt)

    ranked = ListwiseReranker(model=chat(script), size=4, step=2).compress_documents(
        documents([*range(8)]), "q"
    )
    assert sorted(places(ranked)) == [*range(8)]
    assert ranked[0].metadata["rerank"]["failures"] == 1
    assert places(ranked)[0] == 5


def test_a_budget_goes_to_the_top_of_the_list():
    reranker = ListwiseReranker(model=chat(), size=4, step=2, max_judgements=1)
    ranking = reranker.rank(documents([*range(8)]), "q")
    assert ranking.order == (3, 2, 1, 0, 4, 5, 6, 7)
    assert ranking.judging.stopped == "max_judgements"
    nothing = reranker.model_copy(update={"max_judgements": 0}).rank(documents([*range(8)]), "q")
    assert nothing.order == tuple(range(8))
    enough = reranker.model_copy(update={"max_judgements": 3}).rank(documents([*range(8)]), "q")
    assert enough.judging.stopped is None


def test_bad_settings_are_refused_at_construction():
    for bad in ({"size": 1}, {"step": 20}, {"step": 0}, {"passes": 0}, {"max_tokens": 0}):
        with pytest.raises(ValueError):
            ListwiseReranker(model=chat(), **bad)
    with pytest.raises(ValueError, match="loglikelihood"):
        ListwiseReranker(model=chat(), mode="scoring")
