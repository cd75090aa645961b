"""When the budget of searches is spent, what was found is still read, scored, ordered and answered from."""

import pytest
from langchain_core.documents import Document

from agentprm.graphs import (
    create_adaptive_rag_graph,
    create_cr_planner_graph,
    create_evidence_graph,
    create_glore_graph,
    create_goal_graph,
    create_note_graph,
    create_rag_graph,
    create_rearter_graph,
    create_reasoning_graph,
    create_routed_graph,
)
from agentprm.lm import Capabilities
from agentprm.nodes import JudgeAnswer
from agentprm.rerank import CriticReranker
from agentprm.search.subgoals import SENTENCES
from agentprm.testing import FakeReward, ScriptedLanguageModel, ScriptedReader
from tests.unit.world import QUESTION

FOUND = Document("Brunel was born in Portsmouth.", id="brunel")
BORN = "Where was Brunel born?"
ONE = {"budget": {"retrievals": 1}}


def reply(text):
    """Knows nothing that no passage or finding in its prompt says."""
    if "Which mode?" in text:
        return "agentic"
    for mark, said in {
        "Write search queries": f"1. {BORN}",
        "Two notes were taken": "Second",
        "asks how things are related": f"Search: {BORN}",
        "are enough": "No",
        "Say what evidence": f"Goal: a place\nSearch: {BORN}",
        "has reached its goal": "Yes",
        "You review one step": "Fault: finding. Look again.",
        "Reply with one line: 'Search:": f"Search: {BORN}",
        "Find out one thing": f"Search: {BORN}",
        "Replace a weak": f"Search: {BORN} And when?",
    }.items():
        if mark in text:
            return said
    return "Portsmouth" if "Portsmouth" in text else "unknown"


def model():
    return ScriptedLanguageModel(reply, capabilities=Capabilities(n=True))


def search(query):
    return [FOUND]


def reward():
    return FakeReward(lambda question, path: 0.9 if path[-1]["thought"] == "Portsmouth" else 0.6)


def next_subgoal(question, path):
    """Ask, look up, then reason."""
    wanted = "reason" if any(step["passages"] for step in path) else "retrieve"
    return {SENTENCES[wanted]: 0.9, SENTENCES["query"]: 0.5}.get(path[-1]["thought"], 0.1)


TREES = {
    "reasoning": lambda: create_reasoning_graph(model(), search, reward(), **ONE),
    "rearter": lambda: create_rearter_graph(model(), search, reward(), **ONE),
    "glore": lambda: create_glore_graph(model(), search, reward(), **ONE),
    "cr-planner": lambda: create_cr_planner_graph(model(), search, next_subgoal, reward(), **ONE),
}
OTHERS = {
    "rag": lambda: create_rag_graph(model(), search, **ONE),
    "adaptive": lambda: create_adaptive_rag_graph(model(), search, lambda question: 1.0, **ONE),
    "routed": lambda: create_routed_graph(model(), search, router=lambda question: "agentic", **ONE),
    "note": lambda: create_note_graph(model(), search, **ONE),
    "evidence": lambda: create_evidence_graph(model(), search, **ONE),
    "goal": lambda: create_goal_graph(model(), search, **ONE),
}


@pytest.mark.parametrize("name", [*TREES, *OTHERS])
def test_the_answer_rests_on_the_last_search(name):
    result = {**TREES, **OTHERS}[name]().compile().invoke({"question": QUESTION})
    assert result["prm_usage"]["retrievals"] == 1
    assert result["answer"] == "Portsmouth"
    assert [citation["doc_id"] for citation in result["citations"]] == ["brunel"]


@pytest.mark.parametrize("name", TREES)
def test_the_step_that_searched_last_is_scored_and_committed(name):
    result = TREES[name]().compile().invoke({"question": QUESTION})
    committed = [step for step in result["prm_steps"] if step["status"] == "committed"]
    assert any(step["doc_ids"] == ["brunel"] and step["thought"] for step in committed), result["prm_steps"]
    assert all(step["status"] not in ("proposed", "completed", "scored") for step in result["prm_steps"])


def test_a_plan_compares_what_its_last_search_found():
    dates = {"When did Bob Ray die?": "1990", "When did Ann Lee die?": "1956"}
    reader = ScriptedReader({asked: {said: 0.9} for asked, said in dates.items()})
    result = (
        create_reasoning_graph(
            model(),
            lambda query: [Document(f"{query} In {dates[query]}.", id=query)],
            mode="plan",
            reader=reader,
            planner=lambda question: [*dates, "Who died first, #1 or #2: Bob Ray or Ann Lee?"],
            budget={"retrievals": 2},
        )
        .compile()
        .invoke({"question": "Who died first, Bob Ray or Ann Lee?"})
    )
    assert (result["answer"], result["prm_stop_reason"]) == ("Ann Lee", "answered")


def test_passages_of_the_last_search_are_reordered():
    texts = [Document("Paris lies on the Seine.", id="paris"), FOUND]

    def prefer(state, query, documents):
        return [float("Portsmouth" in document.page_content) for document in documents]

    reranker = CriticReranker(critic=prefer)
    graph = create_rag_graph(model(), lambda query: texts, reranker=reranker, passages=1, k=2, **ONE)
    result = graph.compile().invoke({"question": QUESTION})
    assert [document.id for document in result["documents"]] == ["brunel", "paris"]


def test_an_answer_is_judged_when_no_search_is_left():
    state = {"question": BORN, "answer": "Portsmouth", "documents": [FOUND], "prm_usage": {"retrievals": 1}}
    assert JudgeAnswer(reward(), **ONE).invoke(state)["score"] == 0.9
