"""The `Rerank` node: any reranker, sync and async, events, cost, budgets, state for critics."""

import asyncio

import pytest
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.documents.compressor import BaseDocumentCompressor
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from agentprm.budget import SearchBudget, empty_usage
from agentprm.errors import ConfigurationError
from agentprm.nodes.rerank import Rerank, RerankSteps
from agentprm.rerank import QueryLikelihoodReranker, RubricReranker, SetwiseReranker
from agentprm.state import new_step
from agentprm.testing import FakeReward, ScriptedLanguageModel
from tests.unit.rerank.graded import best_first, documents, grade_in

GRADES = [1, 3, 0, 2]
ORDER = [f"d{place}" for place in best_first(GRADES)]


class Foreign(TypedDict, total=False):
    """A state that has never heard of agentprm."""

    question: str
    documents: list
    notes: list


def likelihood(prompt, continuation):
    return grade_in(prompt) - 20.0


def model():
    return ScriptedLanguageModel({}, likelihood=likelihood)


class Shout(BaseDocumentCompressor):
    """A compressor from elsewhere: it reverses, drops the last, and writes no record."""

    def compress_documents(self, documents, query, callbacks=None):
        return [
            Document(id=d.id, page_content=d.page_content, metadata={"relevance_score": 0.5})
            for d in list(documents)[:0:-1]
        ]


class Grade(BaseCrossEncoder):
    def score(self, text_pairs):
        return [float(grade_in(text)) for _, text in text_pairs]


KINDS = {
    "reranker": lambda: QueryLikelihoodReranker(model=model()),
    "cross-encoder": Grade,
    "reward": lambda: FakeReward(lambda q, prefix: grade_in(prefix[-1]["passages"][0]) / 10),
    "function": lambda: lambda state, query, docs: [grade_in(d.page_content) for d in docs],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["sync", "async"])
def test_any_reranker_in_a_foreign_graph(kind, how):
    builder = StateGraph(Foreign)
    builder.add_node("theirs", lambda state: {"notes": ["seen"]})
    builder.add_node("ours", Rerank(KINDS[kind](), top_k=3))
    builder.add_edge(START, "theirs")
    builder.add_edge("theirs", "ours")
    builder.add_edge("ours", END)
    serde = JsonPlusSerializer(allowed_msgpack_modules=None)
    graph = builder.compile(checkpointer=InMemorySaver(serde=serde))
    config = {"configurable": {"thread_id": "1"}}
    state = {"question": "q", "documents": documents(GRADES)}
    (graph.invoke(state, config) if how == "sync" else asyncio.run(graph.ainvoke(state, config)))
    result = graph.get_state(config).values
    assert [d.id for d in result["documents"]] == ORDER[:3]
    assert result["documents"][0].metadata["rerank"]["prior_rank"] == 1
    assert serde.loads_typed(serde.dumps_typed(result["documents"])) == result["documents"]


def test_events_say_what_was_done():
    builder = StateGraph(Foreign)
    builder.add_node("ours", Rerank(QueryLikelihoodReranker(model=model())))
    builder.add_edge(START, "ours")
    state = {"question": "q", "documents": documents(GRADES)}
    events = list(builder.compile().stream(state, stream_mode="custom"))
    assert events[0] == {
        "type": "agentprm.documents_reranked",
        "step_id": None,
        "query": "q",
        "doc_ids": ORDER,
        "method": "query likelihood",
        "calls": 4,
        "failures": 0,
        "stopped": None,
    }
    assert [e["type"] for e in events] == ["agentprm.documents_reranked"]


def test_the_cost_is_accounted_and_sync_equals_async():
    node = Rerank(QueryLikelihoodReranker(model=model()))
    state = {"question": "q", "documents": documents(GRADES)}
    update = node.invoke(state)
    assert update["prm_usage"]["model_calls"] == 4
    assert update["prm_usage"]["prompt_tokens"] > 0
    again = asyncio.run(node.ainvoke(state))
    assert again["documents"] == update["documents"]
    assert again["prm_usage"]["model_calls"] == 4


def test_documents_with_one_id_stay_apart():
    update = Rerank(QueryLikelihoodReranker(model=model())).invoke(
        {"question": "q", "documents": documents(GRADES, same_id=True)}
    )
    assert [d.metadata["rerank"]["prior_rank"] for d in update["documents"]] == best_first(GRADES)


