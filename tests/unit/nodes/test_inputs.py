"""What people hand to nodes: documents, answers, retrievers, budgets and settings of every kind."""

import asyncio
import inspect
import pydoc
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langgraph.cache.memory import InMemoryCache
from langgraph.graph import START, StateGraph
from langgraph.types import CachePolicy
from pydantic import BaseModel
from typing_extensions import TypedDict

from agentprm.budget import SearchBudget
from agentprm.errors import ConfigurationError, InputError
from agentprm.graphs import create_rag_graph, create_reasoning_graph
from agentprm.nodes import (
    Answer,
    JudgeAnswer,
    PairwiseRerank,
    ProposeSteps,
    Retrieve,
    RetrieveSteps,
    StartSearch,
    apply_update,
)
from agentprm.prompts import PROMPTS
from agentprm.testing import FakeReward, ScriptedChatModel
from tests.unit.world import QUESTION, chat_model, good_reward, language_model, store

TEXTS = ["Brunel was born in Portsmouth.", "Paris lies on the Seine."]
FORMS = {
    "texts": TEXTS,
    "mappings": [
        {"page_content": TEXTS[0], "metadata": {"page": 3}},
        {"text": TEXTS[1], "id": 7, "url": "u"},
    ],
    "documents": [Document(text) for text in TEXTS],
}


@pytest.mark.parametrize("form", FORMS)
def test_documents_in_any_form(form):
    judge = JudgeAnswer(FakeReward(lambda q, s: float(s[-1]["thought"] in s[-1]["passages"][0])))
    state = {"question": "Where was Brunel born?", "documents": FORMS[form], "answer": "Portsmouth"}
    assert judge.invoke(state)["score"] == 1.0
    answer = Answer(ScriptedChatModel(script={"Seine": "Portsmouth"})).invoke(state)
    assert [c["text"] for c in answer["citations"]] == TEXTS[:1]


def test_mappings_keep_what_they_say():
    found = Retrieve(lambda query: FORMS["mappings"]).invoke({"question": "q"})["documents"]
    assert [d.metadata for d in found] == [{"page": 3}, {"url": "u"}]
    assert found[1].id == "7"


@pytest.mark.parametrize(
    ("documents", "says"),
    [
        ([5], "int is no document"),
        ([{"title": "x"}], "'page_content'"),
        ("a text", "not a list"),
        ([{"text": "x", "metadata": "y"}], "in a mapping"),
    ],
)
def test_what_is_no_document_is_told_what_is(documents, says):
    for node in (JudgeAnswer(good_reward()), Answer(chat_model())):
        with pytest.raises(InputError, match=says):
            node.invoke({"question": "q", "documents": documents, "answer": "a"})


def test_an_answer_may_be_a_message():
    judge = JudgeAnswer(FakeReward(lambda q, s: float(s[-1]["thought"] == "Portsmouth")))
    for answer in (AIMessage("Portsmouth"), [{"type": "text", "text": "Portsmouth"}]):
        assert judge.invoke({"question": "q", "answer": answer})["score"] == 1.0
    with pytest.raises(InputError, match="'answer' holds a float, not a text"):
        judge.invoke({"question": "q", "answer": 4.0})


@pytest.mark.parametrize("bad", [[0.5], None, [[5.0]], [[0.5, 0.5]], [["high"]], [[float("inf")]]])
def test_a_reward_that_returns_nonsense_is_told_so(bad):
    class Bad(FakeReward):
        def score(self, question, trajectories):
            return bad

    with pytest.raises(ConfigurationError, match="Bad"):
        JudgeAnswer(Bad()).invoke({"question": "q", "answer": "a"})


def test_no_score_is_none_and_is_said(caplog):
    update = JudgeAnswer(FakeReward(lambda q, s: float("nan"))).invoke({"question": "q", "answer": "a"})
    assert update["score"] is None
    assert "no score for this answer" in caplog.text


def test_documents_of_one_id_and_two_texts_stay_apart():
    same = [Document(id="file.md", page_content=text) for text in TEXTS]
    found = Retrieve(lambda query: [*same, same[0]]).invoke({"question": "q"})["documents"]
    assert [d.page_content for d in found] == TEXTS
    assert found[0].id == "file.md"
    assert len({d.id for d in found}) == 2
    again = Retrieve(lambda query: [*same]).invoke({"question": "q"})["documents"]
    assert again == found


