"""How a node has its answer written, and says it in a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from agentprm.conversation import as_messages, last_question, open_question
from agentprm.lm import LanguageModel, Prompt
from agentprm.nodes._models import AnsweringModel
from agentprm.nodes.answer_form import AnswerForm
from agentprm.plans import Plan, wait
from agentprm.prompts import reply_params
from agentprm.state import ReasoningState

__all__ = ["spoken", "written_answer"]


def written_answer(
    model: LanguageModel, prompt: Prompt, max_tokens: int, form: AnswerForm
) -> Plan[AIMessage]:
    """The answer that `model` writes to `prompt`, as the message that is streamed."""
    params = reply_params(model, max_tokens=max_tokens, schema=form.schema(model), lines=not form.plain)
    writer = AnsweringModel(lm=model, prompt=prompt, params=params, cache=False)
    message = yield from wait(writer.invoke, writer.ainvoke, writer.messages())
    said = writer.said(message)
    form.check(str(said.text))
    return said


def spoken(state: ReasoningState, answer: AIMessage) -> Sequence[Any]:
    """The messages that an answer adds to the conversation: itself, and the question if it is not there."""
    messages: list[BaseMessage] = as_messages(state.get("messages"))
    said = [] if last_question(messages) and open_question(messages) else [HumanMessage(state["question"])]
    return [*said, answer]
