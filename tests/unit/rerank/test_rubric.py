"""Rubric grades: parsing, the mean of usable samples, the two-stage schedule."""

import asyncio
import random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentprm.lm import Completion, LanguageModel
from agentprm.lm.base import Capabilities
from agentprm.rerank.rubric import SCHEDULE, RubricReranker, Stage, parse_grade
from agentprm.testing import ScriptedChatModel
from tests.unit.rerank.graded import best_first, documents, grade_in, places


class Grader(LanguageModel):
    """Writes what `write(prompt, seed, sample)` says, and keeps an account."""

    capabilities = Capabilities(n=True, prefix_cache=True)

    def __init__(self, write):
        self.write, self.asked = write, []

    def sample(self, prompts, n=1, params=None):
        rows = []
        for prompt in prompts:
            text = prompt.messages[-1][1]
            self.asked.append((text, n, params))
            rows.append([Completion(self.write(text, params.seed, i), 1, "stop") for i in range(n)])
        return rows


def tagged(grade):
    return f"The query is after much. The passage offers some. <score>{grade}</score>"


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("<score>85</score>", 85), ("reason\n<SCORE> 7 </SCORE>\n", 7), ("<score>72.5</score>", 72.5),
        ("<score>60/100</score>", 60), ("<score>100</score>", 100), ("<score>0</score>", 0),
        ("It says <score>100</score>, but no: <score>10</score>", 10),
        ("<score>101</score>", None), ("<score>-5</score>", None), ("<score>high</score>", None),
        ("<score>85", None), ("85", None), ("", None), ("<score></score>", None),
    ],
)  # fmt: skip
def test_parse_grade(text, grade):
    assert parse_grade(text) == grade


@given(st.text(max_size=60) | st.text(alphabet="<score>/0123456789. \n", max_size=60))
@settings(deadline=None, max_examples=500)
def test_any_text_is_a_grade_or_none(text):
    grade = parse_grade(text)
    assert grade is None or 0 <= grade <= 100


def test_the_schedule_is_one_sample_over_100_then_sixteen_over_the_best_30():
    grades = random.Random(0).choices(range(101), k=120)
    model = Grader(lambda text, seed, i: tagged(grade_in(text)))
    reranker = RubricReranker(model=model)
    ranked = reranker.compress_documents(documents(grades), "q")
    assert [(len([a for a in model.asked if a[1] == n]), n) for n in (1, 16)] == [(100, 1), (30, 16)]
    assert reranker.schedule == SCHEDULE
    # The first hundred are in order; the others were never read and follow as they came.
    assert places(ranked) == best_first(grades[:100]) + list(range(100, 120))
    record = ranked[0].metadata["rerank"]
    assert (record["calls"], record["failures"]) == (100 + 30 * 16, 0)
    assert record["method"] == "rubric 100@1+30@16"
    # The best thirty, and no others, were graded again.
    again = {text for text, n, _ in model.asked if n == 16}
    assert all(f"text {place} " in "\n".join(again) for place in best_first(grades[:100])[:30])


def test_stages_draw_samples_of_their_own():
    model = Grader(lambda text, seed, i: tagged(50))
    RubricReranker(model=model, schedule=(Stage(4, 1), Stage(2, 3)), seed=7).rank(documents([1] * 4), "q")
    assert [params.seed for _, _, params in model.asked] == [7] * 4 + [8] * 2
    assert {params.temperature for _, _, params in model.asked} == {0.6}


def test_the_last_stage_decides_and_only_about_its_own():
    # The first look overrates passage 0 and underrates 3, which is not looked at again.
    first, later = [90, 80, 70, 10], [20, 60, 40, 100]

    def write(text, seed, i):
        place = int(text.split("text ")[1].split()[0])
        return tagged((later if seed == 1 else first)[place])

    ranked = RubricReranker(model=Grader(write), schedule=(Stage(4, 1), Stage(3, 2))).compress_documents(
        documents([0] * 4), "q"
    )
    assert places(ranked) == [1, 2, 0, 3]
    assert [d.metadata["rerank"]["score"] for d in ranked] == [60, 40, 20, 10]


