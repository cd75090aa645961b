"""The search as a tool: one argument, an answer with its sources, the trace beside it."""

import asyncio
import json

import pytest
from langchain_core.documents import Document
from langchain_core.messages import ToolMessage
from langgraph.checkpoint.memory import InMemorySaver

from agentprm.errors import ConfigurationError
from agentprm.graphs import create_rag_graph, create_reasoning_graph
from agentprm.integrations import create_search_tool
from agentprm.testing import (
    FakeReward,
    ScriptedAgentModel,
    ScriptedChatModel,
    ScriptedLanguageModel,
    ScriptedReader,
    calls,
    fake_store,
)
from agentprm.trace import GUESS, load_trace, save_trace

BRUNEL = Document(
    "Isambard Kingdom Brunel was born in Portsmouth in 1806. " + "He built ships. " * 40,
    id="d1",
    metadata={"title": "Brunel", "page": 3, "url": "https://example.org/brunel", "scores": {"bm25": 1.0}},
)


def graph(reply="Portsmouth"):
    return create_rag_graph(
        ScriptedChatModel(script={"": reply}), fake_store([BRUNEL, "Paris lies on the Seine."]), k=1
    )


def test_question_is_the_only_argument():
    tool = create_search_tool(graph())
    assert list(tool.args) == ["question"]
    assert tool.tool_call_schema.model_json_schema()["required"] == ["question"]


@pytest.mark.parametrize("how", ["sync", "async"])
def test_content_and_artifact(how, tmp_path):
    tool = create_search_tool(graph().compile(), excerpt=20)
    call = {"name": tool.name, "args": {"question": "Where was Brunel born?"}, "id": "1", "type": "tool_call"}
    message = tool.invoke(call) if how == "sync" else asyncio.run(tool.ainvoke(call))
    assert isinstance(message, ToolMessage)
    assert message.content == (
        "Portsmouth\n\nSources:\n[1] Brunel (page: 3, url: https://example.org/brunel): Isambard Kingdom […]"
    )
    assert message.artifact["question"] == "Where was Brunel born?"
    (citation,) = message.artifact["citations"]
    assert citation["metadata"] == {"page": 3, "url": "https://example.org/brunel"}
    json.dumps(message.artifact)
    save_trace(message.artifact, tmp_path / "trace.json")
    assert load_trace(tmp_path / "trace.json")["answer"] == "Portsmouth"


def test_an_agent_that_asks_nothing_is_told_so_and_goes_on():
    from langchain.agents import create_agent

    model = ScriptedAgentModel(replies=[calls(("search_documents", {"question": " "})), "I do not know."])
    agent = create_agent(model, [create_search_tool(graph(), name="search_documents")])
    messages = agent.invoke({"messages": [("user", "Where?")]})["messages"]
    assert messages[-1].text == "I do not know."
    assert messages[-2].status == "error"
    assert "question" in messages[-2].text


def test_without_an_answer_it_says_so():
    assert (
        create_search_tool(graph(reply="")).invoke({"question": "Where?"}).startswith("No answer was found (")
    )


@pytest.mark.parametrize(("sure", "said"), [(0.8, "Oslo"), (0.04, "Oslo (a guess: the reader gives")])
def test_an_agent_is_told_what_is_a_guess(sure, said):
    store = fake_store(["Up is a film by Bob Ray.", "Bob Ray was born in Oslo."])
    reader = ScriptedReader({"directed": {"Bob Ray": 0.9}, "Bob Ray born": {"Oslo": sure}})
    searching = create_reasoning_graph(ScriptedLanguageModel({}), store, mode="plan", reader=reader)
    content = create_search_tool(searching).invoke({"question": "Where was the director of film Up born?"})
    assert content.startswith(said)
    assert ("guess" in content) == (sure < GUESS)


def test_from_a_model_and_a_retriever():
    model = ScriptedChatModel(
        script={
            "Known: Where": "Final answer: Portsmouth",
            "Text:": "Portsmouth",
            "": "Search: Where was Brunel born?",
        }
    )
    tool = create_search_tool(
        model, fake_store([BRUNEL]), FakeReward(), name="ask", description="About Brunel."
    )
    assert (tool.name, tool.description) == ("ask", "About Brunel.")
    message = tool.invoke(
        {"name": "ask", "args": {"question": "Where was Brunel born?"}, "id": "1", "type": "tool_call"}
    )
    assert message.content.startswith("Portsmouth\n\nSources:\n[1] Brunel (page: 3")
    assert message.artifact["steps"]


def test_two_questions_at_once_in_an_agent_with_memory():
    langchain = pytest.importorskip("langchain.agents")
    tool = create_search_tool(graph())
    ask = (tool.name, {"question": "Where was Brunel born?"})
    model = ScriptedAgentModel(replies=[calls(ask, ask), "Portsmouth."])
    agent = langchain.create_agent(model, [tool], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    result = agent.invoke({"messages": "Where?"}, config)
    assert [m.type for m in result["messages"]] == ["human", "ai", "tool", "tool", "ai"]
    kept = agent.get_state(config).values["messages"][2]
    assert kept.artifact["answer"] == "Portsmouth"
    assert all("trace" not in str(m.content) for m in model.requests[1])


def test_mistakes():
    with pytest.raises(ConfigurationError, match="a model and a retriever"):
        create_search_tool(ScriptedChatModel(script={}))
    with pytest.raises(ConfigurationError, match="leave them out"):
        create_search_tool(graph(), fake_store(["x"]))
