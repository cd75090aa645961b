"""The graphs that `langgraph dev` serves: question answering over an index folder.

Environment variables: `AGENTPRM_INDEX`, an index folder made by `agentprm index` (without it the demo
corpus is indexed in memory); `AGENTPRM_EMBEDDINGS`, the embedding model that it was made with, and
`AGENTPRM_MODEL`, the language model (names or folders; without them the packaged ones).
"""

from __future__ import annotations

import asyncio
import os
from functools import cache
from typing import Any

from langgraph.graph.state import CompiledStateGraph

from agentprm.forking import ForkSafeLock
from agentprm.graphs.rag import create_rag_graph
from agentprm.graphs.reasoning import create_reasoning_graph
from agentprm.lm import LanguageModel, as_language_model
from agentprm.packaged import default_embeddings, default_language_model
from agentprm.retrievers import FaissStore, SentenceTransformerEmbeddings, load_folder

__all__ = ["rag", "reasoning"]

Graph = CompiledStateGraph[Any, Any, Any, Any]

_loading = ForkSafeLock()


async def rag() -> Graph:
    """Plain retrieve-and-read."""
    return await asyncio.to_thread(_compiled, "rag")


async def reasoning() -> Graph:
    """Search over reasoning steps."""
    return await asyncio.to_thread(_compiled, "reasoning")


def _compiled(name: str) -> Graph:
    with _loading:  # the server may ask for both graphs at once
        return _graph(name)


@cache
def _graph(name: str) -> Graph:
    model, store = _model(), _store()
    builder = create_rag_graph(model, store) if name == "rag" else create_reasoning_graph(model, store)
    return builder.compile(name=name)


@cache
def _model() -> LanguageModel:
    chosen = os.environ.get("AGENTPRM_MODEL")
    return as_language_model(chosen) if chosen else default_language_model()


@cache
def _store() -> FaissStore:
    from agentprm.demo import corpus_path

    chosen = os.environ.get("AGENTPRM_EMBEDDINGS")
    embeddings = SentenceTransformerEmbeddings(chosen) if chosen else default_embeddings()
    folder = os.environ.get("AGENTPRM_INDEX")
    if folder:
        return FaissStore.load(folder, embeddings)
    return FaissStore.from_documents(load_folder(corpus_path() / "corpus.jsonl").documents, embeddings)
