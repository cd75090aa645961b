"""The graphs that `langgraph dev` serves: question answering over an index folder.

Environment variables: `AGENTPRM_INDEX`, an index folder made by `agentprm index` (without it the demo
corpus is indexed in memory); `AGENTPRM_EMBEDDINGS`, the embedding model that it was made with, and
`AGENTPRM_MODEL`, the language model (names or folders; without them the packaged ones). The packaged model
reads with the packaged reader, and follows a plan.
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
from agentprm.packaged import (
    default_embeddings,
    default_language_model,
    default_reader,
    packaged_reader_folder,
)
from agentprm.readers.base import Reader
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
    model, store, reader = _model(), _store(), _reader()
    if name == "rag":
        return create_rag_graph(model, store, reader=reader).compile(name=name)
    return create_reasoning_graph(model, store, reader=reader).compile(name=name)


@cache
def _model() -> LanguageModel:
    chosen = os.environ.get("AGENTPRM_MODEL")
    return as_language_model(chosen) if chosen else default_language_model()


@cache
def _reader() -> Reader | None:
    """The packaged reader where the packaged model would read; other models read themselves."""
    if os.environ.get("AGENTPRM_MODEL") or not packaged_reader_folder().is_dir():
        return None
    return default_reader()


@cache
def _store() -> FaissStore:
    from agentprm.demo import corpus_path

    chosen = os.environ.get("AGENTPRM_EMBEDDINGS")
    embeddings = SentenceTransformerEmbeddings(chosen) if chosen else default_embeddings()
    folder = os.environ.get("AGENTPRM_INDEX")
    if folder:
        return FaissStore.load(folder, embeddings)
    return FaissStore.from_documents(load_folder(corpus_path() / "corpus.jsonl").documents, embeddings)
