"""Retrieve, then read: the same way as the search, without the loop."""

from __future__ import annotations

from typing import Any

from langchain_core.documents.compressor import BaseDocumentCompressor
from langchain_core.language_models import BaseChatModel
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from langgraph.graph import END, START, StateGraph

from agentprm.budget import SearchBudget
from agentprm.graphs.state import Answered, Question, RagGraphState, SearchContext, begin
from agentprm.lm import LanguageModel, as_language_model
from agentprm.nodes import Answer, PairwiseRerank, Retrieve
from agentprm.prompts import PROMPTS, Prompts
from agentprm.rerank import Comparator

__all__ = ["create_rag_graph"]


def create_rag_graph(
    model: LanguageModel | BaseChatModel | str,
    retriever: BaseRetriever | VectorStore,
    *,
    k: int = 5,
    passages: int | None = None,
    reranker: LanguageModel | BaseChatModel | Comparator | BaseDocumentCompressor | None = None,
    budget: SearchBudget | None = None,
    prompts: Prompts = PROMPTS,
) -> StateGraph[Any, Any, Any, Any]:
    """Builds retrieve → (rerank) → answer.

    Args:
        model: Reads the passages and writes the answer.
        retriever: Any LangChain retriever or vector store; a `FeedbackRetriever` for relevance feedback.
        k: Passages that are retrieved.
        passages: Passages that are read; by default all.
        reranker: A model or comparator that compares passages, or any document compressor; `None` leaves
            it out.
        budget: Bounds of a run.
        prompts: Templates.

    Returns:
        The uncompiled graph: input `question` or `messages`, output `answer`, `citations`,
        `documents`, `messages`, `prm_usage` and `prm_stop_reason`.

    Example:
        >>> from agentprm.testing import ScriptedChatModel, fake_store
        >>> store = fake_store(["Brunel was born in Portsmouth.", "Paris lies on the Seine."])
        >>> graph = create_rag_graph(ScriptedChatModel(script={"Brunel": "Portsmouth"}), store, k=1).compile()
        >>> graph.invoke({"question": "Where was Brunel born?"})["answer"]
        'Portsmouth'
    """
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(
        RagGraphState, context_schema=SearchContext, input_schema=Question, output_schema=Answered
    )
    language_model = as_language_model(model)
    chain: list[Any] = [Retrieve(retriever, k=k, budget=budget)]
    if reranker is not None:
        chain.append(PairwiseRerank(reranker, budget=budget))
    chain.append(Answer(language_model, passages=passages or k, prompts=prompts, speak=True, budget=budget))
    builder.add_node("begin", begin)
    builder.add_edge(START, "begin")
    previous = "begin"
    for node in chain:
        builder.add_node(node.name, node)
        builder.add_edge(previous, node.name)
        previous = node.name
    builder.add_edge(previous, END)
    return builder
