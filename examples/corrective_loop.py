"""Corrective RAG: an answer that its passages do not bear out sends the question back to be put otherwise.

python examples/corrective_loop.py
"""

from __future__ import annotations

from langchain_core.documents import Document
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from agentprm.nodes import Answer, JudgeAnswer, Retrieve
from agentprm.testing import FakeReward, ScriptedChatModel, fake_store


class State(TypedDict, total=False):
    """What the loop knows."""

    question: str
    documents: list[Document]
    answer: str
    score: float | None
    attempts: int


store = fake_store(
    [
        "Paris lies on the Seine.",
        "Isambard Kingdom Brunel was the engineer of the Great Western Railway.",
    ]
)
model = ScriptedChatModel(script={"Great Western": "Isambard Kingdom Brunel", "": "George Stephenson"})
# Any reward model, or function of the question and the steps. For real use: agentprm.Grounding(model).
reward = FakeReward(lambda question, steps: float(steps[-1]["thought"] in " ".join(steps[-1]["passages"])))


def rewrite(state: State) -> State:
    """Stands for a model that puts the question in other words."""
    return {"question": "Who was the engineer of the Great Western Railway?", "attempts": 2}


def good_enough(state: State) -> str:
    return END if (state["score"] or 0) > 0.5 or state.get("attempts") else "rewrite"


builder = StateGraph(State)
builder.add_node("retrieve", Retrieve(store, k=1))
builder.add_node("answer", Answer(model))
builder.add_node("judge", JudgeAnswer(reward))
builder.add_node("rewrite", rewrite)
builder.add_edge(START, "retrieve")
builder.add_edge("retrieve", "answer")
builder.add_edge("answer", "judge")
builder.add_conditional_edges("judge", good_enough, ["rewrite", END])
builder.add_edge("rewrite", "retrieve")
graph = builder.compile()


def main() -> list[tuple[str, float]]:
    judged, answer = [], ""
    for update in graph.stream({"question": "Who built the line from Paris?"}, stream_mode="updates"):
        for node, values in update.items():
            if node == "answer":
                answer = values["answer"]
            elif node == "judge":
                judged.append((answer, values["score"]))
                print(f"{answer}: {values['score']}")
    return judged


if __name__ == "__main__":
    main()
