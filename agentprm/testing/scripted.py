"""Models that answer from a script, and remember what they were asked."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import ConfigDict, Field, PrivateAttr

from agentprm.budget import record
from agentprm.errors import ConfigurationError
from agentprm.forking import ForkSafeLock
from agentprm.lm.base import Capabilities, Completion, LanguageModel, Prompt, SamplingParams
from agentprm.readers.base import Reader, ReaderAnswer

__all__ = [
    "Script",
    "ScriptedAgentModel",
    "ScriptedChatModel",
    "ScriptedLanguageModel",
    "ScriptedReader",
    "calls",
    "scripted_reply",
]


Script = Mapping[str, str] | Callable[[str], str]


def scripted_reply(script: Script, text: str) -> str:
    """What a script replies to a conversation.

    Raises:
        ConfigurationError: If it has no entry for it.
    """
    if callable(script):
        return script(text)
    for pattern, reply in script.items():
        if pattern in text:
            return reply
    raise ConfigurationError(
        f"The script has no entry for this prompt. Its entries are {list(script)}; the prompt ends in: "
        f"{text[-300:]!r}"
    )


class _Scripted(BaseChatModel):
    """Base of the chat models here: they have a lock, and reply whole."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    _lock: Any = PrivateAttr(default_factory=ForkSafeLock)

    @property
    def _llm_type(self) -> str:
        return "agentprm-scripted"

    @abstractmethod
    def _reply(self, messages: list[BaseMessage], stop: Sequence[str], settings: dict[str, Any]) -> AIMessage:
        """The reply to messages."""

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        message = self._reply(messages, stop or (), kwargs)
        return ChatResult(generations=[ChatGeneration(message=message)])


class ScriptedChatModel(_Scripted):
    """A LangChain chat model that answers from a script.

    Args:
        script: Either texts to look for in the conversation and what to reply (the first that
            occurs counts), or a function from the conversation's text to the reply.

    Attributes:
        prompts: The conversations so far, one text each.
    """

    script: Any
    prompts: list[str] = Field(default_factory=list)

    def _reply(self, messages: list[BaseMessage], stop: Sequence[str], settings: dict[str, Any]) -> AIMessage:
        text = "\n".join(message.text for message in messages)
        with self._lock:
            self.prompts.append(text)
        reply = scripted_reply(self.script, text)
        for mark in stop:
            reply = reply.split(mark, 1)[0]
        return AIMessage(reply)


class ScriptedLanguageModel(LanguageModel):
    """A language model with every capability that answers and scores from a script.

    Args:
        script: As for `ScriptedChatModel`, looked up in the prompt's text (prefix included). A
            function may return a list of texts for several samples of one prompt.
        likelihood: From the prompt's text and a continuation to a log-likelihood; by default minus
            the number of characters.
        capabilities: What the model claims to be able to do.

    Attributes:
        prompts: The texts of all sampled prompts so far.
        scored: `(prompt, continuation)` of all scored texts so far.
    """

    def __init__(
        self,
        script: Script | Callable[[str], Sequence[str]],
        *,
        likelihood: Callable[[str, str], float] | None = None,
        capabilities: Capabilities | None = None,
    ) -> None:
        self._script = script
        self._likelihood = likelihood or (lambda prompt, continuation: -float(len(continuation)))
        self.capabilities = capabilities or Capabilities(
            n=True, prefill=True, loglikelihood=True, prefix_cache=False
        )
        self.prompts: list[str] = []
        self.scored: list[tuple[str, str]] = []
        self._lock = ForkSafeLock()

    def sample(
        self, prompts: Sequence[Prompt], n: int = 1, params: SamplingParams | None = None
    ) -> list[list[Completion]]:
        """See `LanguageModel.sample`."""
        params = params or SamplingParams()
        rows = []
        for prompt in prompts:
            text = _text(prompt)
            with self._lock:
                self.prompts.append(text)
            reply: Any = scripted_reply(self._script, text)  # type: ignore[arg-type]
            texts = [reply] * n if isinstance(reply, str) else [reply[i % len(reply)] for i in range(n)]
            rows.append([self._completion(t, params) for t in texts])
            record(
                model_calls=1,
                prompt_tokens=self.count_tokens([text])[0],
                computed_tokens=self.count_tokens([text])[0],
                completion_tokens=sum(c.tokens for c in rows[-1]),
            )
        return rows

    def loglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """See `LanguageModel.loglikelihood`."""
        rows = []
        for prompt, texts in zip(prompts, continuations, strict=True):
            with self._lock:
                self.scored += [(_text(prompt), t) for t in texts]
            rows.append([float(self._likelihood(_text(prompt), t)) for t in texts])
            tokens = self.count_tokens([_text(prompt), *texts])
            record(model_calls=1, prompt_tokens=sum(tokens), computed_tokens=sum(tokens))
        return rows

    def _completion(self, text: str, params: SamplingParams) -> Completion:
        for mark in params.stop:
            text = text.split(mark, 1)[0]
        return Completion(text=text, tokens=self.count_tokens([text])[0], finish_reason="stop")


