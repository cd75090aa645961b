"""A chat agent with memory that has the search over reasoning steps as a tool.

python examples/agent_with_tool.py
"""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage
from langgraph.checkpoint.memory import InMemorySaver

from agentprm import create_reasoning_graph
from agentprm.integrations import create_search_tool
from agentprm.testing import FakeReward, ScriptedAgentModel, ScriptedChatModel, calls, fake_store

store = fake_store(
    [
        "The Clifton Suspension Bridge was designed by Isambard Kingdom Brunel.",
        "Isambard Kingdom Brunel was born in Portsmouth.",
    ]
)


def search(conversation: str) -> str:
    """Stands for the chat model inside the tool."""
    if "Find out one thing" in conversation:
        return "Search: Who designed the Clifton Suspension Bridge?"
    if "Ask the question again" in conversation:
        if "Portsmouth" in conversation:
            return "Final answer: Portsmouth"
        return "Search: Where was Isambard Kingdom Brunel born?"
    return "Portsmouth" if "born in Portsmouth" in conversation else "Isambard Kingdom Brunel"


def chat(messages: list[BaseMessage]) -> AIMessage | str:
    """Stands for the agent's chat model: it asks the tool once, and remembers what it was told."""
    told = [message.text for message in messages if message.type == "tool"]
    if not told:
        question = "Where was the engineer of the Clifton Suspension Bridge born?"
        return calls(("answer_from_documents", {"question": question}))
    return f"{told[0].splitlines()[0]}, see the sources."


def main() -> list[str]:
    reward = FakeReward(lambda question, steps: 0.9)
    graph = create_reasoning_graph(ScriptedChatModel(script=search), store, reward, candidates=1)
    tool = create_search_tool(graph, description="Answers questions about bridges and their engineers.")
    agent: Any = create_agent(ScriptedAgentModel(replies=chat), tools=[tool], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    said = []
    for question in ("Where was the engineer of the Clifton Suspension Bridge born?", "And again?"):
        result = agent.invoke({"messages": question}, config)
        said.append(result["messages"][-1].text)
        print(f"{question} {said[-1]}")
    (answered,) = [message for message in result["messages"] if message.type == "tool"]
    print(answered.text)
    print(f"{len(answered.artifact['steps'])} steps are in the trace, which the model never saw")
    return said


if __name__ == "__main__":
    main()
