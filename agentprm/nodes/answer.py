"""The node that writes the answer and its citations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, convert_to_messages

from agentprm.budget import SearchBudget
from agentprm.citations import supporting
from agentprm.errors import ConfigurationError
from agentprm.lm import LanguageModel, Prompt, as_language_model
from agentprm.nodes._node import Node, Plan, emit
from agentprm.nodes._tree import documents_of
from agentprm.plans import wait
from agentprm.prompts import (
    PROMPTS,
    Prompts,
    finished_text,
    known_text,
    one_line,
    parse_finding,
    passages_text,
    reply_params,
)
from agentprm.state import ReasoningState, Step, cite, merge_documents, path_to

__all__ = ["Answer"]


class Answer(Node):
    """Answers from the committed steps; without a search tree, from the documents or from memory.

    A path that concluded has its answer already. Otherwise one call sums up what was found. If the
    budget has no call left, the last finding is the answer. The citations are the passages that
    support the findings on the path.

    Args:
        model: A language model, or any LangChain chat model.
        passages: Most passages that are shown, where the answer is read from documents.
        max_tokens: Most tokens of the answer.
        prompts: Templates; `answer`, `recall` and `summarise` are used.
        speak: Also append the answer to `messages`, for graphs that converse.
        keys: Own names for `question`, `messages`, `documents`, `answer` and `citations`.
        budget: Bounds of the run.
    """

    def __init__(
        self,
        model: LanguageModel | BaseChatModel | str,
        *,
        passages: int = 5,
        max_tokens: int = 48,
        prompts: Prompts = PROMPTS,
        speak: bool = False,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | None = None,
        name: str = "answer",
    ) -> None:
        if passages < 1:
            raise ConfigurationError(f"passages must be at least 1, not {passages}.")
        self.model = as_language_model(model)
        self.passages, self.max_tokens, self.prompts, self.speak = passages, max_tokens, prompts, speak
        super().__init__(
            name=name,
            reads=("documents", "prm_steps", "prm_documents", "prm_frontier"),
            writes=("answer", "citations", "documents"),
            keys=keys,
            budget=budget,
        )

    def plan(self, state: ReasoningState) -> Plan:
        """See `Node.plan`."""
        in_tree = bool(state.get("prm_steps")) or "prm_frontier" in state
        frontier = state.get("prm_frontier", [])
        path = path_to(state.get("prm_steps", []), frontier[-1]) if frontier else []
        if in_tree:
            documents = documents_of(state, [i for step in path for i in step["doc_ids"]])
        else:
            documents = list(state.get("documents", []))
        reason = state.get("prm_stop_reason", "")
        answer = path[-1]["final_answer"] if path else None
        if answer is None:
            budget: SearchBudget = self.setting("budget")
            usage = state.get("prm_usage")
            spent = budget.exhausted(usage)
            if spent is None and budget.affordable("model_calls", 1, usage):
                params = reply_params(self.model, max_tokens=self.max_tokens)
                prompt = self._prompt(state["question"], path, documents)
                rows = yield from wait(self.model.sample, self.model.asample, [prompt], 1, params)
                answer = parse_finding(finished_text(rows[0][0]) or rows[0][0].text)
            else:
                reason = reason or f"budget: {spent or 'model_calls'}"
        answer = answer or next((s["thought"] for s in reversed(path) if s["thought"]), "")
        cited = self._cited(state, answer, path, documents[: self.passages])
        emit({"type": "agentprm.answered", "answer": answer, "cited_ids": [str(d.id) for d in cited]})
        update = {
            "answer": answer,
            "citations": cite(cited),
            "documents": merge_documents([], documents),
            "prm_stop_reason": reason or "answered",
        }
        if self.speak:
            messages: Any = state.get("messages", [])
            asked = convert_to_messages(messages)[-1:]
            heard = bool(asked) and asked[0].type == "human"
            update["messages"] = [*([] if heard else [HumanMessage(state["question"])]), AIMessage(answer)]
        return update

    def _prompt(self, question: str, path: list[Step], documents: list[Document]) -> Prompt:
        values = {"question": one_line(question), "known": known_text(path)}
        prefill = self.model.capabilities.prefill
        if path:
            return self.prompts.summarise.render(prefill=prefill, **values)
        if documents:
            shown = passages_text(documents[: self.passages])
            return self.prompts.answer.render(prefill=prefill, passages=shown, **values)
        return self.prompts.recall.render(prefill=prefill, **values)

    @staticmethod
    def _cited(
        state: ReasoningState, answer: str, path: list[Step], documents: list[Document]
    ) -> list[Document]:
        if not path:
            return supporting(answer, documents, state["question"])
        return merge_documents([], documents_of(state, [i for s in path for i in s.get("cited_ids", [])]))
