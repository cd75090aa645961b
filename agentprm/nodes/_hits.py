"""What a node that reorders passages works on: the steps of a tree, or the plain documents."""

from __future__ import annotations

from typing import Any, NamedTuple

from langchain_core.documents import Document

from agentprm.nodes._node import emit
from agentprm.nodes._tree import documents_of, search_text
from agentprm.state import ReasoningState, Step, open_steps

__all__ = ["Hits", "current_hits", "update_of"]


class Hits(NamedTuple):
    """A query and the passages found for it; `step` is `None` outside a tree."""

    step: Step | None
    query: str
    documents: list[Document]


def current_hits(state: ReasoningState) -> list[Hits]:
    """The hits that wait to be reordered: those of proposed steps, or of the question."""
    if state.get("prm_steps"):
        return [
            Hits(step, search_text(state, step), documents_of(state, step["doc_ids"]))
            for step in open_steps(state.get("prm_steps"), "proposed")
            if step["doc_ids"]
        ]
    documents = state.get("documents", [])
    return [Hits(None, state["question"], list(documents))] if documents else []


def update_of(hits: list[Hits]) -> dict[str, Any]:
    """The state update that puts the passages of `hits` in place."""
    for hit in hits:
        emit(
            {
                "type": "agentprm.documents_retrieved",
                "step_id": hit.step["id"] if hit.step else None,
                "query": hit.query,
                "doc_ids": [str(d.id) for d in hit.documents],
            }
        )
    if len(hits) == 1 and hits[0].step is None:
        return {"documents": hits[0].documents}
    return {
        "prm_steps": [
            {**hit.step, "doc_ids": [str(d.id) for d in hit.documents]}
            for hit in hits
            if hit.step is not None
        ],
        "prm_documents": [d for hit in hits for d in hit.documents],
    }
