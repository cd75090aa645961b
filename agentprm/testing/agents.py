"""A chat model for tests of agents: it calls tools, streams, and answers from a script."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import Field, PrivateAttr

from agentprm.errors import ConfigurationError
from agentprm.forking import ForkSafeLock

__all__ = ["ScriptedAgentModel", "calls"]


def calls(*tools: tuple[str, dict[str, Any]]) -> AIMessage:
    """An AI message that calls tools: `calls(("search", {"query": "Brunel"}))`."""
    return AIMessage(
        "",
        tool_calls=[
            {"name": name, "args": args, "id": f"{name}-{number}"}
            for number, (name, args) in enumerate(tools, 1)
        ],
    )


class ScriptedAgentModel(BaseChatModel):
    """A chat model with tools whose replies are scripted; it streams them word by word.

    Args:
        replies: The replies in order, or a function from the messages to the reply. A reply is a text,
            an AI message (see `calls`), or an exception to raise.

    Attributes:
        requests: The messages of every request so far.
        settings: The settings of every request so far.
        tools: The tools that were bound last.
    """

    replies: Any
    requests: list[Any] = Field(default_factory=list)
    settings: list[Any] = Field(default_factory=list)
    tools: list[Any] = Field(default_factory=list)
    _lock: Any = PrivateAttr(default_factory=ForkSafeLock)

    @property
    def _llm_type(self) -> str:
        return "agentprm-scripted-agent"

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """See `BaseChatModel.bind_tools`."""
        self.tools[:] = tools
        return self.bind(**kwargs)

    def _reply(self, messages: list[BaseMessage], settings: dict[str, Any]) -> AIMessage:
        with self._lock:
            self.requests.append(messages)
            self.settings.append(settings)
            position = len(self.requests) - 1
        if callable(self.replies):
            reply = self.replies(messages)
        elif position < len(self.replies):
            reply = self.replies[position]
        else:
            raise ConfigurationError(f"The script has only {len(self.replies)} replies; give it more.")
        if isinstance(reply, Exception):
            raise reply
        message = AIMessage(reply) if isinstance(reply, str) else reply.model_copy()
        usage = {"input_tokens": 10 * len(messages), "output_tokens": 5}
        message.usage_metadata = {**usage, "total_tokens": sum(usage.values())}
        return message

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._reply(messages, kwargs))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        reply = self._reply(messages, kwargs)
        words = reply.text.split(" ")
        texts = [word + (" " if number < len(words) else "") for number, word in enumerate(words, 1)]
        wanted = [
            tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index)
            for index, call in enumerate(reply.tool_calls)
        ]
        for text in texts[:-1]:
            yield self._chunk(AIMessageChunk(content=text), run_manager)
        last = AIMessageChunk(content=texts[-1], tool_call_chunks=wanted, usage_metadata=reply.usage_metadata)
        yield self._chunk(last, run_manager)

    @staticmethod
    def _chunk(part: AIMessageChunk, run_manager: CallbackManagerForLLMRun | None) -> ChatGenerationChunk:
        chunk = ChatGenerationChunk(message=part)
        if run_manager:
            run_manager.on_llm_new_token(part.text, chunk=chunk)
        return chunk
