"""`ChatLM`: any LangChain chat model as a language model that samples.

Users hand chat models over bare, bound, with retries or fallbacks, configurable, or by name.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeGuard

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.configurable import DynamicRunnable
from langchain_core.runnables.fallbacks import RunnableWithFallbacks
from pydantic import ValidationError

from agentprm.budget import record
from agentprm.errors import (
    CapabilityError,
    ConfigurationError,
    ContextLengthError,
    MissingDependencyError,
    ModelServerError,
    TransientModelError,
    check_least,
)
from agentprm.lm.base import Capabilities, Completion, LanguageModel, Prompt, SamplingParams, listener
from agentprm.lm.chat_leaf import Asking, ChatLeaf, Reply, has_schemas
from agentprm.lm.reports import said_with, summed, token_count, token_logprobs, too_long
from agentprm.lm.retries import Retries, transient
from agentprm.replies import cut_reply
from agentprm.routines import Helpers

__all__ = ["ChatLM", "ChatRunnable", "chat_model_named", "is_chat_model", "leaves", "with_leaves"]


#: A chat model, or a Runnable around one.
ChatRunnable = Runnable[Any, Any]

_NAMED = re.compile(r"[a-z][a-z0-9_]+:[^/\\\s][^\\\s]*", re.IGNORECASE)


def is_chat_model(model: Any) -> TypeGuard[ChatRunnable]:
    """Whether this is a chat model, or bindings, retries, fallbacks and configuration around one."""
    return isinstance(model, Runnable) and next(leaves(model), None) is not None


def leaves(model: Any) -> Iterator[Any]:
    """The chat models at the bottom of `model`; a configurable one stands for what it will become."""
    if isinstance(model, BaseChatModel) or _chosen_later(model):
        yield model
    elif isinstance(model, RunnableBindingBase):
        yield from leaves(model.bound)
    elif isinstance(model, RunnableWithFallbacks):
        for runnable in model.runnables:
            yield from leaves(runnable)
    elif isinstance(model, DynamicRunnable):
        yield from leaves(model.default)


def with_leaves(
    model: Any, config: RunnableConfig, change: Callable[[BaseChatModel], ChatRunnable]
) -> ChatRunnable:
    """A copy of `model` with each chat model at its bottom replaced.

    Args:
        model: What `is_chat_model` accepts.
        config: Of the run, which configurable models go by.
        change: From a chat model to what takes its place.
    """
    if isinstance(model, BaseChatModel):
        return change(model)
    if isinstance(model, RunnableBindingBase):
        return model.model_copy(update={"bound": with_leaves(model.bound, config, change)})
    if isinstance(model, RunnableWithFallbacks):
        first, *others = [with_leaves(runnable, config, change) for runnable in model.runnables]
        return model.model_copy(update={"runnable": first, "fallbacks": others})
    if isinstance(model, DynamicRunnable):
        chosen, _ = model.prepare(config)
        return with_leaves(chosen, config, change)
    if _chosen_later(model):
        return with_leaves(model._model(config), config, change)
    raise ConfigurationError(f"A {type(model).__name__} is no chat model.")


def chat_model_named(name: str) -> ChatRunnable | None:
    """The chat model of a name like `ollama:llama3.2`; `None` if the name is none of that form.

    Raises:
        MissingDependencyError: Without the extra `agents`, or the provider's package.
        ConfigurationError: If LangChain knows no such provider, or refuses the model.
    """
    if not _NAMED.fullmatch(name):
        return None
    try:
        from langchain.chat_models import init_chat_model
    except ImportError as error:
        raise MissingDependencyError.for_extra("langchain", "agents") from error
    try:
        model: ChatRunnable = init_chat_model(name)
    except ImportError as error:
        raise MissingDependencyError(f"{name!r} needs a package that is not installed: {error}") from error
    except Exception as error:
        raise ConfigurationError(
            f"{name!r} is no chat model that can be used: {error} Names are provider:model, for instance "
            "openai:gpt-5-mini or ollama:llama3.2."
        ) from error
    return model


def _chosen_later(model: Any) -> bool:
    """Whether it is what `init_chat_model` returns for a model that the run's config chooses."""
    return type(model).__name__ == "_ConfigurableModel" and callable(getattr(type(model), "_model", None))


_MESSAGES: dict[str, type[BaseMessage]] = {
    "system": SystemMessage,
    "user": HumanMessage,
    "assistant": AIMessage,
}
# What clients raise over a reply that is not of the form that they know.
_UNREADABLE = (LookupError, TypeError, AttributeError, ValidationError)
_NOSTREAM = "nostream"  # LangGraph's tag: tokens of this call are not streamed as the graph's answer


