"""The search over reasoning steps with a chat model that follows a script: no model, no network.

python examples/reasoning_scripted.py
"""

from __future__ import annotations

from typing import Any

from agentprm import Plain, create_reasoning_graph
from agentprm.testing import FakeReward, ScriptedChatModel, fake_store

QUESTION = "Where was the engineer of the Clifton Suspension Bridge born?"

store = fake_store(
    [
        "The Clifton Suspension Bridge was designed by Isambard Kingdom Brunel.",
        "Isambard Kingdom Brunel was born in Portsmouth.",
        "The Menai Suspension Bridge was designed by Thomas Telford.",
    ]
)


def script(conversation: str) -> str:
    """Stands for a chat model: it plans, reads passages, and concludes."""
    if "Find out one thing" in conversation:
        return "Search: Who designed the Clifton Suspension Bridge?"
    if "Ask the question again" in conversation:
        if "Portsmouth" in conversation:
            return "Final answer: Portsmouth"
        return "Search: Where was Isambard Kingdom Brunel born?"
    return "Portsmouth" if "born in Portsmouth" in conversation else "Isambard Kingdom Brunel"


def main() -> dict[str, Any]:
    model = ScriptedChatModel(script=script)
    reward = FakeReward(lambda question, steps: 0.9)
    graph = create_reasoning_graph(model, store, reward, candidates=1, value=Plain()).compile()
    for event in graph.stream({"question": QUESTION}, stream_mode="custom"):
        print(event["type"].removeprefix("agentprm."), event.get("step_id", ""))
    result = graph.invoke({"question": QUESTION})
    print(result["answer"], [citation["doc_id"] for citation in result["citations"]])
    return dict(result)


if __name__ == "__main__":
    main()
