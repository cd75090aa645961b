"""`ChatLM`: any LangChain chat model as a language model that samples."""

from __future__ import annotations

import asyncio
import math
import secrets
import threading
import weakref
from collections.abc import Sequence
from typing import Any, Literal, cast

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.runnables.config import get_executor_for_config

from agentprm.budget import record
from agentprm.errors import CapabilityError, ConfigurationError, TransientModelError
from agentprm.lm._retry import Retries, transient
from agentprm.lm.base import Capabilities, Completion, LanguageModel, Prompt, SamplingParams
from agentprm.lm.listening import listener

__all__ = ["ChatLM"]

_MESSAGES: dict[str, type[BaseMessage]] = {
    "system": SystemMessage,
    "user": HumanMessage,
    "assistant": AIMessage,
}
# What integrations call the settings; the first one that a chat model declares is used.
_FIELDS = {
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "seed": ("seed", "random_seed"),
    "max_tokens": (
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "max_new_tokens",
        "max_tokens_to_sample",
        "num_predict",
    ),
}
_FINISH_KEYS = ("finish_reason", "stop_reason", "done_reason")
_CUT_OFF = {"length", "max_tokens", "max_output_tokens", "model_length"}
_NOSTREAM = "nostream"  # LangGraph's tag: tokens of this call are not streamed as the graph's answer


