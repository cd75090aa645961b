"""Ready-made graphs: built, compiled, run, streamed, with a budget and a run context."""

from typing import Any, assert_type

from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import StateGraph

from agentprm import (
    TD,
    FaissStore,
    Plain,
    ProcessRewardModel,
    SearchBudget,
    Step,
    Usage,
    create_rag_graph,
    create_reasoning_graph,
    load_folder,
)
from agentprm.graphs import SearchContext
from agentprm.retrievers import FeedbackRetriever


def index(folder: str, embeddings: Embeddings) -> FaissStore:
    report = load_folder(folder, chunk_size=500)
    for source, reason in report.skipped:
        assert_type(source, str)
        assert_type(reason, str)
    store = FaissStore.from_documents(report.documents, embeddings)
    assert_type(store, FaissStore)
    store.save("index")
    return FaissStore.load("index", embeddings)


def rag(model: BaseChatModel, store: FaissStore) -> str:
    builder = create_rag_graph(model, FeedbackRetriever(store), reranker=model)
    assert_type(builder.compile().get_graph().draw_mermaid(), str)
    answer: str = builder.compile().invoke({"question": "Where was Brunel born?"})["answer"]
    return answer


def reasoning(model: BaseChatModel, store: FaissStore, reward: ProcessRewardModel) -> list[Step]:
    builder: StateGraph[Any, Any, Any, Any] = create_reasoning_graph(
        model,
        store,
        reward,
        candidates=2,
        value=TD(horizon=2),
        accept="always",
        budget=SearchBudget(model_calls=50, deadline_s=30.0),
    )
    graph = builder.compile(checkpointer=InMemorySaver())
    context = SearchContext(max_steps=2, budget=SearchBudget(tokens=1000))
    for event in graph.stream({"question": "Who?"}, stream_mode="custom", context=context):
        print(event["type"])
    state = graph.invoke({"question": "Who?"}, {"configurable": {"thread_id": "1"}})
    steps: list[Step] = state["prm_steps"]
    assert_type(steps[0]["score"], float | None)
    assert_type(steps[0]["usage"], Usage)
    return steps


async def concurrently(model: BaseChatModel, store: FaissStore, reward: ProcessRewardModel) -> str:
    graph = create_reasoning_graph(model, store, reward, value=Plain(), threshold=None).compile()
    answer: str = (await graph.ainvoke({"question": "Who?"}))["answer"]
    return answer
