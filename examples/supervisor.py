"""A supervisor that hands questions of fact to a researcher, which is a graph of agentprm.

    python examples/supervisor.py

The researcher finds the user's question in the messages, though the last of them is a tool's.
"""

from __future__ import annotations

from typing import Any, Literal

from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from agentprm import create_reasoning_graph
from agentprm.testing import FakeReward, ScriptedAgentModel, ScriptedChatModel, calls, fake_store

store = fake_store(
    [
        "The Clifton Suspension Bridge was designed by Isambard Kingdom Brunel.",
        "Isambard Kingdom Brunel was born in Portsmouth.",
    ]
)


@tool
def ask_researcher() -> str:
    """Hand the conversation to the researcher, who knows about engineers."""
    return "Handed over."


def decide(messages: list[BaseMessage]) -> Any:
    """Stands for the supervisor's model: it hands over what the user asks, and passes on what comes back."""
    if messages[-1].type == "human":
        return calls(("ask_researcher", {}))
    return f"The researcher says: {messages[-1].text}"


def research(text: str) -> str:
    """Stands for the researcher's model."""
    if "Find out one thing" in text:
        return "Search: Who designed the Clifton Suspension Bridge?"
    if "Ask the question again" in text:
        found = "Portsmouth" in text
        return "Final answer: Portsmouth" if found else "Search: Where was Isambard Kingdom Brunel born?"
    return "Portsmouth" if "born in Portsmouth" in text else "Isambard Kingdom Brunel"


boss = ScriptedAgentModel(replies=decide).bind_tools([ask_researcher])
researcher = create_reasoning_graph(
    ScriptedChatModel(script=research), store, FakeReward(lambda question, steps: 0.9), candidates=1
).compile()


def supervisor(state: MessagesState) -> Command[Literal["researcher", "__end__"]]:
    reply: Any = boss.invoke(state["messages"])
    if not reply.tool_calls:
        return Command(goto="__end__", update={"messages": [reply]})
    handed = [ToolMessage("Handed over.", tool_call_id=call["id"]) for call in reply.tool_calls]
    return Command(goto="researcher", update={"messages": [reply, *handed]})


builder = StateGraph(MessagesState)
builder.add_node("supervisor", supervisor)
builder.add_node("researcher", researcher)
builder.add_edge(START, "supervisor")
builder.add_edge("researcher", "supervisor")
graph = builder.compile(checkpointer=InMemorySaver())


def main() -> list[str]:
    thread: Any = {"configurable": {"thread_id": "1"}}
    question = "Where was the engineer of the Clifton Suspension Bridge born?"
    result = graph.invoke({"messages": [HumanMessage(question)]}, thread)
    for message in result["messages"]:
        message.pretty_print()
    return [message.type for message in result["messages"]]


if __name__ == "__main__":
    main()
