"""How a node has its answer written, and says it in a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from agentprm.conversation import as_messages, last_question, open_question
from agentprm.lm import LanguageModel, Prompt
from agentprm.plans import Plan, wait
from agentprm.prompts import finished_text, parse_finding, reply_params
from agentprm.state import ReasoningState

__all__ = ["spoken", "written_answer"]


def written_answer(model: LanguageModel, prompt: Prompt, max_tokens: int) -> Plan[str]:
    """The answer that `model` writes to `prompt`."""
    params = reply_params(model, max_tokens=max_tokens)
    rows = yield from wait(model.sample, model.asample, [prompt], 1, params)
    return parse_finding(finished_text(rows[0][0]) or rows[0][0].text)


def spoken(state: ReasoningState, answer: str) -> Sequence[Any]:
    """The messages that an answer adds to the conversation: itself, and the question if it is not there."""
    messages: list[BaseMessage] = as_messages(state.get("messages"))
    said = [] if last_question(messages) and open_question(messages) else [HumanMessage(state["question"])]
    return [*said, AIMessage(answer)]
