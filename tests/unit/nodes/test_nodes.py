"""Each node alone: in a foreign graph whose state lacks our keys, sync and async, and by hand."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from agentprm.budget import SearchBudget
from agentprm.errors import ConfigurationError, InputError
from agentprm.nodes import (
    Answer,
    AnswerFromSteps,
    CompleteSteps,
    CondenseQuestion,
    JudgeAnswer,
    LookAhead,
    PairwiseRerank,
    ProposeSteps,
    RefineStep,
    RerankSteps,
    Retrieve,
    RetrieveSteps,
    ScoreSteps,
    SelectSteps,
    StartSearch,
    apply_update,
    retry_policy,
)
from agentprm.nodes.policies import is_transient
from agentprm.rerank import PairwiseReranker
from agentprm.search import TD
from agentprm.state import new_step
from agentprm.testing import ScriptedChatModel, ScriptedLanguageModel
from tests.unit.world import PASSAGES, QUESTION, good_reward, language_model, store


class Foreign(TypedDict, total=False):
    """A state that has never heard of agentprm."""

    question: str
    documents: list
    answer: str
    notes: list


def documents():
    return [Document(id=f"d{i}", page_content=text) for i, text in enumerate(PASSAGES, 1)]


def rollout():
    model = language_model()
    return [
        ProposeSteps(model, n=1, look_ahead=True),
        RetrieveSteps(store(), k=1),
        CompleteSteps(model),
        ScoreSteps(good_reward()),
    ]


SINGLE = {
    "retrieve": (lambda: Retrieve(store(), k=2), "documents"),
    "rerank": (lambda: PairwiseRerank(PairwiseReranker(model=language_model(), cache=None)), "documents"),
    "answer": (lambda: Answer(language_model()), "answer"),
    "judge": (lambda: JudgeAnswer(good_reward()), "score"),
    "condense": (lambda: CondenseQuestion(language_model()), "question"),
}
# A search in the order of its nodes.
SEARCH = {
    "start": (lambda: StartSearch(), "question"),
    "propose": (lambda: ProposeSteps(language_model()), "prm_steps"),
    "retrieve_steps": (lambda: RetrieveSteps(store(), k=2), "prm_documents"),
    "rerank_steps": (
        lambda: RerankSteps(PairwiseReranker(model=language_model(), cache=None)),
        "prm_documents",
    ),
    "complete": (lambda: CompleteSteps(language_model()), "prm_steps"),
    "score": (lambda: ScoreSteps(good_reward()), "prm_steps"),
    "look_ahead": (lambda: LookAhead(rollout(), value=TD()), "prm_steps"),
    "select": (lambda: SelectSteps(threshold=0.9), "prm_weak"),
    "refine": (lambda: RefineStep(language_model()), "prm_steps"),
    "answer_from_steps": (lambda: AnswerFromSteps(language_model()), "answer"),
}
NODES = {**SINGLE, **SEARCH}


def way_to(name):
    """The nodes that run before `name`, itself included."""
    if name in SINGLE:
        return [SINGLE[name][0]()]
    names = list(SEARCH)
    return [SEARCH[n][0]() for n in names[: names.index(name) + 1]]


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("how", ["sync", "async"])
def test_each_node_drops_into_a_foreign_graph(name, how):
    serde = JsonPlusSerializer(allowed_msgpack_modules=None)
    builder = StateGraph(Foreign)
    builder.add_node("theirs", lambda state: {"notes": ["seen"]})
    builder.add_edge(START, "theirs")
    previous = "theirs"
    for place, node in enumerate(way_to(name)):
        builder.add_node(f"ours{place}", node)
        builder.add_edge(previous, f"ours{place}")
        previous = f"ours{place}"
    builder.add_edge(previous, END)
    graph = builder.compile(checkpointer=InMemorySaver(serde=serde))
    config = {"configurable": {"thread_id": "1"}}
    state = {"question": QUESTION, "documents": documents(), "answer": "Portsmouth"}
    if how == "sync":
        graph.invoke(state, config)
    else:
        asyncio.run(graph.ainvoke(state, config))
    result = graph.get_state(config).values
    assert result["notes"] == ["seen"]
    written = NODES[name][1]
    assert result[written]
    assert serde.loads_typed(serde.dumps_typed(result[written])) == result[written]


@pytest.mark.parametrize("name", NODES)
def test_each_node_works_by_hand_and_refuses_an_empty_question(name):
    *before, node = way_to(name)
    state = {"question": QUESTION, "documents": documents(), "answer": "Portsmouth"}
    for earlier in before:
        state = apply_update(state, earlier.invoke(state))
    by_hand, called = node.invoke(state), node(state)

    def without_time(update):
        return {k: v for k, v in update.items() if k not in ("prm_usage", "prm_steps")}

    assert without_time(by_hand) == without_time(called)
    with pytest.raises(InputError, match="question"):
        node.invoke({**state, "question": " "})
    with pytest.raises(InputError, match="state"):
        node.invoke("a string")


@pytest.mark.parametrize("name", [name for name in SEARCH if name not in ("start", "propose")])
def test_a_node_of_a_search_says_that_there_is_none(name):
    with pytest.raises(InputError, match="StartSearch and ProposeSteps"):
        SEARCH[name][0]().invoke({"question": QUESTION, "documents": documents(), "answer": "Portsmouth"})


def test_the_question_may_be_the_last_human_message():
    update = Retrieve(store(), k=1).invoke({"messages": [("user", "Where was Brunel born?")]})
    assert update["documents"][0].id == "d2"


def test_own_names_for_channels():
    class Theirs(TypedDict, total=False):
        user_query: str
        hits: list

    builder = StateGraph(Theirs)
    builder.add_node("ours", Retrieve(store(), k=1, keys={"question": "user_query", "documents": "hits"}))
    builder.add_edge(START, "ours")
    result = builder.compile().invoke({"user_query": "Where was Brunel born?"})
    assert [d.id for d in result["hits"]] == ["d2"]
    with pytest.raises(ConfigurationError, match="no channel"):
        Retrieve(store(), keys={"nonsense": "x"})


def test_the_context_of_a_run_overrides_settings():
    builder = StateGraph(Foreign)
    builder.add_node("ours", Retrieve(store(), k=1))
    builder.add_edge(START, "ours")
    graph = builder.compile()
    assert len(graph.invoke({"question": "Brunel"})["documents"]) == 1
    assert len(graph.invoke({"question": "Brunel"}, context={"k": 2})["documents"]) == 2


def test_documents_of_a_foreign_retriever_become_plain():
    class Numpy(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            return [Document(page_content="text", metadata={"score": np.float32(0.5)})]

    document = Retrieve(Numpy()).invoke({"question": "q"})["documents"][0]
    assert document.metadata == {"score": 0.5}
    assert document.id

    class Live(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            return [Document(page_content="text", metadata={"client": object()})]

    with pytest.raises(InputError, match="client"):
        Retrieve(Live()).invoke({"question": "q"})


def test_the_tree_is_walked_by_hand_as_in_a_graph():
    model = language_model()
    state = {"question": QUESTION}
    for node in (
        ProposeSteps(model),
        RetrieveSteps(store(), k=1),
        CompleteSteps(model),
        ScoreSteps(good_reward()),
        SelectSteps(),
    ):
        state = apply_update(state, node.invoke(state))
    committed = [s for s in state["prm_steps"] if s["status"] == "committed"]
    assert [s["thought"] for s in committed] == ["Brunel"]
    assert state["prm_frontier"] == [committed[0]["id"]]
    assert state["prm_usage"]["model_calls"] == 3


def test_a_conclusion_gets_passages_that_were_not_given_before():
    model = language_model()
    state = {"question": QUESTION}
    way = (
        ProposeSteps(model),
        RetrieveSteps(store(), k=1),
        CompleteSteps(model),
        ScoreSteps(good_reward()),
        SelectSteps(),
    )
    for node in (*way, *way[:2]):
        state = apply_update(state, node.invoke(state))
    conclusion = next(s for s in state["prm_steps"] if s["query"] == QUESTION)
    assert conclusion["doc_ids"] == ["d2"]


def test_rerank_moves_the_better_passage_up_and_keeps_the_input():
    def prefers_born(prompt, continuation):
        better = "A" if "born" in prompt[prompt.index("Passage A:") : prompt.index("Passage B:")] else "B"
        return 0.0 if continuation.endswith(better) else -3.0

    given = documents()
    node = PairwiseRerank(ScriptedLanguageModel({}, likelihood=prefers_born))
    update = node.invoke({"question": "Where was Brunel born?", "documents": given})
    assert [d.id for d in update["documents"]] == ["d2", "d1", "d3"]
    record = update["documents"][0].metadata["rerank"]
    assert record["rank"] == 0
    assert record["prior_rank"] == 1
    assert (record["calls"], record["failures"]) == (6, 0)  # three pairs in both orders
    assert "rerank" not in given[1].metadata
    assert update["prm_usage"]["model_calls"] == 6


@pytest.mark.parametrize(
    "reply", ["", "both", "C", "Passage A and B?", "私は", "The passage says: 'Passage A'"]
)
def test_a_judge_that_does_not_decide_is_a_tie(reply):
    node = PairwiseRerank(ScriptedChatModel(script=lambda text: reply))
    update = node.invoke({"question": "q", "documents": documents()})
    assert [d.id for d in update["documents"]] == ["d1", "d2", "d3"]
    assert update["documents"][0].metadata["rerank"]["failures"] == 4


def test_a_judge_that_always_says_a_changes_nothing():
    node = PairwiseRerank(ScriptedChatModel(script=lambda text: "Passage A"))
    update = node.invoke({"question": "q", "documents": documents()})
    assert [d.id for d in update["documents"]] == ["d1", "d2", "d3"]
    assert update["documents"][0].metadata["rerank"]["failures"] == 0


def test_extras_give_way_to_the_budget():
    state = {"question": "q", "documents": documents()}
    budget = SearchBudget(model_calls=0)
    assert PairwiseRerank(language_model(), budget=budget).invoke(state) == {}


@pytest.mark.parametrize(("calls", "stopped", "paid"), [(1, True, 0), (4, True, 2), (7, False, 6)])
def test_pairwise_reranking_spends_what_the_budget_leaves(calls, stopped, paid):
    model = ScriptedLanguageModel({}, likelihood=lambda prompt, text: 0.0 if text.endswith("B") else -1.0)
    node = PairwiseRerank(model, aggregation="all_pair", budget=SearchBudget(model_calls=calls))
    update = node.invoke({"question": "q", "documents": documents()})
    assert ("stopped" in update["documents"][0].metadata["rerank"]) == stopped
    assert update["prm_usage"]["model_calls"] == paid  # one call is kept for the answer
    assert len(model.scored) == 2 * paid


def test_construction_refuses_what_cannot_work():
    with pytest.raises(ConfigurationError, match="retriever"):
        Retrieve("not a retriever")
    with pytest.raises(ConfigurationError, match="k must"):
        Retrieve(store(), k=0)
    with pytest.raises(ConfigurationError, match="ProcessRewardModel"):
        ScoreSteps(lambda x: 1)
    with pytest.raises(ConfigurationError, match="rollout"):
        LookAhead([], value=TD())
    with pytest.raises(ConfigurationError, match="accept"):
        SelectSteps(accept="sometimes")
    with pytest.raises(ConfigurationError, match="n must"):
        ProposeSteps(language_model(), n=0)


def test_retry_policy_tells_transient_faults():
    class Limited(Exception):
        status_code = 429

    class Refused(Exception):
        status_code = 401

    assert is_transient(Limited())
    assert is_transient(ConnectionError())
    assert not is_transient(Refused())
    assert not is_transient(InputError("x"))
    assert not is_transient(ValueError("x"))
    assert retry_policy(5).max_attempts == 5


def test_an_unfinished_thought_is_not_a_finding():
    class Cut(ScriptedLanguageModel):
        def _completion(self, text, params):
            return replace(super()._completion(text, params), finish_reason="length")

    for reply, thought in (("He was born in", ""), ("He was born. In the", "He was born.")):
        (step,) = CompleteSteps(Cut(lambda text, reply=reply: reply)).invoke(
            {"question": QUESTION, "prm_steps": [new_step("1", None, "Where was he born?")]}
        )["prm_steps"]
        assert step["thought"] == thought
        assert step["status"] == ("completed" if thought else "unparsed")
