"""Critics see the state, the query and the passage; reward models as critics."""

import asyncio

import pytest
from langchain_core.runnables import RunnableLambda

from agentprm.errors import ConfigurationError
from agentprm.nodes import Rerank
from agentprm.rerank.pointwise import CriticReranker
from agentprm.rewards.base import RewardStep
from agentprm.testing import FakeReward
from tests.unit.rerank.graded import best_first, documents, grade_in, places

STEP = RewardStep(query="Who built it?", passages=["A passage."], thought="Brunel", final_answer=None)


def test_a_function_sees_state_query_and_passages():
    seen = []

    def critic(state, query, passages):
        seen.append((state, query, [d.id for d in passages]))
        return [grade_in(d.page_content) for d in passages]

    grades = [1, 3, 0, 3]
    reranker = CriticReranker(critic=critic)
    ranked = reranker.compress_documents(documents(grades), "Where was he born?")
    assert places(ranked) == best_first(grades)
    assert seen == [
        ({"question": "Where was he born?", "path": []}, "Where was he born?", ["d0", "d1", "d2", "d3"])
    ]
    bound = reranker.for_state("Where was the builder born?", [STEP])
    bound.compress_documents(documents(grades), "Where was he born?")
    assert seen[1][0] == {"question": "Where was the builder born?", "path": [STEP]}
    assert reranker.state is None
    assert ranked[0].metadata["rerank"]["method"] == "critic"


def test_what_is_good_depends_on_what_is_known():
    """A passage that repeats what a step found is worth nothing after it."""

    def critic(state, query, passages):
        known = " ".join(step["thought"] for step in state["path"])
        return [0.0 if "Brunel" in known and "built" in d.page_content else 1.0 for d in passages]

    docs = documents([0, 0])
    docs[0].page_content = "He built the ship."
    docs[1].page_content = "He was born in Portsmouth."
    reranker = CriticReranker(critic=critic)
    assert places(reranker.compress_documents(docs, "q")) == [0, 1]
    assert places(reranker.for_state("q", [STEP]).compress_documents(docs, "q")) == [1, 0]


def test_async_functions():
    async def critic(state, query, passages):
        await asyncio.sleep(0)
        return [grade_in(d.page_content) for d in passages]

    reranker = CriticReranker(critic=critic)
    assert places(asyncio.run(reranker.acompress_documents(documents([1, 2]), "q"))) == [1, 0]
    with pytest.raises(ValueError, match="async"):
        reranker.compress_documents(documents([1, 2]), "q")
    wrapped = CriticReranker(critic=lambda *some: critic(*some))
    assert places(asyncio.run(wrapped.acompress_documents(documents([1, 2]), "q"))) == [1, 0]


def test_a_reward_model_scores_the_step_that_reads_the_passage():
    trajectories = []

    def reward(question, prefix):
        trajectories.append((question, list(prefix)))
        return grade_in(prefix[-1]["passages"][0]) / 10 if "grade" in prefix[-1]["passages"][0] else 0.5

    grades = [1, 9, 4]
    model = FakeReward(reward)
    reranker = CriticReranker(critic=model).for_state("the question", [STEP])
    ranked = reranker.compress_documents(documents(grades), "the query")
    assert places(ranked) == best_first(grades)
    assert [d.metadata["rerank"]["score"] for d in ranked] == [0.9, 0.4, 0.1]
    assert ranked[0].metadata["rerank"]["method"] == "critic FakeReward"
    question, prefix = trajectories[1]
    assert question == "the question"
    assert prefix == [
        STEP,
        {"query": "the query", "passages": ["text 0 of grade 1"], "thought": "", "final_answer": None},
    ]
    assert asyncio.run(reranker.acompress_documents(documents(grades), "the query")) == ranked


def test_a_reward_model_with_the_wrong_number_of_scores_is_an_error():
    class Phantom(FakeReward):
        def score(self, question, trajectories):
            return [[*row, 0.5] for row in super().score(question, trajectories)]

    with pytest.raises(ValueError, match="2 scores for 1 steps"):
        CriticReranker(critic=Phantom()).rank(documents([1, 2]), "q")


def test_a_critic_that_fails_on_one_passage_does_not_lose_the_list():
    def critic(state, query, passages):
        if any("text 1 " in d.page_content for d in passages):
            raise RuntimeError("down")
        return [grade_in(d.page_content) for d in passages]

    ranking = CriticReranker(critic=critic).rank(documents([1, 9, 3, 5]), "q")
    assert ranking.order == (3, 1, 2, 0)
    assert ranking.judging.failures == 1


def test_what_is_no_critic_is_refused():
    with pytest.raises(ValueError, match="no critic"):
        CriticReranker(critic="name")


async def test_a_runnable_is_a_critic():
    critic = RunnableLambda(lambda given: [grade_in(d.page_content) for d in given["documents"]])
    for reranker in (CriticReranker(critic=critic), Rerank(critic).reranker):
        ranked = reranker.compress_documents(documents([1, 3, 2]), "q")
        assert [grade_in(d.page_content) for d in ranked] == [3, 2, 1]
        assert await reranker.acompress_documents(documents([1, 3, 2]), "q") == ranked


def test_a_critic_of_the_wrong_form_is_refused():
    for critic in (lambda passage: 1.0, 3, FakeReward):
        with pytest.raises(ConfigurationError, match="critic"):
            CriticReranker(critic=critic)


def test_reprs_of_rerankers_are_short():
    assert repr(CriticReranker(critic=FakeReward(), top_n=3)) == "CriticReranker(top_n=3, critic=FakeReward)"
