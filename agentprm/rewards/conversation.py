"""From the messages of an agent to what a reward model reads: a question and a trajectory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage, convert_to_messages

from agentprm.documents import evidence_line
from agentprm.errors import InputError
from agentprm.replies import without_thought
from agentprm.rewards.base import RewardStep
from agentprm.text import cut, one_line

__all__ = ["Conversation", "action_text", "call_text", "shortened", "trajectory_of"]


class Conversation(NamedTuple):
    """The last turn of a conversation, as reward models take it.

    Attributes:
        question: The last human message; where it follows others, with the conversation before it.
        trajectory: What the agent has done about it so far, a step per AI message.
    """

    question: str
    trajectory: list[RewardStep]


def trajectory_of(messages: Sequence[Any], *, max_chars: int = 2000, earlier: int = 6) -> Conversation:
    """What an agent was asked and has done since, for `ProcessRewardModel.score`.

    A step is one AI message: what it says and which tools it calls. Its passages are what the tools
    that were called just before it returned, and its query is those calls; so an answer is judged by
    the evidence that the agent had. The last message, if it is an answer, is the `final_answer`.

    Args:
        messages: Messages in any form that LangChain takes; system messages are left out.
        max_chars: Where a tool's result and an earlier message are cut, with a visible mark.
        earlier: Most earlier human and AI messages that are quoted before a follow-up question.

    Raises:
        InputError: If there is no human message.

    Example:
        >>> question, steps = trajectory_of([
        ...     {"role": "user", "content": "Where was Brunel born?"},
        ...     {"role": "assistant", "content": "", "tool_calls": [
        ...         {"name": "search", "args": {"query": "Brunel"}, "id": "1"}]},
        ...     {"role": "tool", "content": "Brunel was born in Portsmouth.", "tool_call_id": "1"},
        ...     {"role": "assistant", "content": "In Portsmouth."},
        ... ])
        >>> question, [step["thought"] for step in steps]
        ('Where was Brunel born?', ['Calls search(query="Brunel")', 'In Portsmouth.'])
        >>> steps[1]["passages"]
        ['Brunel was born in Portsmouth.']
    """
    known = convert_to_messages(messages)
    asked = [i for i, message in enumerate(known) if message.type == "human" and message.text.strip()]
    if not asked:
        raise InputError("There is no human message; a trajectory starts with a question.")
    last = asked[-1]
    question = known[last].text.strip()
    if before := _quoted(known[:last], earlier, max_chars):
        question = f"Earlier in the conversation:\n{before}\n\nThe question now:\n{question}"
    steps: list[RewardStep] = []
    calls: list[str] = []
    passages: list[str] = []
    for position, message in enumerate(known[last + 1 :], last + 1):
        if isinstance(message, ToolMessage):
            passages += _evidence(message, max_chars)
        elif isinstance(message, AIMessage) and (text := action_text(message)):
            ends = position == len(known) - 1 and not message.tool_calls
            steps.append(
                RewardStep(
                    query="; ".join(calls),
                    passages=passages,
                    thought=text,
                    final_answer=text if ends else None,
                )
            )
            calls, passages = [call_text(call) for call in message.tool_calls], []
    return Conversation(question, steps)


def action_text(message: AIMessage) -> str:
    """What an AI message says, without its thinking, and calls; empty if it does neither."""
    parts = [without_thought(message.text).strip()]
    if message.tool_calls:
        parts.append("Calls " + "; ".join(map(call_text, message.tool_calls)))
    return "\n".join(part for part in parts if part)


def call_text(call: Mapping[str, Any]) -> str:
    """A tool call as text, for instance `search(query="Brunel")`."""
    arguments = ", ".join(
        f"{name}={json.dumps(value, ensure_ascii=False, default=str)}" for name, value in call["args"].items()
    )
    return f"{call['name']}({arguments})"


def _evidence(message: ToolMessage, max_chars: int) -> list[str]:
    artifact = message.artifact
    if isinstance(artifact, list) and artifact and all(isinstance(one, Document) for one in artifact):
        return [evidence_line(document, max_chars) for document in artifact]
    return [text] if (text := shortened(message.text, max_chars)) else []


def _quoted(messages: Sequence[BaseMessage], most: int, max_chars: int) -> str:
    names = {"human": "User", "ai": "Assistant"}
    said = [m for m in messages if m.type in names and m.text.strip()]
    kept = said[len(said) - min(most, len(said)) :]
    lines = ["[…]"] if kept and len(kept) < len(said) else []
    return "\n".join(
        [
            *lines,
            *(f"{names[m.type]}: {shortened(one_line(without_thought(m.text)), max_chars)}" for m in kept),
        ]
    )


def shortened(text: str, max_chars: int) -> str:
    """`text` without white space at its ends, cut between words with a visible mark."""
    text = text.strip()
    return text if len(text) <= max_chars else cut(text, max_chars) + " […]"