def test_the_mean_leaves_unusable_samples_out_and_counts_them():
    replies = [tagged(80), "no grade", tagged(60), tagged(400)]
    model = Grader(lambda text, seed, i: replies[i] if "text 1 " in text else tagged(50))
    ranked = RubricReranker(model=model, schedule=(Stage(3, 4),)).compress_documents(documents([0] * 3), "q")
    assert places(ranked) == [1, 0, 2]
    assert ranked[0].metadata["rerank"]["score"] == 70.0  # not (80 + 60) / 4
    assert ranked[0].metadata["rerank"]["failures"] == 2


def test_the_mean_is_over_all_samples():
    def grade(text, seed, i):
        return random.Random(f"{text}{seed}{i}").randint(0, 100)

    model = Grader(lambda text, seed, i: tagged(grade(text, seed, i)))
    ranking = RubricReranker(model=model, schedule=(Stage(5, 16),)).rank(documents([0] * 5), "q")
    expected = [fmean(grade(text, 0, i) for i in range(16)) for text, _, _ in model.asked]
    assert ranking.scores == pytest.approx(expected)
    assert list(ranking.order) == best_first(expected)


def test_a_passage_without_any_grade_keeps_its_place():
    model = Grader(lambda text, seed, i: "?" if "text 1 " in text else tagged(grade_in(text)))
    ranking = RubricReranker(model=model, schedule=(Stage(4, 2),)).rank(documents([10, 99, 20, 30]), "q")
    assert ranking.order == (3, 1, 2, 0)
    assert ranking.scores == (10, 30, 20, 30)
    assert (ranking.judging.calls, ranking.judging.failures) == (8, 2)


def test_a_failing_passage_does_not_lose_the_list():
    def write(text, seed, i):
        if "text 2 " in text:
            raise RuntimeError("down")
        return tagged(grade_in(text))

    ranking = RubricReranker(model=Grader(write), schedule=(Stage(4, 2),)).rank(documents([1, 2, 3, 4]), "q")
    assert ranking.order == (3, 1, 2, 0)
    assert (ranking.judging.calls, ranking.judging.failures) == (8, 2)


def test_a_budget_that_ends_in_the_second_stage():
    model = Grader(lambda text, seed, i: tagged(grade_in(text) - 5 * (seed == 1)))
    reranker = RubricReranker(model=model, schedule=(Stage(4, 1), Stage(3, 2)), max_judgements=5)
    ranking = reranker.rank(documents([10, 20, 30, 40]), "q")
    # Passage 3 was graded again (35), the others only once.
    assert ranking.order == (3, 2, 1, 0)
    assert ranking.scores == (10, 20, 30, 35)
    assert ranking.judging.stopped == "max_judgements"


def test_chat_models_grade_and_async_equals_sync():
    grades = [10, 90, 40]
    model = ScriptedChatModel(script=lambda text: tagged(grade_in(text)))
    reranker = RubricReranker(
        model=model, definition="Relevant is what refutes.", query_type="claim", document_type="abstract"
    )
    ranked = reranker.compress_documents(documents(grades), "the earth is flat")
    assert places(ranked) == [1, 2, 0]
    assert asyncio.run(reranker.acompress_documents(documents(grades), "the earth is flat")) == ranked
    assert "how relevant this abstract is to this claim" in model.prompts[0]
    assert "Relevant is what refutes." in model.prompts[0]
    assert len(model.prompts) == 2 * (3 + 3 * 16)


def test_bad_settings_are_refused_at_construction():
    model = Grader(lambda *_: "")
    for bad in (
        {"schedule": ()},
        {"schedule": (Stage(0, 1),)},
        {"schedule": (Stage(30, 1), Stage(100, 16))},
        {"temperature": 0},
        {"temperature": -1},
        {"max_tokens": 0},
    ):
        with pytest.raises(ValueError):
            RubricReranker(model=model, **bad)
    RubricReranker(model=model, schedule=(Stage(9, 1),), temperature=0)