def test_documents_of_one_id_stay_apart_over_the_steps_of_a_search():
    def search(query):
        return [Document(id="file.md", page_content=TEXTS["Paris" in query])]

    state = {"question": QUESTION}
    for node in (StartSearch(), ProposeSteps(language_model()), RetrieveSteps(search)):
        state = apply_update(state, node.invoke(state))
    (first,), (second,), *_ = [s["doc_ids"] for s in state["prm_steps"] if s["doc_ids"]]
    texts = {d.id: d.page_content for d in state["prm_documents"]}
    assert (texts[first], texts[second]) == tuple(TEXTS)


def test_a_judge_that_fails_on_every_call_is_reported(caplog):
    def broken(text):
        raise ValueError("no such model")

    node = PairwiseRerank(ScriptedChatModel(script=broken))
    found = node.invoke({"question": "q", "documents": TEXTS})["documents"]
    assert [d.page_content for d in found] == TEXTS
    assert "no usable answer in any of its" in caplog.text


# --- retrievers


async def later(query):
    return [TEXTS[0]]


class Searcher:
    def __call__(self, query):
        return [TEXTS[0]]


class Own(BaseRetriever):
    def _get_relevant_documents(self, query, *, run_manager):
        return [Document(TEXTS[0])]


@pytest.mark.parametrize(
    "retriever", [lambda query: [TEXTS[0]], Searcher(), RunnableLambda(lambda q: [TEXTS[0]]), Own()]
)
def test_whatever_maps_a_query_to_documents_is_a_retriever(retriever):
    for call in (lambda node, s: node.invoke(s), lambda node, s: asyncio.run(node.ainvoke(s))):
        update = call(Retrieve(retriever), {"question": "q"})
        assert [d.page_content for d in update["documents"]] == TEXTS[:1]
        assert update["prm_usage"]["retrievals"] == 1
    for make in (create_rag_graph, create_reasoning_graph):
        own = {} if make is create_rag_graph else {"reward": good_reward()}
        assert make(chat_model(), retriever, **own).compile().invoke({"question": QUESTION})["answer"]


def test_a_coroutine_function_is_a_retriever_on_the_event_loop():
    update = asyncio.run(Retrieve(later).ainvoke({"question": "q"}))
    assert [d.page_content for d in update["documents"]] == TEXTS[:1]


@pytest.mark.parametrize("found", [None, "a text", {"documents": []}, 5])
def test_a_retriever_that_returns_no_list_is_told_so(found):
    with pytest.raises(InputError, match="not a list of documents"):
        Retrieve(lambda query: found).invoke({"question": "q"})


# --- budgets, settings, caches


class Mine(TypedDict, total=False):
    question: str
    documents: list
    answer: str


def two_nodes():
    builder = StateGraph(Mine)
    model = ScriptedChatModel(script=lambda text: "Portsmouth")
    builder.add_node("retrieve", Retrieve(store(), k=1, budget={"retrievals": 1}))
    builder.add_node("answer", Answer(model, budget=SearchBudget(model_calls=1)))
    builder.add_edge(START, "retrieve")
    builder.add_edge("retrieve", "answer")
    return builder, model


def test_the_budget_of_a_single_node_is_that_of_one_call():
    from langgraph.checkpoint.memory import InMemorySaver

    graph = two_nodes()[0].compile(checkpointer=InMemorySaver())
    for _ in range(3):
        result = graph.invoke({"question": "Where was Brunel born?"}, {"configurable": {"thread_id": "1"}})
        assert (result["answer"], len(result["documents"])) == ("Portsmouth", 1)


def test_a_search_that_may_not_be_leaves_no_passages_of_an_earlier_question():
    node = Retrieve(store(), budget={"retrievals": 0})
    update = node.invoke({"question": "q", "documents": [TEXTS[0]]})
    assert (update["documents"], update["prm_stop_reason"]) == ([], "budget: retrievals")


def test_the_graph_shares_one_budget_among_its_nodes():
    graph = create_rag_graph(
        chat_model(), store(), reranker=chat_model(), budget={"model_calls": 3}
    ).compile()
    result = graph.invoke({"question": "Where was Brunel born?"})
    assert result["prm_usage"]["model_calls"] <= 3
    assert result["answer"]


def test_a_cache_policy_hits():
    builder, model = StateGraph(Mine), ScriptedChatModel(script=lambda text: "Portsmouth")
    builder.add_node("retrieve", Retrieve(store(), k=1))
    builder.add_node("answer", Answer(model), cache_policy=CachePolicy())
    builder.add_edge(START, "retrieve")
    builder.add_edge("retrieve", "answer")
    graph = builder.compile(cache=InMemoryCache())
    answers = [graph.invoke({"question": "Where was Brunel born?"})["answer"] for _ in range(3)]
    assert answers == ["Portsmouth"] * 3
    assert len(model.prompts) == 1


