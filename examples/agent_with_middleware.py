"""An agent whose next action a reward model chooses before it is done.

The model here follows a script and errs at first: it would answer from memory, then search for the wrong
thing. With a chat model in its place and `VerdictReward(model)` as the reward nothing else changes.

    python examples/agent_with_middleware.py
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from agentprm import SearchBudget
from agentprm.integrations import RewardGuidedActions, action_trace
from agentprm.rewards import RewardStep
from agentprm.testing import ScriptedAgentModel, calls
from agentprm.trace import Trace, search_tree

NOTES = {
    "bridge": "The Clifton Suspension Bridge was designed by Isambard Kingdom Brunel.",
    "Brunel": "Isambard Kingdom Brunel was born in Portsmouth.",
}


@tool
def look_up(topic: str) -> str:
    """Looks a topic up in the notes."""
    return NOTES.get(topic, "There is no note about it.")


proposals = count()


def think(messages: list[BaseMessage]) -> AIMessage | str:
    """Stands for a chat model: every second proposal is a good one."""
    found = " ".join(message.text for message in messages if message.type == "tool")
    good = next(proposals) % 2
    if "Portsmouth" in found:
        return "He was born in Portsmouth."
    if not good:
        return "He was born in London, I believe."
    return calls(("look_up", {"topic": "Brunel" if "Brunel" in found else "bridge"}))


def judge(question: str, steps: Sequence[RewardStep]) -> float:
    """Stands for a reward model: an answer must stand in what was looked up."""
    step = steps[-1]
    if step["final_answer"] is None:
        return 0.8
    return 0.9 if any("Portsmouth" in passage for passage in step["passages"]) else 0.1


def main() -> Trace:
    agent: Any = create_agent(
        ScriptedAgentModel(replies=think),
        tools=[look_up],
        middleware=[RewardGuidedActions(judge, n=2, below=0.5, budget=SearchBudget(model_calls=20))],
        checkpointer=InMemorySaver(),
    )
    config = {"configurable": {"thread_id": "1"}}
    result = agent.invoke(
        {"messages": "Where was the engineer of the Clifton Suspension Bridge born?"}, config
    )
    print(result["messages"][-1].text)
    trace = action_trace(agent.get_state(config).values)
    from rich.console import Console

    Console().print(search_tree(trace))
    return trace


if __name__ == "__main__":
    main()
