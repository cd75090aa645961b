"""What a conversation says: which question is open, and what was answered to it.

A history may end in anything: in a supervisor's graph the last message is often a tool's. A human
message is open until an AI message with text, and without calls of tools, stands after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, convert_to_messages

from agentprm.errors import InputError

__all__ = ["answer_text", "as_messages", "last_answer", "last_question", "open_question"]


def as_messages(value: Any) -> list[BaseMessage]:
    """Messages in any of LangChain's forms as messages.

    Raises:
        InputError: If one of them is none.
    """
    try:
        return convert_to_messages(value or [])
    except (TypeError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"The messages of the state cannot be read ({str(error).splitlines()[0]}). Give LangChain "
            'messages, ("user", text) pairs or {"role": "user", "content": text}.'
        ) from error


def last_question(messages: Sequence[BaseMessage]) -> str:
    """Text of the last human message, wherever it stands; empty if there is none."""
    return next((m.text for m in reversed(messages) if isinstance(m, HumanMessage)), "")


def open_question(messages: Sequence[BaseMessage]) -> str:
    """Text of the last human message if nobody has answered it yet, else empty."""
    return "" if last_answer(messages) else last_question(messages)


def last_answer(messages: Sequence[BaseMessage]) -> str:
    """Text of the last AI message after the last human one; empty if that is still to be answered."""
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            return ""
        if isinstance(message, AIMessage) and not message.tool_calls and message.text.strip():
            return str(message.text)
    return ""


def answer_text(value: Any, key: str = "answer") -> str:
    """The text of an answer or a question: of a text, a message, or a message's content.

    Raises:
        InputError: If it is something else.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, BaseMessage):
        return str(value.text)
    if isinstance(value, list) and all(isinstance(part, str | dict) for part in value):
        return str(AIMessage(value).text)
    raise InputError(
        f"{key!r} holds a {type(value).__name__}, not a text or a message. Put its text there, or let "
        "keys={...} name the key that holds it."
    )
