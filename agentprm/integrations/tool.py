"""The search as a tool of an agent: a question in, an answer with its sources out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.documents import Document
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from pydantic import BaseModel, Field

from agentprm.documents import Citation, title_of
from agentprm.errors import ConfigurationError
from agentprm.rewards.conversation import shortened
from agentprm.text import one_line
from agentprm.trace import Trace, trace_of
from agentprm.trace.schema import guess_warning

__all__ = ["answer_text", "create_search_tool", "source_text"]

_DESCRIPTION = (
    "Answers a question from the document collection, in several searches where one does not do. Ask a "
    "complete question that needs no context. Returns the answer with its numbered sources."
)


class _Arguments(BaseModel):
    # An empty question is the agent's mistake: it is told so and may go on.
    question: str = Field(description="A complete question, which needs no context.", pattern=r"\S")


def create_search_tool(
    graph: Any,
    retriever: Any = None,
    reward: Any = None,
    *,
    name: str = "answer_from_documents",
    description: str = _DESCRIPTION,
    excerpt: int = 300,
) -> BaseTool:
    """A tool that runs a graph of agentprm, for any LangChain or LangGraph agent, sync and async.

    Its only argument is `question`. Its content is the answer with numbered citations, each with the
    document's title, metadata (page, url, …) and an excerpt; its artifact is the `Trace`, which stays
    out of the model's sight. Events of the search reach the agent's custom stream with
    `subgraphs=True`.

    Args:
        graph: A graph of agentprm, compiled or not; or a language model, chat model or name of one,
            from which `create_reasoning_graph(graph, retriever, reward)` makes the graph.
        retriever: Where to search, if `graph` is a model.
        reward: Scores the steps, if `graph` is a model.
        name: What the agent calls the tool.
        description: What the agent is told about it; say here what the documents are about.
        excerpt: Characters of each cited passage that are shown; 0 shows none.

    Raises:
        ConfigurationError: If `graph` is a model without a retriever, or a graph with one.

    Example:
        >>> from agentprm.graphs import create_rag_graph
        >>> from agentprm.testing import ScriptedChatModel, fake_store
        >>> model = ScriptedChatModel(script={"Brunel": "Portsmouth"})
        >>> tool = create_search_tool(create_rag_graph(model, fake_store(["Brunel, born in Portsmouth."])))
        >>> print(tool.invoke({"question": "Where was Brunel born?"}))
        Portsmouth
        <BLANKLINE>
        Sources:
        [1] d1: Brunel, born in Portsmouth.
    """
    is_graph = isinstance(graph, StateGraph | CompiledStateGraph)
    if is_graph and (retriever is not None or reward is not None):
        raise ConfigurationError("A graph has its retriever and reward already; leave them out.")
    if not is_graph:
        if retriever is None:
            raise ConfigurationError(
                f"A search tool needs a graph, or a model and a retriever; a {type(graph).__name__} alone "
                "is neither."
            )
        from agentprm.graphs import create_reasoning_graph

        graph = create_reasoning_graph(graph, retriever, reward)
    # A run of the tool is finished in one go. With the agent's checkpointer, calls side by side collide.
    if isinstance(graph, CompiledStateGraph):
        compiled: CompiledStateGraph[Any, Any, Any, Any] = graph.copy({"checkpointer": False})
    else:
        compiled = graph.compile(checkpointer=False)

    def run(question: str) -> tuple[str, Trace]:
        return _result(compiled.invoke({"question": question}), excerpt)

    async def arun(question: str) -> tuple[str, Trace]:
        return _result(await compiled.ainvoke({"question": question}), excerpt)

    return StructuredTool.from_function(
        run,
        arun,
        name=name,
        description=description,
        args_schema=_Arguments,
        response_format="content_and_artifact",
    )


def _result(state: Mapping[str, Any], excerpt: int) -> tuple[str, Trace]:
    return answer_text(state, excerpt=excerpt), trace_of(state)


def answer_text(state: Mapping[str, Any], *, excerpt: int = 300) -> str:
    """What a graph returned as text: the answer, and the passages that it cites as a numbered list.

    An answer that a reader is hardly sure of is called a guess behind it (`least_confidence`).

    Args:
        state: What the graph returned.
        excerpt: Characters of each passage that are shown; 0 shows none.
    """
    answer = str(state.get("answer") or "").strip()
    if not answer:
        return f"No answer was found ({state.get('prm_stop_reason') or 'the documents do not say'})."
    if warning := guess_warning(state.get("prm_steps") or []):
        answer = f"{answer} ({warning})"
    documents = [*(state.get("prm_documents") or []), *(state.get("documents") or [])]
    known = {str(document.id): document for document in documents}
    lines = []
    for number, citation in enumerate(state.get("citations") or [], 1):
        document = known.get(citation["doc_id"]) or _cited(citation)
        lines.append(f"[{number}] {source_text(document, citation['text'], excerpt)}")
    return "\n".join([answer, "", "Sources:", *lines]) if lines else answer


def source_text(document: Document, text: str, excerpt: int | None) -> str:
    """A document's title, its metadata and `text` on one line.

    Args:
        document: The document.
        text: What to show of it.
        excerpt: Characters of the text that are shown; `None` shows all.
    """
    title = title_of(document)
    # What other parts of agentprm have noted about the search is a mapping, and no news to the agent.
    known = [
        f"{key}: {one_line(str(value))}"
        for key, value in document.metadata.items()
        if isinstance(value, str | int | float) and str(value).strip() and str(value) != title
    ]
    line = one_line(title) + (f" ({', '.join(known)})" if known else "")
    shown = one_line(text) if excerpt is None else excerpt and shortened(one_line(text), excerpt)
    return f"{line}: {shown}" if shown else line


def _cited(citation: Citation) -> Document:
    """What a citation alone says of its document."""
    metadata = {"title": citation["title"], "source": citation["source"]}
    return Document(id=citation["doc_id"], page_content=citation["text"], metadata=metadata)
