"""The node that makes a follow-up a question that stands alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from agentprm.budget import SearchBudget
from agentprm.errors import check_count
from agentprm.lm import LanguageModel, as_language_model
from agentprm.nodes.node import Node, NodeRoutine
from agentprm.nodes.reporting import emit, replied
from agentprm.prompts import PROMPTS, Prompts
from agentprm.replies import parse_finding
from agentprm.state import ReasoningState, as_messages, last_question, open_question
from agentprm.text import one_line

__all__ = ["CondenseQuestion"]

_LABEL = re.compile(r"^[^:?]{0,30}\bquestion\s*[:\uff1a]\s*", re.IGNORECASE)


class CondenseQuestion(Node):
    """Writes `question`: what the last human message asks, readable without the conversation.

    "And what did he build?" becomes "What did Brunel build?", which a search engine understands. The
    messages stay as they are. The first question of a conversation needs no model; if the model's reply
    is unusable or the budget has no call left, the follow-up stays as it was asked.

    Args:
        model: A language model, or any LangChain chat model.
        turns: Most messages before the follow-up that are shown.
        max_tokens: Most tokens of the new question.
        prompts: Templates; `condense` is used.
        keys: Own names for `question` and `messages`.
        budget: Bounds of a run. One model call is kept back for the answer.
    """

    def __init__(
        self,
        model: LanguageModel | BaseChatModel | str,
        *,
        turns: int = 6,
        max_tokens: int = 64,
        prompts: Prompts = PROMPTS,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "condense",
    ) -> None:
        self.model = as_language_model(model)
        self.turns = check_count("turns", turns)
        self.max_tokens, self.prompts = max_tokens, prompts
        super().__init__(name=name, writes=("question",), keys=keys, budget=budget)

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        messages = as_messages(state.get("messages"))
        asked = open_question(messages) or state["question"]
        before = _turns(messages, asked)[-self.turns :]
        question, reason = asked, "it is the first question"
        if before:
            reason = self.short(state, model_calls=1, reserve=1)
        if not reason:
            prompt = self.prompts.condense.render(
                prefill=self.model.capabilities.prefill,
                conversation="\n".join(before),
                question=one_line(asked),
            )
            reply = yield from replied(self.model, prompt, max_tokens=self.max_tokens)
            question = _LABEL.sub("", parse_finding(reply))
            if not question:
                question, reason = asked, "the model's reply was no question"
        emit(
            {
                "type": "agentprm.question_condensed",
                "asked": asked,
                "question": question,
                "reason": reason,
            }
        )
        return {"question": question}


def _turns(messages: Sequence[BaseMessage], asked: str) -> list[str]:
    """What was said before the question `asked`, a line a message."""
    said = [m for m in messages if isinstance(m, HumanMessage | AIMessage) and m.text.strip()]
    places = [i for i, m in enumerate(said) if isinstance(m, HumanMessage) and m.text == asked]
    if last_question(messages) == asked and places:
        said = said[: places[-1]]
    who = {"human": "User", "ai": "Assistant"}
    return [f"{who[m.type]}: {one_line(m.text)[:500]}" for m in said]
