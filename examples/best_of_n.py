"""Best of n: several answers are written and judged side by side (`Send`), and the best is taken.

python examples/best_of_n.py
"""

from __future__ import annotations

import operator
from typing import Annotated, Any

from langchain_core.documents import Document
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from typing_extensions import TypedDict

from agentprm.nodes import JudgeAnswer, Retrieve
from agentprm.state import Judgement
from agentprm.testing import FakeReward, fake_store


class State(TypedDict, total=False):
    """One list takes the judgements of all answers: its reducer adds them up."""

    question: str
    documents: list[Document]
    drafts: list[str]
    judgements: Annotated[list[Judgement], operator.add]
    answer: str


store = fake_store(["Isambard Kingdom Brunel was born in Portsmouth.", "Paris lies on the Seine."])
reward = FakeReward(
    lambda question, steps: sum(w in steps[-1]["passages"][0] for w in steps[-1]["thought"].split()) / 4
)


def draft(state: State) -> State:
    """Stands for a model that is sampled three times."""
    return {"drafts": ["in Paris", "in Portsmouth", "in England"]}


def each(state: State) -> list[Send]:
    shared = {"question": state["question"], "documents": state["documents"]}
    return [Send("judge", {**shared, "answer": text}) for text in state["drafts"]]


def best(state: State) -> State:
    return {"answer": max(state["judgements"], key=lambda judgement: judgement["score"] or 0.0)["answer"]}


builder = StateGraph(State)
builder.add_node("retrieve", Retrieve(store, k=1))
builder.add_node("draft", draft)
builder.add_node("judge", JudgeAnswer(reward, score_key=None, judgements_key="judgements"))
builder.add_node("best", best)
builder.add_edge(START, "retrieve")
builder.add_edge("retrieve", "draft")
builder.add_conditional_edges("draft", each, ["judge"])
builder.add_edge("judge", "best")
builder.add_edge("best", END)
graph = builder.compile()


def main() -> dict[str, Any]:
    result = graph.invoke({"question": "Where was Isambard Kingdom Brunel born?"})
    for judgement in result["judgements"]:
        print(f"{judgement['score']:.2f}  {judgement['answer']}")
    print(result["answer"])
    return dict(result)


if __name__ == "__main__":
    main()
