"""The node that writes the answer and its citations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage

from agentprm.budget import SearchBudget
from agentprm.citations import supporting
from agentprm.lm import LanguageModel, as_language_model
from agentprm.nodes._node import Node, Plan, emit
from agentprm.nodes._speaking import spoken, written_answer
from agentprm.nodes.answer_form import AnswerForm, ResponseFormat
from agentprm.prompts import PROMPTS, Prompts, one_line, passages_text
from agentprm.state import ReasoningState, cite

__all__ = ["Answer"]


class Answer(Node):
    """Answers the question from the documents, or without any from memory, each time it runs.

    Its tokens are streamed as they come (`stream_mode="messages"`). The citations are the documents that
    support the answer. If the budget has no call left, the answer is empty.

    Args:
        model: A language model, or any LangChain chat model.
        passages: Most passages that are shown.
        max_tokens: Most tokens of the answer; a model that continues no prefix gets at least 256.
        form: How an answer should look, instead of a few words: "one sentence", "two paragraphs".
        language: Language of the answer, for instance "German".
        response_format: Schema of the answer, a pydantic model or a JSON schema: the answer is JSON, and
            comes from a chat model that can be held to a schema.
        prompts: Templates; `answer` and `recall` are used.
        speak: Also append the answer to `messages`, for graphs that converse.
        keys: Own names for `question`, `messages`, `documents`, `answer` and `citations`.
        budget: Bounds of a run.
    """

    def __init__(
        self,
        model: LanguageModel | BaseChatModel | str,
        *,
        passages: int = 5,
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
        self.passages, self.max_tokens, self.speak = passages, max_tokens, speak
        self.prompts = self.form.prompts(prompts)
        super().__init__(
            name=name,
            reads=("documents",),
            writes=("answer", "citations"),
            keys=keys,
            budget=budget,
            settings=("passages", "max_tokens"),
        )

    def plan(self, state: ReasoningState) -> Plan:
        """See `Node.plan`."""
        documents = state.get("documents", [])[: self.setting("passages")]
        budget: SearchBudget = self.setting("budget")
        usage = state.get("prm_usage")
        message, reason = AIMessage(""), state.get("prm_stop_reason", "")
        spent = budget.exhausted(usage)
        if spent or not budget.affordable("model_calls", 1, usage):
            reason = reason or f"budget: {spent or 'model_calls'}"
        else:
            prefill = self.model.capabilities.prefill
            template = self.prompts.answer if documents else self.prompts.recall
            prompt = template.render(
                prefill=prefill, passages=passages_text(documents), question=one_line(state["question"])
            )
            message = yield from written_answer(self.model, prompt, self.setting("max_tokens"), self.form)
        answer = str(message.text)
        cited = supporting(answer, documents, state["question"])
        emit({"type": "agentprm.answered", "answer": answer, "cited_ids": [str(d.id) for d in cited]})
        update: dict[str, Any] = {
            "answer": answer,
            "citations": cite(cited),
            "prm_stop_reason": reason or ("answered" if answer else "no answer"),
        }
        if self.speak:
            update["messages"] = spoken(state, message)
        return update
