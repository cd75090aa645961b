"""The node that searches for passages."""

from __future__ import annotations

from collections.abc import Mapping

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever

from agentprm.budget import SearchBudget, record
from agentprm.errors import ConfigurationError
from agentprm.nodes._node import Node, Plan, emit
from agentprm.nodes._tree import ancestors, awaiting_documents, same_text, search_text
from agentprm.plans import wait
from agentprm.state import ReasoningState, Step, merge_documents, plain_document

__all__ = ["Retrieve"]


class Retrieve(Node):
    """Searches for each proposed step that wants passages; without a search tree, for the question.

    Reads `question` (or the last human message) and `prm_steps`; writes `documents`, or in a tree
    the steps' `doc_ids` and `prm_documents`.

    Args:
        retriever: Any LangChain retriever, or a vector store.
        k: Most passages of one search; `None` keeps what the retriever returns (5 for a vector store).
        keys: Own names for `question`, `messages` and `documents`.
        budget: Bounds of the run.

    Example:
        >>> from agentprm.testing import fake_store
        >>> node = Retrieve(fake_store(["Brunel was born in Portsmouth.", "Paris lies on the Seine."]), k=1)
        >>> [d.page_content for d in node.invoke({"question": "Where was Brunel born?"})["documents"]]
        ['Brunel was born in Portsmouth.']
    """

    def __init__(
        self,
        retriever: BaseRetriever | VectorStore,
        *,
        k: int | None = None,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | None = None,
        name: str = "retrieve",
    ) -> None:
        if k is not None and k < 1:
            raise ConfigurationError(f"k must be at least 1, not {k}.")
        if isinstance(retriever, VectorStore):
            retriever = retriever.as_retriever(search_kwargs={"k": k or 5})
            k = k or 5
        if not isinstance(retriever, BaseRetriever):
            raise ConfigurationError(
                f"Retrieve needs a LangChain retriever or vector store, not {type(retriever).__name__}."
            )
        self.retriever = retriever
        self.k = k
        # Only a vector store's own retriever can be asked for a number of passages.
        self._counted = isinstance(retriever, VectorStoreRetriever)
        super().__init__(
            name=name,
            reads=("prm_steps", "prm_documents"),
            writes=("documents",),
            keys=keys,
            budget=budget,
            settings=("k",),
        )

    def plan(self, state: ReasoningState) -> Plan:
        """See `Node.plan`."""
        usage = state.get("prm_usage")
        budget: SearchBudget = self.setting("budget")
        in_tree = bool(state.get("prm_steps"))
        steps = awaiting_documents(state)
        if in_tree and not steps:
            return {}
        texts = [search_text(state, step) for step in steps] if in_tree else [state["question"]]
        allowed = budget.affordable("retrievals", len(texts), usage)
        if budget.exhausted(usage) or not allowed:
            return {"prm_stop_reason": f"budget: {budget.exhausted(usage) or 'retrievals'}"}
        # Candidates often ask the same thing: search once.
        distinct = list(dict.fromkeys(texts[:allowed]))
        k = self.setting("k")
        given = [_given(state, step) for step in steps[:allowed]]
        most = {"k": k + max(map(len, given), default=0)} if k and self._counted else {}
        found = yield from wait(
            lambda: self.retriever.batch(distinct, **most), lambda: self.retriever.abatch(distinct, **most)
        )
        record(retrievals=len(distinct))
        hits: dict[str, list[Document]] = {
            text: merge_documents([], [plain_document(d) for d in documents])
            for text, documents in zip(distinct, found, strict=True)
        }
        if not in_tree:
            documents = hits[texts[0]][:k]
            emit(
                {
                    "type": "agentprm.documents_retrieved",
                    "step_id": None,
                    "query": texts[0],
                    "doc_ids": [str(d.id) for d in documents],
                }
            )
            return {"documents": documents}
        changed: list[Step] = [
            {**step, "doc_ids": [str(d.id) for d in hits[text] if d.id not in seen][:k]}
            for step, text, seen in zip(steps[:allowed], texts[:allowed], given, strict=True)
        ]
        taken = {i for step in changed for i in step["doc_ids"]}
        for step, text in zip(changed, texts, strict=False):
            emit(
                {
                    "type": "agentprm.documents_retrieved",
                    "step_id": step["id"],
                    "query": text,
                    "doc_ids": step["doc_ids"],
                }
            )
        return {
            "prm_steps": changed,
            "prm_documents": [
                d for d in merge_documents([], [d for row in hits.values() for d in row]) if d.id in taken
            ],
        }


def _given(state: ReasoningState, step: Step) -> set[str]:
    """Passages that a conclusion need not be given again, since what they say is known by now."""
    if not same_text(step["query"], state["question"]):
        return set()
    return {i for ancestor in ancestors(state, step) for i in ancestor["doc_ids"]}
