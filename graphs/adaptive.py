"""Retrieve or not, then read: plain RAG that leaves out the search where the model knows the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

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
from agentprm.nodes import Answer, DecideRetrieval, PairwiseRerank, Retrieve, RetrieverLike
from agentprm.nodes.answer import ResponseFormat
from agentprm.nodes.decide_retrieval import Decide
from agentprm.nodes.node import begin
from agentprm.prompts import PROMPTS, Prompts
from agentprm.rerank import Comparator

__all__ = ["AdaptiveRagState", "create_adaptive_rag_graph"]


class AdaptiveRagState(RagGraphState, total=False):
    """`RagGraphState` with what was decided.

    Attributes:
        need: How likely the question was thought to need passages; `None` if that is not known.
        route: `retrieve`, `answer` or `answered`.
    """

    need: float | None
    route: str


class AdaptivelyAnswered(RagOutput, total=False):
    """Output: the decision as well."""

    need: float | None
    route: str


def create_adaptive_rag_graph(
    model: LanguageModel | BaseChatModel | str,
    retriever: RetrieverLike,
    decide: Decide | LanguageModel | BaseChatModel | str | Any = None,
    *,
    threshold: float = 0.5,
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
    """Builds (condense) → decide → retrieve → (rerank) → answer, or decide → answer (Adapt-LLM).

    Args:
        model: Reads the passages and writes the answer; and decides, unless `decide` does.
        retriever: As for `create_rag_graph`.
        decide: What decides whether passages are needed; by default `model`, see
            `agentprm.nodes.RetrievalNeed`.
        threshold: Need from which on passages are retrieved.
        k: As for `create_rag_graph`.
        passages: As for `create_rag_graph`.
        reranker: As for `create_rag_graph`.
        condense: As for `create_rag_graph`.
        budget: Bounds of a run.
        prompts: Templates.
        max_tokens: Most tokens of the answer; a model that continues no prefix gets at least 256.
        form: How an answer should look; an answer that came with the decision is then written anew.
        language: Language of the answer; likewise.
        response_format: Schema of the answer; likewise.

    Returns:
        The uncompiled graph: input and output as of `create_rag_graph`, and `need` and `route`.

    Example:
        >>> from agentprm.testing import ScriptedChatModel, fake_store
        >>> script = {"was Portsmouth": "Portsmouth", "Brunel": "RETRIEVE", "France": "Paris"}
        >>> store = fake_store(["Brunel's was Portsmouth."])
        >>> graph = create_adaptive_rag_graph(ScriptedChatModel(script=script), store).compile()
        >>> [graph.invoke({"question": q})["answer"] for q in ("Capital of France?", "And Brunel's?")]
        ['Paris', 'Portsmouth']
    """
    language_model = as_language_model(model)
    found, read = passages_to(k, passages, plain=5, reranked=reranker is not None)
    written = answering(prompts, max_tokens, form, language, response_format)
    answer = Answer(language_model, passages=read, speak=True, budget=budget, **written)
    deciding = DecideRetrieval(
        language_model if decide is None else decide,
        threshold=threshold,
        speak=answer.form.plain,
        budget=budget,
    )
    way = condensing(condense, language_model, prompts=prompts, budget=budget)
    way += [deciding, Retrieve(retriever, k=k or found, budget=budget)]
    if reranker is not None:
        way.append(PairwiseRerank(reranker, budget=budget))
    way.append(answer)

    def after(state: AdaptiveRagState) -> Literal["retrieve", "answer", "__end__"]:
        route = state["route"]
        if route == "answered":
            # In another form the answer is written anew.
            return END if answer.form.plain else "answer"  # type: ignore[return-value]
        return "retrieve" if route == "retrieve" else "answer"

    builder = graph_in_a_row(AdaptiveRagState, AdaptivelyAnswered, begin, way, [deciding.name])
    builder.add_conditional_edges(deciding.name, after)
    builder.add_edge(answer.name, END)
    return builder