class ChatLM(LanguageModel):
    """A LangChain chat model as a `LanguageModel`; each sample is one request.

    Temperature, `max_tokens`, `top_p` and seed reach the model only if it declares such a field
    (under any of the names that integrations use); a model is never sent an argument that it does
    not know. They are set on a shallow copy, the caller's model stays as it is. Stop strings are
    passed on and enforced on the text as well. The `n`-th sample gets the `n`-th seed after
    `SamplingParams.seed`, so that samples differ. Calls carry the tag `nostream`, so that LangGraph
    does not stream them as if they were the answer.

    Usage is what the model reports (`usage_metadata`), else LangChain's estimate. Tokens that a
    provider read from its own cache count as asked, not as computed. A completion has a
    log-probability if the model reports the tokens' ones, as `ChatOpenAI(..., logprobs=True)` does
    where its endpoint offers them.

    Args:
        model: The chat model.
        prefill: The model continues a final assistant message. True of some providers only, and of
            vLLM servers with `continue_final_message`; without it a prompt's prefix is an error.
        max_concurrency: Most requests at a time, over all threads and tasks; on the async path, over
            all tasks of an event loop.
        max_retries: Repetitions of a request that failed in a way that may pass (408, 409, 425, 429,
            5xx, time-outs, broken connections), with growing random waits; `Retry-After` is kept to.
            They come on top of those of the chat model's own client.
    """

    def __init__(
        self,
        model: BaseChatModel,
        *,
        prefill: bool = False,
        max_concurrency: int = 8,
        max_retries: int = 2,
    ) -> None:
        if not isinstance(model, BaseChatModel):
            raise ConfigurationError(
                f"ChatLM needs a LangChain chat model (BaseChatModel), not a {type(model).__name__}. "
                "Settings of a bound model (model.bind(...)) belong into the model's constructor."
            )
        if max_concurrency < 1:
            raise ConfigurationError(f"max_concurrency must be at least 1, not {max_concurrency}.")
        self.model = model
        self.max_concurrency = max_concurrency
        self._retries = Retries(max_retries)
        self._places = threading.BoundedSemaphore(max_concurrency)
        # A semaphore of asyncio belongs to one loop.
        self._async_places: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )
        self.capabilities = Capabilities(prefill=prefill)
        self._fields = {setting: _declared(model, names) for setting, names in _FIELDS.items()}

    def sample(
        self, prompts: Sequence[Prompt], n: int = 1, params: SamplingParams | None = None
    ) -> list[list[Completion]]:
        """Samples `n` completions of each prompt, `n` requests per prompt.

        Raises:
            CapabilityError: If a prompt has a prefix and the model was not declared to continue one.
            TransientModelError: On a rate limit, a time-out, a broken connection or a server error.
        """
        params = params or SamplingParams()
        inputs, models = self._requests(prompts, n, params)
        config = self._config()
        options: dict[str, Any] = {"stop": list(params.stop) or None}

        hear = listener(len(prompts), n)

        def call(model: BaseChatModel, messages: LanguageModelInput) -> AIMessage | Exception:
            def attempt() -> AIMessage:
                with self._places:
                    if hear is None:
                        return model.invoke(messages, config, **options)
                    reply: Any = None
                    for chunk in model.stream(messages, config, **options):
                        reply = chunk if reply is None else reply + chunk
                        hear(str(reply.text))
                    return cast(AIMessage, reply)

            try:
                return self._retries.call(attempt)
            except Exception as error:
                return error

        with get_executor_for_config(config) as executor:
            replies = list(executor.map(call, models, inputs))
        return self._results(prompts, inputs, replies, n, params)

    async def asample(
        self, prompts: Sequence[Prompt], n: int = 1, params: SamplingParams | None = None
    ) -> list[list[Completion]]:
        """Async twin of `sample`, on the model's own async path."""
        params = params or SamplingParams()
        inputs, models = self._requests(prompts, n, params)
        config = self._config()
        options: dict[str, Any] = {"stop": list(params.stop) or None}

        places = self._async_places.setdefault(
            asyncio.get_running_loop(), asyncio.Semaphore(self.max_concurrency)
        )

        hear = listener(len(prompts), n)

        async def call(model: BaseChatModel, messages: LanguageModelInput) -> AIMessage | Exception:
            async def attempt() -> AIMessage:
                async with places:
                    if hear is None:
                        return await model.ainvoke(messages, config, **options)
                    reply: Any = None
                    async for chunk in model.astream(messages, config, **options):
                        reply = chunk if reply is None else reply + chunk
                        hear(str(reply.text))
                    return cast(AIMessage, reply)

            try:
                return await self._retries.acall(attempt)
            except Exception as error:
                return error

        replies = await asyncio.gather(*map(call, models, inputs))
        return self._results(prompts, inputs, replies, n, params)

    def _config(self) -> RunnableConfig:
        return ensure_config({"tags": [_NOSTREAM], "max_concurrency": self.max_concurrency})

    def _requests(
        self, prompts: Sequence[Prompt], n: int, params: SamplingParams
    ) -> tuple[list[LanguageModelInput], list[BaseChatModel]]:
        """The messages and the model of every request, prompt by prompt."""
        if n < 1:
            raise ConfigurationError(f"n must be at least 1, not {n}.")
        if not self.capabilities.prefill and any(prompt.prefix for prompt in prompts):
            raise CapabilityError(
                f"{type(self.model).__name__} was not declared to continue an assistant message, but a "
                "prompt has a prefix. If it can, use ChatLM(model, prefill=True); else leave the prefix out "
                "or use agentprm.lm.TransformersLM."
            )
        common = {
            field: value
            for setting, value in (
                ("temperature", params.temperature),
                ("top_p", params.top_p if params.top_p < 1 else None),
                ("max_tokens", params.max_tokens),
            )
            if (field := self._fields[setting]) is not None and value is not None
        }
        seed_field = self._fields["seed"]
        inputs: list[LanguageModelInput] = []
        models: list[BaseChatModel] = []
        shared = self.model.model_copy(update=common) if common else self.model
        seed = secrets.randbits(31) if params.seed is None else params.seed
        seeded: list[BaseChatModel] = []
        if seed_field is not None and (params.seed is not None or n > 1):
            seeded = [self.model.model_copy(update={**common, seed_field: seed + i}) for i in range(n)]
        for prompt in prompts:
            messages: list[BaseMessage] = [_MESSAGES[role](content=text) for role, text in prompt.messages]
            if prompt.prefix:
                messages.append(AIMessage(content=prompt.prefix))
            for number in range(n):
                inputs.append(messages)
                models.append(seeded[number] if seeded else shared)
        return inputs, models

    def _results(
        self,
        prompts: Sequence[Prompt],
        inputs: Sequence[LanguageModelInput],
        replies: Sequence[AIMessage | Exception],
        n: int,
        params: SamplingParams,
    ) -> list[list[Completion]]:
        """Completions of the replies; what succeeded is accounted for even if a request failed."""
        completions = []
        asked = computed = generated = 0
        for messages, reply in zip(inputs, replies, strict=False):
            if isinstance(reply, Exception):
                continue
            text, cut = _cut(str(reply.text), params.stop)
            usage = reply.usage_metadata
            if usage is not None:
                before, new = usage["input_tokens"], usage["output_tokens"]
                cached = (usage.get("input_token_details") or {}).get("cache_read", 0) or 0
            else:
                before = count_tokens_approximately(cast("list[BaseMessage]", messages))
                new, cached = (len(str(reply.text)) + 3) // 4, 0
            asked, computed, generated = asked + before, computed + before - cached + new, generated + new
            reason = "stop" if cut else _finish_reason(reply)
            completions.append(Completion(text, new, reason, _logprob(reply)))
        record(
            model_calls=len(completions),
            prompt_tokens=asked,
            computed_tokens=computed,
            completion_tokens=generated,
        )
        for reply in replies:
            if isinstance(reply, Exception):
                if transient(reply):
                    raise TransientModelError(
                        f"The chat model failed {self._retries.most + 1} times in a way that may pass "
                        f"({type(reply).__name__}: {reply}). Try again later, or lower max_concurrency."
                    ) from reply
                raise reply
        return [completions[i * n : (i + 1) * n] for i in range(len(prompts))]


def _declared(model: BaseChatModel, names: Sequence[str]) -> str | None:
    """The model's field for a setting, by name or alias."""
    fields = type(model).model_fields
    for name in names:
        for field, info in fields.items():
            if name in (field, info.alias):
                return field
    return None


def _cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    found = [at for at in (text.find(s) for s in stop) if at >= 0]
    return (text[: min(found)], True) if found else (text, False)


def _finish_reason(reply: AIMessage) -> Literal["stop", "length"]:
    for key in _FINISH_KEYS:
        reason = reply.response_metadata.get(key)
        if reason is not None:
            return "length" if str(reason).lower() in _CUT_OFF else "stop"
    return "stop"


def _logprob(reply: AIMessage) -> float | None:
    """Sum of the tokens' log-probabilities as OpenAI's interface reports them, or `None`."""
    report = reply.response_metadata.get("logprobs")
    rows = report.get("content") if isinstance(report, dict) else None
    if not isinstance(rows, list) or not rows:
        return None
    values = [row.get("logprob") if isinstance(row, dict) else None for row in rows]
    return math.fsum(values) if all(isinstance(v, int | float) for v in values) else None  # type: ignore[arg-type]