@pytest.mark.parametrize("calls", range(1, 7))
@pytest.mark.parametrize("make", [chat_model, language_model])
def test_a_search_that_the_budget_cut_short_says_so(calls, make):
    graph = create_reasoning_graph(make(), store(), good_reward(), budget=SearchBudget(model_calls=calls))
    result = graph.compile().invoke({"question": QUESTION})
    assert result["prm_stop_reason"] == "budget: model_calls"
    assert result["prm_usage"]["model_calls"] <= calls


def test_a_conclusion_among_too_few_candidates_is_not_reported_as_answered():
    model = ScriptedChatModel(script=lambda text: "Final answer: Portsmouth")
    graph = create_reasoning_graph(model, store(), good_reward(), budget={"model_calls": 2}).compile()
    result = graph.invoke({"question": QUESTION})
    assert (result["answer"], result["prm_stop_reason"]) == ("Portsmouth", "budget: model_calls")


@pytest.mark.parametrize(
    ("context", "says"),
    [
        ({"bugdet": {"model_calls": 3}}, "Did you mean 'budget'"),
        ({"n": "3"}, r"context\['n'\] must be an integer of at least 1, not '3'"),
        ({"n": True}, "must be an integer"),
        ({"k": 0}, "of at least 1"),
        ({"temperature": -1}, "of at least 0"),
        ({"threshold": "high"}, "must be a number"),
        ({"accept": "maybe"}, "'if_better' or 'always'"),
        ({"budget": 3}, "a mapping of its bounds"),
        ({"budget": {"calls": 3}}, "no bound 'calls'"),
        ({"budget": {"model_calls": "3"}}, "must be a number"),
        (["n"], "give its settings as a mapping"),
        ("n=3", "give its settings as a mapping"),
    ],
)
def test_settings_of_a_run_are_checked(context, says):
    graph = create_reasoning_graph(chat_model(), store(), good_reward()).compile()
    with pytest.raises(ConfigurationError, match=says):
        graph.invoke({"question": QUESTION}, context=context)


def test_a_budget_of_a_run_may_be_a_mapping():
    graph = create_reasoning_graph(chat_model(), store(), good_reward()).compile()
    result = graph.invoke({"question": QUESTION}, context={"budget": {"model_calls": 3}})
    assert result["prm_usage"]["model_calls"] <= 3


def test_a_graph_inside_another_one_leaves_the_settings_of_the_other_alone():
    class Context(TypedDict, total=False):
        tenant: str
        k: int

    inner = create_rag_graph(chat_model(), store()).compile()
    builder = StateGraph(Mine, context_schema=Context)
    builder.add_node("rag", inner)
    builder.add_edge(START, "rag")
    result = builder.compile().invoke({"question": "Brunel?"}, context={"tenant": "a", "k": 2})
    assert len(result["documents"]) == 2


# --- tools, states, names


@pytest.mark.filterwarnings("ignore:This API is in beta")
@pytest.mark.parametrize("make", [create_rag_graph, create_reasoning_graph])
def test_as_a_tool_a_graph_needs_the_question_alone(make):
    own = {} if make is create_rag_graph else {"reward": good_reward()}
    tool = make(chat_model(), store(), **own).compile().as_tool(name="ask", description="Answers questions.")
    assert tool.invoke({"question": QUESTION})["answer"]
    assert tool.args_schema.model_json_schema().get("required", []) == []


def test_a_state_may_be_an_object():
    @dataclass
    class Data:
        question: str
        answer: str = "Portsmouth"
        documents: list = field(default_factory=list)

    class Model(BaseModel):
        question: str
        answer: Any = "Portsmouth"

    for state in (Data("q"), Model(question="q")):
        assert JudgeAnswer(FakeReward(lambda q, s: 0.5)).invoke(state)["score"] == 0.5


@pytest.mark.parametrize("node", [Answer, JudgeAnswer, Retrieve, ProposeSteps, PairwiseRerank])
def test_help_and_repr_are_short(node):
    assert "Find out one thing" not in pydoc.render_doc(node)
    assert len(str(inspect.signature(node))) < 700
    short = repr(Retrieve(store(), k=2, budget={"retrievals": 3}))
    assert short == "Retrieve(budget=SearchBudget(retrievals=3), k=2)"
    assert repr(replace(PROMPTS, answer=PROMPTS.recall)) == "PROMPTS with its own answer"


def test_a_spent_search_leaves_the_answer():
    model = ScriptedChatModel(script={"Seine": "Portsmouth"})
    graph = create_rag_graph(model, lambda query: TEXTS, budget={"retrievals": 1}).compile()
    assert graph.invoke({"question": "Where was Brunel born?"})["answer"] == "Portsmouth"
