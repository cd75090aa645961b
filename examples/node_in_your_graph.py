"""A node of agentprm inside somebody else's agent, whose state knows nothing of it.

The agent answers from its own notes; `JudgeAnswer` judges each answer, and a weak one is sent back once.

    python examples/node_in_your_graph.py
"""

from __future__ import annotations

from langchain_core.documents import Document
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from agentprm.nodes import JudgeAnswer
from agentprm.testing import FakeReward


class MyState(TypedDict, total=False):
    """What the agent knows; a key for the judge's score is all that it adds."""

    question: str
    documents: list[Document]
    answer: str
    attempts: int
    score: float | None


NOTES = [Document(id="n1", page_content="The Clifton Suspension Bridge was designed by Brunel.")]


def draft(state: MyState) -> MyState:
    """Stands for the agent's own model: its second attempt is the better one."""
    attempts = state.get("attempts", 0) + 1
    return {
        "documents": NOTES,
        "answer": "Telford" if attempts == 1 else "Brunel",
        "attempts": attempts,
    }


def good_enough(state: MyState) -> str:
    """An answer without a score (`None`) is not good enough either."""
    return END if (state["score"] or 0.0) > 0.5 or state["attempts"] == 3 else "draft"


# Any reward model will do, for instance agentprm.Grounding(model). This one checks the wording.
reward = FakeReward(lambda question, steps: float(steps[-1]["thought"] in steps[-1]["passages"][0]))

builder = StateGraph(MyState)
builder.add_node("draft", draft)
builder.add_node("judge", JudgeAnswer(reward))
builder.add_edge(START, "draft")
builder.add_edge("draft", "judge")
builder.add_conditional_edges("judge", good_enough)
graph = builder.compile()


def main() -> str:
    result = graph.invoke({"question": "Who designed the Clifton Suspension Bridge?"})
    print(f"{result['answer']} (after {result['attempts']} attempts)")
    return str(result["answer"])


if __name__ == "__main__":
    main()
