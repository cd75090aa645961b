"""Messages as a question and a trajectory."""

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from agentprm.errors import InputError
from agentprm.rewards import trajectory_of
from agentprm.testing import calls


def result(text, number=1, artifact=None):
    return ToolMessage(text, tool_call_id=f"search-{number}", artifact=artifact)


def test_a_pending_call_is_a_step():
    question, steps = trajectory_of(
        [SystemMessage("s"), HumanMessage("Who?"), calls(("search", {"q": "x", "k": 2}))]
    )
    assert question == "Who?"
    assert [dict(step) for step in steps] == [
        {"query": "", "passages": [], "thought": 'Calls search(q="x", k=2)', "final_answer": None}
    ]


def test_parallel_results_are_the_evidence_of_the_next_step():
    pair = calls(("search", {"q": "a"}), ("look", {}))
    steps = trajectory_of(
        [HumanMessage("Who?"), pair, result("A"), result("B", 2), AIMessage("Both.")]
    ).trajectory
    assert steps[1]["passages"] == ["A", "B"]
    assert steps[1]["query"] == 'search(q="a"); look()'
    assert steps[1]["final_answer"] == "Both."


def test_documents_of_a_retriever_tool_are_passages_of_their_own():
    found = [Document("Born in Portsmouth.", metadata={"title": "Brunel"}), Document("A bridge.", id="d2")]
    steps = trajectory_of(
        [HumanMessage("Who?"), calls(("search", {})), result("joined", artifact=found), AIMessage("He.")]
    ).trajectory
    assert steps[1]["passages"] == ["Brunel: Born in Portsmouth.", "d2: A bridge."]


def test_only_the_last_turn_is_the_trajectory():
    question, steps = trajectory_of(
        [HumanMessage("Where was Brunel born?"), AIMessage("Portsmouth."), HumanMessage("And his wife?")]
    )
    assert steps == []
    assert question.index("User: Where was Brunel born?") < question.index("Assistant: Portsmouth.")
    assert question.endswith("The question now:\nAnd his wife?")


def test_what_is_cut_is_marked():
    many = [m for i in range(5) for m in (HumanMessage(f"q{i}"), AIMessage(f"a{i}"))]
    question = trajectory_of([*many, HumanMessage("Now?")], earlier=2).question
    assert "q3" not in question
    assert "[…]\nUser: q4\nAssistant: a4" in question
    assert trajectory_of([*many, HumanMessage("Now?")], earlier=0).question == "Now?"
    long = trajectory_of(
        [HumanMessage("Who?"), calls(("s", {})), result("word " * 100), AIMessage("x")], max_chars=20
    )
    assert long.trajectory[1]["passages"] == ["word word word word […]"]


def test_there_must_be_a_question():
    with pytest.raises(InputError, match="no human message"):
        trajectory_of([AIMessage("Hello.")])