def _text(prompt: Prompt) -> str:
    return "\n".join([*(text for _, text in prompt.messages), prompt.prefix])


class ScriptedReader(Reader):
    """A reader that answers from a script, and remembers what it was asked.

    Args:
        script: Texts to look for in the question, each with its answers and their probabilities, best first.
            An answer is quoted from the first passage that holds it; of one that none holds only yes and no
            are given.

    Attributes:
        asked: The questions so far, each with the ids of its passages.

    Example:
        >>> from langchain_core.documents import Document
        >>> reader = ScriptedReader({"born": {"Rome": 0.9}})
        >>> reader.read(["Where was Ann born?"], [[Document("Ann was born in Rome.")]])[0].start
        16
    """

    def __init__(self, script: Mapping[str, Mapping[str, float]]) -> None:
        self.script = script
        self.asked: list[tuple[str, list[str]]] = []
        self._lock = ForkSafeLock()

    def candidates(
        self, questions: Sequence[str], passages: Sequence[Sequence[Document]], *, n: int
    ) -> list[list[ReaderAnswer]]:
        """See `Reader.candidates`."""
        with self._lock:
            for question, documents in zip(questions, passages, strict=True):
                self.asked.append((question, [str(d.id) for d in documents]))
        rows = []
        for question, documents in zip(questions, passages, strict=True):
            given = next((answers for text, answers in self.script.items() if text in question), {})
            none = max(0.0, 1.0 - sum(given.values()))
            found = (self._found(text, score, none, documents) for text, score in given.items())
            rows.append([answer for answer in found if answer is not None][:n])
        return rows

    @staticmethod
    def _found(text: str, score: float, none: float, documents: Sequence[Document]) -> ReaderAnswer | None:
        for place, document in enumerate(documents):
            start = document.page_content.find(text)
            if start >= 0:
                return ReaderAnswer(text, score, none, place, start, start + len(text))
        known = documents and text in ("yes", "no")
        return ReaderAnswer(text, score, none, 0) if known else None


def calls(*tools: tuple[str, dict[str, Any]]) -> AIMessage:
    """An AI message that calls tools: `calls(("search", {"query": "Brunel"}))`."""
    return AIMessage(
        "",
        tool_calls=[
            {"name": name, "args": args, "id": f"{name}-{number}"}
            for number, (name, args) in enumerate(tools, 1)
        ],
    )


class ScriptedAgentModel(_Scripted):
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

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """See `BaseChatModel.bind_tools`."""
        self.tools[:] = tools
        return self.bind(**kwargs)

    def _reply(self, messages: list[BaseMessage], stop: Sequence[str], settings: dict[str, Any]) -> AIMessage:
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

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        reply = self._reply(messages, stop or (), kwargs)
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
