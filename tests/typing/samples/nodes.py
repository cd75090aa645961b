"""Single nodes in somebody's own graph, and by hand."""

import operator
from collections.abc import Sequence
from typing import Annotated, Any, assert_type

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from agentprm import FaissStore, LanguageModel, ProcessRewardModel, SearchBudget
from agentprm.nodes import (
    Answer,
    CondenseQuestion,
    JudgeAnswer,
    Node,
    PairwiseRerank,
    Retrieve,
    apply_update,
    cache_policy,
    retry_policy,
)
from agentprm.retrievers import FeedbackRetriever
from agentprm.rewards import RewardStep
from agentprm.state import Judgement


def search(query: str) -> list[str]:
    return [f"A passage about {query}."]


def length(question: str, steps: Sequence[RewardStep]) -> float:
    return min(1.0, len(steps[-1]["thought"]) / 100)


class Mine(TypedDict, total=False):
    """A state that knows nothing of agentprm."""

    query: str
    hits: list[Document]
    reply: str
    score: float | None
    judgements: Annotated[list[Judgement], operator.add]


def my_graph(model: BaseChatModel, store: FaissStore) -> str:
    keys = {"question": "query", "documents": "hits"}
    builder = StateGraph(Mine)
    retrieve = Retrieve(FeedbackRetriever(store, k=3), k=3, keys=keys)
    builder.add_node("retrieve", retrieve, retry_policy=retry_policy())
    builder.add_node("rerank", PairwiseRerank(model, keys=keys, budget=SearchBudget(model_calls=20)))
    builder.add_node("answer", Answer(model, keys={**keys, "answer": "reply"}))
    builder.add_edge(START, "retrieve")
    builder.add_edge("retrieve", "rerank")
    builder.add_edge("rerank", "answer")
    builder.add_node(
        "judge", JudgeAnswer(length, keys={**keys, "answer": "reply"}), cache_policy=cache_policy()
    )
    builder.add_edge("answer", "judge")
    builder.add_edge("judge", END)
    reply: str = builder.compile().invoke({"query": "Where was Brunel born?"})["reply"]
    return reply


def functions_and_mappings(model: BaseChatModel) -> list[Node]:
    return [
        CondenseQuestion(model),
        Retrieve(search, budget={"retrievals": 1}),
        JudgeAnswer(length, score_key=None, judgements_key="judgements"),
    ]


def best(judgements: list[Judgement]) -> str:
    return max(judgements, key=lambda judgement: judgement["score"] or 0.0)["answer"]


def by_hand(nodes: list[Node]) -> dict[str, Any]:
    state: dict[str, Any] = {"question": "Where was Brunel born?"}
    for node in nodes:
        update = node.invoke(state)
        assert_type(update, dict[str, Any])
        state = apply_update(state, update)
    return state


async def by_hand_on_a_loop(store: FaissStore, model: LanguageModel, reward: ProcessRewardModel) -> None:
    state: dict[str, Any] = {"question": "Where was Brunel born?"}
    for node in (Retrieve(store), Answer(model), JudgeAnswer(reward)):
        assert_type(node.name, str)
        state = apply_update(state, await node.ainvoke(state))
