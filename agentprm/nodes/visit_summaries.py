"""Reading a tree of summaries from the top down, the most promising part next (PECAN)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings

from agentprm.budget import SearchBudget, record
from agentprm.forking import ForkSafeLock
from agentprm.nodes.gathering import GatherNode, planned
from agentprm.nodes.node import NodeRoutine
from agentprm.retrievers import SummaryTree
from agentprm.rounds import Fact, Round, new_round, seen_ids
from agentprm.routines import wait, wait_in_thread
from agentprm.state import ReasoningState
from agentprm.text import one_line

__all__ = ["VisitSummaries"]


class VisitSummaries(GatherNode):
    """Adds to the pool what the tree says: its top first, then one node at a time, greedily best first.

    Next comes, of all nodes under those that were read, the one that is most like the question (the paper
    weighs them by the model's attention, which few models show). What was read stays in its order, so
    that a backend with a prefix cache computes only what is new. `JudgeFacts(judge, patience=2)` goes behind
    it.

    Args:
        tree: The tree.
        embeddings: Compares nodes with the question.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the loop.
    """

    opens = True

    def __init__(
        self,
        tree: SummaryTree,
        embeddings: Embeddings,
        *,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "visit",
    ) -> None:
        self.tree, self.embeddings = tree, embeddings
        self._vectors: dict[str, Any] = {}
        self._lock = ForkSafeLock()
        super().__init__(name=name, keys=keys, budget=budget)

    def work(self, state: ReasoningState, rounds: list[Round]) -> NodeRoutine:
        """See `GatherNode.work`."""
        if reason := self.short(state, but=("reward_calls",), retrievals=1):
            return {"prm_stop_reason": reason}
        question, ids = one_line(state["question"]), self.tree.roots
        if rounds:
            read = set(seen_ids(rounds))
            frontier = [
                child
                for one in seen_ids(rounds)
                for child in (self.tree.nodes[one]["children"] if one in self.tree.nodes else [])
                if child not in read
            ]
            if not frontier:
                return {"prm_stop_reason": "all read"}
            vector = yield from wait(self.embeddings.embed_query, self.embeddings.aembed_query, question)
            similar = yield from wait_in_thread(self._similar, vector, frontier)
            ids = [frontier[int(np.argmax(similar))]]
        record(retrievals=1)
        documents = [self.tree.document(one) for one in ids]
        current: Round = {
            **new_round(rounds, [question]),
            "doc_ids": list(ids),
            "facts": [Fact(text=one_line(d.page_content), doc_id=str(d.id)) for d in documents],
            "kept": True,
            "status": "retrieved",
        }
        return {**planned(current), "prm_documents": documents}

    def _similar(self, vector: list[float], ids: list[str]) -> Any:
        """The cosine of each node and the query; vectors of nodes are computed once."""
        with self._lock:
            new = [one for one in ids if one not in self._vectors]
            if new:
                rows = self.embeddings.embed_documents([self.tree.nodes[one]["text"] for one in new])
                self._vectors |= {one: _unit(row) for one, row in zip(new, rows, strict=True)}
            return np.stack([self._vectors[one] for one in ids]) @ _unit(vector)


def _unit(vector: list[float]) -> Any:
    row = np.asarray(vector, dtype=np.float32)
    return row / (np.linalg.norm(row) or 1.0)
