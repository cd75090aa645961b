"""The search over reasoning steps with the packaged 135 M model, resumable from a SQLite checkpoint.

    python examples/reasoning_packaged.py [QUESTION]

Needs the packaged models (`make setup`).
"""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

from langgraph.checkpoint.sqlite import SqliteSaver

from agentprm import (
    FaissStore,
    create_reasoning_graph,
    default_embeddings,
    default_language_model,
    load_folder,
)
from agentprm.demo import corpus_path


def main(question: str | None = None, database: str | Path = ":memory:") -> dict[str, Any]:
    if question is None:
        lines = (corpus_path() / "queries.jsonl").read_text("utf-8").splitlines()
        question = str(json.loads(lines[0])["text"])
    documents = load_folder(corpus_path() / "corpus.jsonl").documents
    store = FaissStore.from_documents(documents, default_embeddings())
    saver = SqliteSaver(sqlite3.connect(database, check_same_thread=False))
    graph = create_reasoning_graph(default_language_model(), store).compile(checkpointer=saver)
    config: Any = {"configurable": {"thread_id": question}}
    # A run that was killed goes on from its last checkpoint.
    state = graph.get_state(config).values
    unfinished = bool(state) and not state.get("prm_stop_reason")
    result = graph.invoke(None if unfinished else {"question": question}, config)
    print(question)
    print(result["answer"], [citation["title"] for citation in result["citations"]])
    print(f"{len(result['prm_steps'])} steps, {result['prm_usage']['model_calls']} model calls")
    return dict(result)


if __name__ == "__main__":
    main(*sys.argv[1:])
