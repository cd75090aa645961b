"""The node that ends a search with its answer and its citations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage

from agentprm.budget import SearchBudget
from agentprm.lm import LanguageModel, as_language_model
from agentprm.nodes._node import Plan, emit
from agentprm.nodes._search_node import SearchNode
from agentprm.nodes._speaking import spoken, written_answer
from agentprm.nodes._tree import documents_of
from agentprm.nodes.answer_form import AnswerForm, ResponseFormat
from agentprm.prompts import PROMPTS, Prompts, known_text, one_line
from agentprm.state import ReasoningState, Step, cite, merge_documents, path_to

__all__ = ["AnswerFromSteps"]


class AnswerFromSteps(SearchNode):
    """Answers from the committed steps of a search; where nothing was committed, from memory.

    A path that concluded has its answer already. Otherwise, and where an answer in another form is
    asked for, one call sums up what was found. If the
    budget has no call left, the last finding is the answer. The citations are the passages that
    support the findings on the path; `documents` are all that it read.

    Args:
        model: A language model, or any LangChain chat model.
        max_tokens: Most tokens of the answer; a model that continues no prefix gets at least 256.
        form: How an answer should look, instead of a few words: "one sentence", "two paragraphs".
        language: Language of the answer, for instance "German".
        response_format: Schema of the answer, a pydantic model or a JSON schema: the answer is JSON, and
            comes from a chat model that can be held to a schema.
        prompts: Templates; `recall` and `summarise` are used.
        speak: Also append the answer to `messages`, for graphs that converse.
        keys: Own names for `question`, `messages`, `documents`, `answer` and `citations`.
        budget: Bounds of the search.
    """

    def __init__(
        self,
        model: LanguageModel | BaseChatModel | str,
        *,
        max_tokens: int = 48,
        form: str | None = None,
        language: str | None = None,
        response_format: ResponseFormat | None = None,
        prompts: Prompts = PROMPTS,
        speak: bool = False,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "answer",
    ) -> None:
        self.model = as_language_model(model)
        self.form = AnswerForm(form, language, response_format)
        self.form.schema(self.model)
        self.max_tokens, self.prompts, self.speak = max_tokens, self.form.prompts(prompts), speak
        super().__init__(
            name=name,
            writes=("answer", "citations", "documents"),
            keys=keys,
            budget=budget,
            settings=("max_tokens",),
        )

    def plan(self, state: ReasoningState) -> Plan:
        """See `Node.plan`."""
        frontier = state.get("prm_frontier", [])
        path = path_to(state.get("prm_steps", []), frontier[-1]) if frontier else []
        reason = state.get("prm_stop_reason", "")
        answer = path[-1]["final_answer"] if path else None
        message = AIMessage("")
        if answer is None or not self.form.plain:
            budget: SearchBudget = self.setting("budget")
            usage = state.get("prm_usage")
            spent = budget.exhausted(usage)
            if spent or not budget.affordable("model_calls", 1, usage):
                reason = reason or f"budget: {spent or 'model_calls'}"
            else:
                template = self.prompts.summarise if path else self.prompts.recall
                prompt = template.render(
                    prefill=self.model.capabilities.prefill,
                    question=one_line(state["question"]),
                    known=known_text(path),
                )
                message = yield from written_answer(self.model, prompt, self.setting("max_tokens"), self.form)
        found = next((s["thought"] for s in reversed(path) if s["thought"]), "")
        answer = str(message.text) or answer or found
        cited = _documents(state, path, "cited_ids")
        emit({"type": "agentprm.answered", "answer": answer, "cited_ids": [str(d.id) for d in cited]})
        update: dict[str, Any] = {
            "answer": answer,
            "citations": cite(cited),
            "documents": _documents(state, path, "doc_ids"),
            "prm_stop_reason": reason or ("answered" if answer else "no answer"),
        }
        if self.speak:
            update["messages"] = spoken(state, message.model_copy(update={"content": answer}))
        return update


def _documents(state: ReasoningState, path: list[Step], field: str) -> list[Document]:
    ids: list[str] = [i for step in path for i in step.get(field, [])]  # type: ignore[attr-defined]
    return merge_documents([], documents_of(state, ids))
