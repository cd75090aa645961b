"""A reranker's verdicts as relevance feedback."""

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from agentprm.errors import ConfigurationError
from agentprm.rerank import FunctionComparator, JudgeSelector, PairwiseReranker, RerankSelector, VerdictCache
from agentprm.retrievers import FaissStore, FeedbackRetriever, VectorFeedback
from agentprm.rewards import FunctionReward, ProcessRewardModel
from agentprm.testing import FakeEmbeddings, ScriptedLanguageModel
from tests.unit.rerank.graded import documents, grade_in


def by_grade(query, a, b):
    better = grade_in(a.page_content) - grade_in(b.page_content)
    return 0.5 + 0.5 * ((better > 0) - (better < 0))


def hits(grades):
    return [(document, 1.0 - 0.01 * i) for i, document in enumerate(documents(grades))]


def test_winners_are_positives_and_losers_negatives():
    selection = RerankSelector(by_grade, most=2, worst=2).select("q", hits([1, 0, 3, 0, 2, 1]))
    assert selection.positives == [2, 4]
    assert selection.negatives == [3, 1]


def test_only_the_first_hits_are_judged():
    asked = []

    def judge(query, a, b):
        asked.extend([a.id, b.id])
        return by_grade(query, a, b)

    selection = RerankSelector(judge, depth=3, worst=0).select("q", hits([1, 0, 3, 9, 9]))
    assert set(asked) == {"d0", "d1", "d2"}
    assert selection == ([2], [])


def test_a_judge_that_says_nothing_selects_nothing():
    def silent(query, a, b):
        raise RuntimeError("no answer")

    assert RerankSelector(silent).select("q", hits([1, 2, 3])) == ([], [])
    assert RerankSelector(by_grade).select("q", hits([1, 1, 1])) == ([], [])
    assert RerankSelector(by_grade).select("q", []) == ([], [])


def test_what_the_budget_left_out_is_neither():
    reranker = PairwiseReranker(
        model=FunctionComparator(by_grade), k=1, max_judgements=1, cache=VerdictCache()
    )
    assert RerankSelector(reranker).select("q", hits([0, 0, 0, 3])) == ([3], [2])


def test_documents_with_one_id_stay_apart():
    twins = [(document, 1.0) for document in documents([0, 3, 0], same_id=True)]
    assert RerankSelector(by_grade).select("q", twins) == ([1], [])


def test_a_pairwise_reranker_also_serves_the_judge_selector():
    reranker = PairwiseReranker(model=by_grade, aggregation="all_pair")
    assert JudgeSelector(reranker, threshold=0.6).select("q", hits([0, 3, 0])) == ([1], [0, 2])


@pytest.mark.parametrize(
    "settings", [{"depth": 0}, {"most": 0}, {"worst": -1}, {"below": 0.6}, {"above": 0.1}]
)
def test_refused_settings(settings):
    with pytest.raises(ConfigurationError):
        RerankSelector(by_grade, **settings)


class Compass(Embeddings):
    """Texts are directions in degrees."""

    def embed_query(self, text):
        angle = np.radians(float(text.split()[0]))
        return [float(np.cos(angle)), float(np.sin(angle))]

    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]


def test_feedback_moves_the_query_to_what_the_judge_prefers():
    """The judge likes the hits to the left of the query; without it feedback stays in the middle."""
    store = FaissStore.from_documents(
        [Document(f"{angle} degrees", id=str(angle)) for angle in (0, 10, -10, 20, -20, 30, -30, 50, -50)],
        Compass(),
    )

    def likes_left(query, a, b):
        angles = [float(d.page_content.split()[0]) for d in (a, b)]
        return float(angles[0] > angles[1])

    def found(selector, gamma=0.3):
        retriever = FeedbackRetriever(
            store, VectorFeedback(gamma=gamma), k=3, selector=selector, merge="replace"
        )
        return [float(d.page_content.split()[0]) for d in retriever.invoke("0 degrees")]

    blind = np.mean(found(None))
    assert np.mean(found(RerankSelector(likes_left, depth=5))) > blind + 5
    assert np.mean(found(RerankSelector(likes_left, depth=5), gamma=0.0)) > blind
    # A judge that gives no verdict leaves the first list as it is.
    assert found(RerankSelector(lambda query, a, b: 0.5)) == [0.0, 10.0, -10.0]


def test_a_reward_model_judges_hits():
    """Its own gate is the threshold, so that logits are not all irrelevant."""
    reward = FunctionReward(
        lambda question, steps: 0.2 if "good" in steps[-1]["passages"][0] else -0.2, space="logit"
    )
    found = [(Document(id=str(i), page_content=text), 1.0) for i, text in enumerate(["bad", "good", "bad"])]
    assert JudgeSelector(reward).select("q", found) == ([1], [0, 2])


@pytest.mark.parametrize(
    "judge", [None, 3, "packaged", ScriptedLanguageModel({}), FunctionReward, lambda query: [], lambda: 1]
)
def test_what_cannot_judge_hits_is_refused_at_construction(judge):
    with pytest.raises(ConfigurationError, match="judge hits"):
        JudgeSelector(judge)


def test_a_reward_that_breaks_its_contract_is_not_taken_for_a_bad_day():
    class Wrong(ProcessRewardModel):
        def score(self, question, trajectories):
            return None

    store = FaissStore.from_texts(["one", "two"], FakeEmbeddings())
    retriever = FeedbackRetriever(store, VectorFeedback(), selector=JudgeSelector(Wrong()))
    with pytest.raises(ConfigurationError, match="Wrong"):
        retriever.invoke("one")
