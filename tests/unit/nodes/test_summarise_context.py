"""Conversations that grow too long: what is summarised, what stays, where the raw turns go."""

import asyncio

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.store.memory import InMemoryStore

from agentprm.errors import ConfigurationError
from agentprm.nodes import SummariseContext
from agentprm.nodes.summarise_context import HEADING, middle
from agentprm.testing import ScriptedChatModel


def call(number):
    return AIMessage("", tool_calls=[{"name": "search", "args": {"q": number}, "id": f"c{number}"}])


def result(number):
    return ToolMessage(f"found {number}", tool_call_id=f"c{number}")


def talk(pairs, system=True):
    head = [SystemMessage("Be brief.")] if system else []
    turns = [message for number in range(pairs) for message in (call(number), result(number))]
    return [*head, HumanMessage("Find it."), *turns]


def model(reply="It was found."):
    return ScriptedChatModel(script=lambda text: reply)


def graph(node, **settings):
    builder = StateGraph(MessagesState)
    builder.add_node("summarise", node)
    builder.add_edge(START, "summarise")
    return builder.compile(**settings)


def test_the_middle_becomes_a_summary_and_the_raw_turns_are_kept():
    wrote, store = model(), InMemoryStore()
    node = SummariseContext(wrote, max_context=1, keep=2)
    messages = graph(node, store=store).invoke({"messages": talk(3)})["messages"]
    assert [m.type for m in messages] == ["system", "human", "ai", "tool"]
    assert messages[0].text == f"Be brief.\n\n{HEADING}\nIt was found."
    assert (messages[1].text, messages[3].text) == ("Find it.", "found 2")
    (prompt,) = wrote.prompts
    assert 'Assistant: calls search({"q": 0})\nResult: found 0' in prompt
    assert "found 2" not in prompt
    (item,) = store.search(("context", "segments"))
    assert messages[0].additional_kwargs["prm_summary"] == {"segments": [item.key]}
    assert [m["type"] for m in item.value["messages"]] == ["ai", "tool"] * 2


def test_the_next_summary_goes_on_from_the_last_one():
    wrote = ScriptedChatModel(script={"Summary so far: First.": "Second.", "": "First."})
    app = graph(SummariseContext(wrote, max_context=1, keep=1, max_summaries=2), checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    app.invoke({"messages": talk(2, system=False)}, thread)
    messages = app.invoke({"messages": [call(5), result(5), HumanMessage("And?")]}, thread)["messages"]
    assert messages[0].text == f"{HEADING}\nSecond."
    assert len(messages[0].additional_kwargs["prm_summary"]["segments"]) == 2
    assert [m.text for m in messages[1:]] == ["Find it.", "And?"]
    messages = app.invoke({"messages": [AIMessage("So."), HumanMessage("Go on.")]}, thread)["messages"]
    assert len(wrote.prompts) == 2  # no third one
    assert len(messages) == 5


@pytest.mark.parametrize(
    ("messages", "keep", "span"),
    [
        (talk(3), 2, (2, 6)),
        (talk(3), 1, (2, 6)),  # the last result stays with its call
        (talk(3), 3, (2, 4)),
        (talk(3), 9, (2, 2)),
        (talk(0), 1, (2, 2)),
        ([*talk(1), call(7)], 1, (2, 4)),
        ([HumanMessage("a"), AIMessage("b"), HumanMessage("c")], 1, (1, 2)),
        ([], 1, (0, 0)),
    ],
)
def test_no_call_is_parted_from_its_result(messages, keep, span):
    assert middle(messages, keep) == span


def test_short_conversations_stay():
    wrote = model()
    assert SummariseContext(wrote).invoke({"messages": talk(9)}) == {}
    node = SummariseContext(wrote, max_context=10, count=lambda messages: 10)
    assert node.invoke({"messages": talk(9)}) == {}
    assert wrote.prompts == []


@pytest.mark.parametrize("reply", ["", "<think>hm"])
def test_without_a_summary_nothing_is_lost(reply):
    assert SummariseContext(model(reply), max_context=1, keep=1).invoke({"messages": talk(3)}) == {}


def test_without_a_call_nothing_is_asked():
    wrote = model()
    node = SummariseContext(wrote, max_context=1, keep=1, budget={"model_calls": 1})
    assert node.invoke({"messages": talk(3)}) == {}
    assert wrote.prompts == []


def test_async_is_the_same():
    node = SummariseContext(model(), max_context=1, keep=2, store=InMemoryStore())
    state = {"messages": talk(3)}
    texts = [
        [m.text for m in u["messages"][1:]] for u in (node.invoke(state), asyncio.run(node.ainvoke(state)))
    ]
    assert texts[0] == texts[1]
    assert len(node.store.search(("context", "segments"))) == 1  # the same segment, once


def test_wrong_settings_are_refused():
    for wrong in ({"max_context": 0}, {"keep": 0}, {"max_summaries": True}):
        with pytest.raises(ConfigurationError):
            SummariseContext(model(), **wrong)