class ChatLM(LanguageModel):
    """A LangChain chat model as a `LanguageModel`; each sample is one request.

    Temperature, `max_tokens`, `top_p` and seed reach the model only if it declares such a field
    (under any of the names that integrations use), on a shallow copy: the caller's model stays as it
    is. What a provider refuses all the same (a stop string, a temperature, a schema) is left out, and
    not sent to this model again. Stop strings are enforced on the text as well, but never on thinking.
    The `n`-th sample gets the `n`-th seed after `SamplingParams.seed`, so that samples differ. Calls
    carry the tag `nostream`, so that LangGraph does not stream them as if they were the answer.

    Reasoning blocks are no part of a completion's text. A model that is seen to think gets tokens for
    that beyond `max_tokens`, and is asked once more where a thought used them all up.

    Usage is what the model reports (`usage_metadata`), else LangChain's estimate. Tokens that a
    provider read from its own cache count as asked, not as computed. A completion has a
    log-probability if the model reports the tokens' ones: where `SamplingParams.top_logprobs` or the
    model's own `logprobs=True` asks for them and its endpoint offers them.

    Args:
        model: The chat model, or bindings (`bind`), retries (`with_retry`), fallbacks
            (`with_fallbacks`) or configuration (`init_chat_model`, `configurable_fields`) around one.
        prefill: The model continues a final assistant message. True of some providers only, and of
            vLLM servers with `continue_final_message`; without it a prompt's prefix is an error.
        structured: Hold replies to a schema where the integration can (`with_structured_output`).
        thinking_tokens: Most tokens of a thought.
        max_concurrency: Most requests at a time, over all threads and tasks; on the async path, over
            all tasks of an event loop.
        max_retries: Repetitions of a request that failed in a way that may pass (408, 409, 425, 429,
            5xx, time-outs, broken connections), with growing random waits; `Retry-After` is kept to.
            They come on top of those of the chat model's own client.
    """

    def __init__(
        self,
        model: ChatRunnable,
        *,
        prefill: bool = False,
        structured: bool = True,
        thinking_tokens: int = 4096,
        max_concurrency: int = 8,
        max_retries: int = 2,
    ) -> None:
        if not is_chat_model(model):
            raise ConfigurationError(
                f"ChatLM needs a LangChain chat model (BaseChatModel), bare or bound, with retries or with "
                f"fallbacks, not a {type(model).__name__}."
            )
        check_least(0, thinking_tokens=thinking_tokens)
        check_least(1, max_concurrency=max_concurrency)
        self.model = model
        self.max_concurrency = max_concurrency
        self._retries = Retries(max_retries)
        self._places = threading.BoundedSemaphore(max_concurrency)
        self._helpers = Helpers(max_concurrency)
        # A semaphore of asyncio belongs to one loop.
        self._async_places: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )
        self._thinking_tokens = thinking_tokens
        held = structured and not prefill and all(has_schemas(leaf) for leaf in leaves(model))
        self.capabilities = Capabilities(prefill=prefill, structured=held)

    def sample(
        self, prompts: Sequence[Prompt], n: int = 1, params: SamplingParams | None = None
    ) -> list[list[Completion]]:
        """Samples `n` completions of each prompt, `n` requests per prompt.

        Raises:
            CapabilityError: If a prompt has a prefix and the model was not declared to continue one.
            TransientModelError: On a rate limit, a time-out, a broken connection or a server error.
        ModelServerError: On a reply that the chat model's client cannot read.
        """
        params = params or SamplingParams()
        config = self._config()
        requests = self._requests(prompts, n, params, config)

        def call(request: _ChatCall) -> Reply | Exception:
            def attempt() -> Reply:
                with self._places:
                    return request.model.invoke(request.messages, config)  # type: ignore[no-any-return]

            try:
                return self._retries.call(attempt)
            except Exception as error:
                return error

        replies = self._helpers.map(call, requests)
        return self._results(prompts, requests, replies, n, params)

    async def asample(
        self, prompts: Sequence[Prompt], n: int = 1, params: SamplingParams | None = None
    ) -> list[list[Completion]]:
        """Async twin of `sample`, on the model's own async path."""
        params = params or SamplingParams()
        config = self._config()
        requests = self._requests(prompts, n, params, config)
        places = self._async_places.setdefault(
            asyncio.get_running_loop(), asyncio.Semaphore(self.max_concurrency)
        )

        async def call(request: _ChatCall) -> Reply | Exception:
            async def attempt() -> Reply:
                async with places:
                    return await request.model.ainvoke(request.messages, config)  # type: ignore[no-any-return]

            try:
                return await self._retries.acall(attempt)
            except Exception as error:
                return error

        replies = await asyncio.gather(*map(call, requests))
        return self._results(prompts, requests, replies, n, params)

    def _config(self) -> RunnableConfig:
        return ensure_config({"tags": [_NOSTREAM], "max_concurrency": self.max_concurrency})

    def _requests(
        self, prompts: Sequence[Prompt], n: int, params: SamplingParams, config: RunnableConfig
    ) -> list[_ChatCall]:
        """The requests, prompt by prompt."""
        check_least(1, n=n)
        if not self.capabilities.prefill and any(prompt.prefix for prompt in prompts):
            raise CapabilityError(
                f"{type(self.model).__name__} was not declared to continue an assistant message, but a "
                "prompt has a prefix. If it can, use ChatLM(model, prefill=True); else leave the prefix out "
                "or use agentprm.lm.TransformersLM."
            )
        seed = secrets.randbits(31) if params.seed is None else params.seed
        seeds = [seed + i if params.seed is not None or n > 1 else None for i in range(n)]
        requests, hear = [], listener(len(prompts), n)
        for prompt in prompts:
            messages: list[BaseMessage] = [_MESSAGES[role](content=text) for role, text in prompt.messages]
            if prompt.prefix:
                messages.append(AIMessage(content=prompt.prefix))
            estimate = estimated_tokens(prompt)
            for number in range(n):
                asking = Asking(params, bool(prompt.prefix), seeds[number], self._thinking_tokens, hear)
                model = with_leaves(self.model, config, partial(ChatLeaf, asking=asking))
                requests.append(_ChatCall(model, messages, asking, estimate))
        return requests

    def _results(
        self,
        prompts: Sequence[Prompt],
        requests: Sequence[_ChatCall],
        replies: Sequence[Reply | Exception],
        n: int,
        params: SamplingParams,
    ) -> list[list[Completion]]:
        """Records the cost of the requests that succeeded, then raises the first failure, if any."""
        completions = []
        asked = computed = generated = 0
        for request, reply in zip(requests, replies, strict=True):
            for message in request.asking.spent:
                before, cached, new = _tokens(message, request.estimate)
                asked, computed, generated = asked + before, computed + before - cached + new, generated + new
            if isinstance(reply, Exception):
                continue
            text, stopped = cut_reply(reply.text, params.stop, led=request.asking.led)
            reason: Literal["stop", "length"] = "length" if reply.cut_off and not stopped else "stop"
            new = _new_tokens(reply.message)
            report = reply.message.response_metadata.get("logprobs")
            tokens = token_logprobs(report, text) if params.top_logprobs else ()
            completions.append(Completion(text, new, reason, summed(report), tokens))
        record(
            model_calls=len(completions),
            prompt_tokens=asked,
            computed_tokens=computed,
            completion_tokens=generated,
            told=True,
        )
        for reply in replies:
            if isinstance(reply, Exception):
                failure = self._failure(reply)
                if failure is reply:
                    raise reply
                raise failure from reply
        return [completions[i * n : (i + 1) * n] for i in range(len(prompts))]

    def _failure(self, error: Exception) -> Exception:
        """The error that a caller gets for the last one of a request."""
        said = f"{type(error).__name__}: {error}"
        if transient(error):
            return TransientModelError(
                f"The chat model failed {self._retries.most + 1} times in a way that may pass "
                f"({said}). Try again later, or lower max_concurrency."
            )
        status = getattr(error, "status_code", None)
        if too_long(said_with(error)) and (isinstance(status, int) or isinstance(error, ValueError)):
            return ContextLengthError(f"The chat model refuses the text as too long ({said}).")
        if isinstance(error, _UNREADABLE):
            return ModelServerError(
                f"The chat model's client cannot read the reply ({said}). Look whether the address is that "
                "of a chat model, and whether its server and langchain's integration fit each other."
            )
        return error


@dataclass(frozen=True)
class _ChatCall:
    model: ChatRunnable
    messages: list[BaseMessage]
    asking: Asking
    estimate: int


def estimated_tokens(prompt: Prompt) -> int:
    """What LangChain's `count_tokens_approximately` says of a prompt of texts, after a longer look at it."""
    turns = [*prompt.messages, ("assistant", prompt.prefix)] if prompt.prefix else prompt.messages
    return sum(math.ceil((len(role) + len(text)) / 4) + 3 for role, text in turns)


def _tokens(reply: AIMessage, estimate: int) -> tuple[int, int, int]:
    """Tokens of the prompt, those of them that a cache held, and generated ones."""
    usage: Mapping[str, Any] = reply.usage_metadata or {}
    before = token_count(usage.get("input_tokens"), estimate)
    cached = token_count((usage.get("input_token_details") or {}).get("cache_read"), 0)
    return before, min(cached, before), _new_tokens(reply)


def _new_tokens(reply: AIMessage) -> int:
    usage: Mapping[str, Any] = reply.usage_metadata or {}
    return token_count(usage.get("output_tokens"), (len(str(reply.text)) + 3) // 4)
