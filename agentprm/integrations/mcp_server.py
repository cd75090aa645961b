"""An MCP server that searches an index and answers from it."""

from __future__ import annotations

from typing import Annotated, Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from pydantic import BaseModel, Field

from agentprm.documents import plain
from agentprm.errors import InputError, MissingDependencyError
from agentprm.integrations.tool import answer_text, source_text
from agentprm.retrievers import default_retriever
from agentprm.trace import least_confidence

try:
    from mcp.server.fastmcp import FastMCP
    from mcp.types import CallToolResult, TextContent, ToolAnnotations
except ImportError as error:
    raise MissingDependencyError.for_extra("mcp", "mcp") from error

__all__ = ["FoundAnswer", "FoundPassage", "FoundPassages", "create_mcp_server"]

_READS = ToolAnnotations(readOnlyHint=True, openWorldHint=False)
_MOST = 50


class FoundPassage(BaseModel):
    """A passage: its id, text and metadata."""

    id: str
    text: str
    metadata: dict[str, Any]


class FoundPassages(BaseModel):
    """What `search` found, best first."""

    passages: list[FoundPassage]


class FoundAnswer(BaseModel):
    """What `ask` answered, from which passages, and how sure a reader was (`least_confidence`)."""

    answer: str
    confidence: float | None
    citations: list[FoundPassage]
    stop_reason: str
    usage: dict[str, float]


def create_mcp_server(
    graph: Any,
    retriever: BaseRetriever | VectorStore,
    *,
    name: str = "agentprm",
    about: str = "the indexed documents",
    host: str = "127.0.0.1",
    port: int = 8000,
) -> FastMCP[Any]:
    """A server with the tools `search` and `ask`, for any client of the Model Context Protocol.

    Run it with `server.run("stdio")`, as clients start it, or with `server.run("streamable-http")`.
    On a loopback address requests with another host's name or origin are refused.

    Args:
        graph: A compiled graph of agentprm, for `ask`.
        retriever: A retriever, or a vector store, which `default_retriever` searches, for `search`.
        name: The server's name.
        about: What the documents are, for the descriptions of the tools.
        host: The address of HTTP. Keep the default, unless something in front of it asks who is there.
        port: The port of HTTP.
    """
    counted = isinstance(retriever, VectorStore)
    found_by = default_retriever(retriever) if isinstance(retriever, VectorStore) else retriever
    server: FastMCP[Any] = FastMCP(
        name,
        instructions=f"Searches {about}, and answers questions from them with sources.",
        host=host,
        port=port,
        log_level="WARNING",
    )

    async def search(
        query: Annotated[str, Field(description="What to look for.")],
        k: Annotated[int, Field(description="Most passages.", ge=1, le=_MOST)] = 5,
    ) -> Annotated[CallToolResult, FoundPassages]:
        _not_empty(query, "query")
        # Of another retriever it is not known whether it can be asked for a number of passages.
        most: dict[str, Any] = {"k": k} if counted else {}
        documents = (await found_by.ainvoke(query, **most))[:k]
        lines = [f"[{i}] {source_text(d, d.page_content, None)}" for i, d in enumerate(documents, 1)]
        found = FoundPassages(passages=[_passage(document) for document in documents])
        return _result("\n".join(lines) or "Nothing was found.", found)

    async def ask(
        question: Annotated[str, Field(description="A complete question, which needs no context.")],
    ) -> Annotated[CallToolResult, FoundAnswer]:
        _not_empty(question, "question")
        state = await graph.ainvoke({"question": question})
        known = {str(d.id): d for d in [*(state.get("prm_documents") or []), *(state.get("documents") or [])]}
        cited = [known[c["doc_id"]] for c in state.get("citations") or [] if c["doc_id"] in known]
        found = FoundAnswer(
            answer=state.get("answer") or "",
            confidence=least_confidence(state.get("prm_steps") or []),
            citations=[_passage(document) for document in cited],
            stop_reason=state.get("prm_stop_reason") or "",
            usage=dict(state.get("prm_usage") or {}),
        )
        return _result(answer_text(state), found)

    server.add_tool(search, description=f"Finds passages in {about}.", annotations=_READS)
    server.add_tool(
        ask,
        description=f"Answers a question from {about}, with sources; in several searches where it must.",
        annotations=_READS,
    )
    return server


def _result(text: str, found: BaseModel) -> CallToolResult:
    content = TextContent(type="text", text=text)
    return CallToolResult(content=[content], structuredContent=found.model_dump(mode="json"))


def _passage(document: Document) -> FoundPassage:
    metadata = plain(document.metadata, "Document.metadata")
    return FoundPassage(id=str(document.id), text=document.page_content, metadata=metadata)


def _not_empty(text: str, what: str) -> None:
    if not text.strip():
        raise InputError(f"The {what} is empty; give a text.")