def test_a_foreign_compressor_gets_a_record_of_its_places():
    update = Rerank(Shout()).invoke({"question": "q", "documents": documents(GRADES)})
    assert [d.id for d in update["documents"]] == ["d3", "d2", "d1"]
    assert [d.metadata["rerank"] for d in update["documents"]] == [
        {"score": 0.5, "rank": rank, "prior_rank": place, "method": "Shout", "calls": 0, "failures": 0}
        for rank, place in enumerate([3, 2, 1])
    ]


def test_without_budget_the_passages_stay():
    state = {"question": "q", "documents": documents(GRADES)}
    for budget in (SearchBudget(model_calls=0), SearchBudget(tokens=0), SearchBudget(deadline_s=0)):
        assert Rerank(QueryLikelihoodReranker(model=model()), budget=budget).invoke(state) == {}
    spent = {**empty_usage(), "model_calls": 7}
    node = Rerank(QueryLikelihoodReranker(model=model()), budget=SearchBudget(model_calls=7))
    assert node.invoke({**state, "prm_usage": spent}) == {}


@pytest.mark.parametrize("bound", [1, 3, 8, 20])
@pytest.mark.parametrize(
    "make",
    [
        lambda m: QueryLikelihoodReranker(model=m),
        lambda m: SetwiseReranker(model=m, rotations=2),
        lambda m: RubricReranker(model=m, schedule=((4, 3),)),
    ],
)
def test_a_reranker_is_held_to_the_calls_that_are_left(make, bound):
    scripted = ScriptedLanguageModel(
        lambda text: "<score>50</score>",
        likelihood=lambda prompt, text: -1.0,
    )
    node = Rerank(make(scripted), budget=SearchBudget(model_calls=bound))
    update = node.invoke({"question": "q", "documents": documents(range(12))})
    assert sorted(d.id for d in update["documents"]) == sorted(f"d{i}" for i in range(12))
    # One call stays for the answer.
    assert len(scripted.prompts) + len({p for p, _ in scripted.scored}) <= max(0, bound - 1)


def test_several_steps_share_the_budget():
    steps = [{**new_step(str(i), None, f"query {i}"), "doc_ids": ["d0", "d1", "d2", "d3"]} for i in range(3)]
    node = RerankSteps(QueryLikelihoodReranker(model=model()), budget=SearchBudget(model_calls=7))
    update = node.invoke({"question": "q", "prm_steps": steps, "prm_documents": documents(GRADES)})
    # Four calls for the first step, two for the second, none for the third; one is left for the answer.
    assert update["prm_usage"]["model_calls"] == 6
    assert [s["doc_ids"] for s in update["prm_steps"]] == [
        ORDER,
        ["d1", "d0", "d2", "d3"],
        ["d0", "d1", "d2", "d3"],
    ]


def test_a_critic_is_told_the_question_and_the_steps_before():
    seen = []

    def critic(state, query, docs):
        seen.append((state, query))
        return [grade_in(d.page_content) for d in docs]

    first = {
        **new_step("1", None, "Who built it?"),
        "doc_ids": ["d2"],
        "thought": "Brunel",
        "status": "committed",
    }
    second = {**new_step("2", first, "Where was Brunel born?"), "doc_ids": ["d0", "d1"]}
    update = RerankSteps(critic).invoke(
        {
            "question": "Where was its builder born?",
            "prm_steps": [first, second],
            "prm_documents": documents(GRADES),
        }
    )
    assert [(s["id"], s["doc_ids"]) for s in update["prm_steps"]] == [("2", ["d1", "d0"])]
    assert update["prm_steps"][0]["reranking"] == {
        "method": update["prm_documents"][0].metadata["rerank"]["method"],
        "before": ["d0", "d1"],
        "scores": [3.0, 1.0],
    }
    ((state, query),) = seen
    assert query == "Where was Brunel born?"
    assert state["question"] == "Where was its builder born?"
    assert state["path"] == [
        {
            "query": "Who built it?",
            "passages": ["d2: text 2 of grade 0"],
            "thought": "Brunel",
            "final_answer": None,
        }
    ]


def test_what_is_no_reranker_is_refused():
    with pytest.raises(ConfigurationError, match="choose a method"):
        Rerank(model())
    with pytest.raises(ConfigurationError, match="top_k"):
        Rerank(Shout(), top_k=0)
