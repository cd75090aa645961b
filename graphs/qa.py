"""The graphs that `langgraph dev` serves: question answering over an index folder.

Environment variables: `AGENTPRM_INDEX`, an index folder made by `agentprm index` (without it the demo
corpus is indexed in memory); `AGENTPRM_EMBEDDINGS`, the embedding model that it was made with, and
`AGENTPRM_MODEL`, the language model (names or folders; without them the packaged ones). The packaged model
reads with the packaged reader, and follows a plan.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from functools import cache
from typing import Any

from langgraph.graph.state import CompiledStateGraph

from agentprm.demo import corpus_path
from agentprm.forking import ForkSafeLock
from agentprm.graphs.adaptive import create_adaptive_rag_graph
from agentprm.graphs.cr_planner import create_cr_planner_graph
from agentprm.graphs.gathering import create_evidence_graph, create_goal_graph, create_note_graph
from agentprm.graphs.glore import create_glore_graph
from agentprm.graphs.rag import create_rag_graph
from agentprm.graphs.rearter import create_rearter_graph
from agentprm.graphs.reasoning import create_reasoning_graph
from agentprm.graphs.routed import create_routed_graph
from agentprm.lm import LanguageModel, as_language_model
from agentprm.packaged import (
    default_embeddings,
    default_language_model,
    default_reader,
    packaged_reader_folder,
)
from agentprm.readers.base import Reader
from agentprm.retrievers import FaissStore, SentenceTransformerEmbeddings, load_folder

__all__ = [
    "adaptive",
    "cr_planner",
    "evidence",
    "glore",
    "goal",
    "note",
    "rag",
    "rearter",
    "reasoning",
    "routed",
]

Graph = CompiledStateGraph[Any, Any, Any, Any]

_loading = ForkSafeLock()


def _served(
    name: str, build: Callable[..., Any], doc: str, *, reads: bool = False
) -> Callable[[], Coroutine[Any, Any, Graph]]:
    """What the server calls for a graph; `reads` says that it takes a reader."""

    async def graph() -> Graph:
        return await asyncio.to_thread(_compiled, name, build, reads)

    graph.__name__, graph.__doc__ = name, doc
    return graph


rag = _served("rag", create_rag_graph, "Plain retrieve-and-read.", reads=True)
adaptive = _served(
    "adaptive", create_adaptive_rag_graph, "Retrieve only where passages are needed (Adapt-LLM)."
)
routed = _served("routed", create_routed_graph, "Answer at once, reason, or search in rounds (A^2FM).")
reasoning = _served("reasoning", create_reasoning_graph, "Search over reasoning steps.", reads=True)
rearter = _served("rearter", create_rearter_graph, "The search with ReARTeR's settings.", reads=True)
glore = _served("glore", create_glore_graph, "A draft, refined where it is weak (GLoRe).")
cr_planner = _served("cr_planner", create_cr_planner_graph, "Sub-goals chosen by critics (CR-Planner).")
note = _served("note", create_note_graph, "A note that gets better round by round (Adaptive-Note).")
evidence = _served("evidence", create_evidence_graph, "A pool of facts, filled until it is enough (RFM-RAG).")
goal = _served("goal", create_goal_graph, "Goals, and whether they were reached (RE-Searcher).")


def _compiled(name: str, build: Callable[..., Any], reads: bool) -> Graph:
    with _loading:  # the server may ask for several graphs at once
        return _graph(name, build, reads)


@cache
def _graph(name: str, build: Callable[..., Any], reads: bool) -> Graph:
    reading = {"reader": _reader()} if reads else {}
    graph: Graph = build(_model(), _store(), **reading).compile(name=name)
    return graph


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
    chosen = os.environ.get("AGENTPRM_EMBEDDINGS")
    embeddings = SentenceTransformerEmbeddings(chosen) if chosen else default_embeddings()
    folder = os.environ.get("AGENTPRM_INDEX")
    if folder:
        return FaissStore.load(folder, embeddings)
    return FaissStore.from_documents(load_folder(corpus_path() / "corpus.jsonl").documents, embeddings)
