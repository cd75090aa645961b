"""Retrieve, then read: the same way as the search, without the loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.documents.compressor import BaseDocumentCompressor
from langchain_core.language_models import BaseChatModel
from langgraph.graph import END, StateGraph

from agentprm.budget import SearchBudget
from agentprm.graphs.state import (
    RagGraphState,
    RagOutput,
    answering,
    condensing,
    graph_in_a_row,
    passages_to,
)
from agentprm.lm import LanguageModel, as_language_model
from agentprm.nodes import Answer, PairwiseRerank, Retrieve, RetrieverLike
from agentprm.nodes.answer import ResponseFormat
from agentprm.nodes.node import begin
from agentprm.prompts import PROMPTS, Prompts
from agentprm.readers.base import Reader
from agentprm.rerank import Comparator

__all__ = ["create_rag_graph"]


def create_rag_graph(
    model: LanguageModel | BaseChatModel | str,
    retriever: RetrieverLike,
    *,
    reader: Reader | None = None,
    k: int | None = None,
    passages: int | None = None,
    reranker: LanguageModel | BaseChatModel | Comparator | BaseDocumentCompressor | None = None,
    condense: LanguageModel | BaseChatModel | str | bool = False,
    budget: SearchBudget | Mapping[str, Any] | None = None,
    prompts: Prompts = PROMPTS,
    max_tokens: int = 48,
    form: str | None = None,
    language: str | None = None,
    response_format: ResponseFormat | None = None,
) -> StateGraph[Any, Any, Any, Any]:
    """Builds (condense) → retrieve → (rerank) → answer.

    Args:
        model: Reads the passages and writes the answer.
        retriever: Any LangChain retriever or vector store, or a function from a query to documents; a
            `FeedbackRetriever` for relevance feedback.
        reader: Quotes the answer from the passages in the place of `model`; see `agentprm.readers`.
        k: Passages that are found; by default as many as are read, and 10 with a reranker, which chooses
            among them.
        passages: Passages that are read; 5 by default.
        reranker: A model or comparator that compares passages, or any document compressor; `None` leaves
            it out.
        condense: Make a follow-up of a conversation a question that stands alone before it is searched
            for: with `model` (`True`) or another one; see `CondenseQuestion`.
        budget: Bounds of a run.
        prompts: Templates.
        max_tokens: Most tokens of the answer; a model that continues no prefix gets at least 256.
        form: How an answer should look, instead of a few words: "one sentence", "two paragraphs".
        language: Language of the answer, for instance "German".
        response_format: Schema of the answer, a pydantic model or a JSON schema: the answer is JSON, and
            comes from a chat model that can be held to a schema.

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
    language_model = as_language_model(model)
    written = answering(prompts, max_tokens, form, language, response_format)
    found, read = passages_to(k, passages, plain=5, reranked=reranker is not None)
    found = k or found  # `documents` are all that were found, though fewer may be read
    chain = condensing(condense, language_model, prompts=prompts, budget=budget)
    chain.append(Retrieve(retriever, k=found, budget=budget))
    if reranker is not None:
        chain.append(PairwiseRerank(reranker, budget=budget))
    chain.append(Answer(reader or language_model, passages=read, speak=True, budget=budget, **written))
    builder = graph_in_a_row(RagGraphState, RagOutput, begin, chain)
    builder.add_edge(chain[-1].name, END)
    return builder
