"""One chat model as it likes to be asked: settings that it takes, room to think, a schema if it has them."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig
from pydantic import SecretStr

from agentprm.errors import ModelServerError, TransientModelError
from agentprm.lm.base import SamplingParams, wish_for
from agentprm.lm.reports import SETTING_NAMES, Learned, is_cut_off, refused_settings, said_with
from agentprm.lm.retries import transient
from agentprm.routines import Routine, adrive, drive, wait
from agentprm.text import clean_text

__all__ = ["Asking", "ChatLeaf", "Reply", "finish_reason", "has_schemas"]

_FINISH_KEYS = ("finish_reason", "stop_reason", "done_reason")
_FIELDS = ("temperature", "top_p", "max_tokens", "seed")  # what is set on a copy of the model
_REFUSES = (TypeError, ValueError, NotImplementedError)  # of a client that knows no such setting


@dataclass(frozen=True)
class Asking:
    """What to ask every chat model of a call for.

    Attributes:
        params: How to sample.
        led: The last message is the beginning of the answer.
        seed: Seed of this sample, or `None`.
        thinking_tokens: Most tokens of a thought.
        hear: Is told the text while it is written, whole each time it grows.
        spent: Collects every message that was paid for.
    """

    params: SamplingParams
    led: bool
    seed: int | None
    thinking_tokens: int
    hear: Callable[[str], None] | None = None
    spent: list[AIMessage] = field(default_factory=list)


@dataclass(frozen=True)
class Reply:
    """A chat model's reply.

    Attributes:
        message: The message.
        text: Its text: without reasoning blocks, as JSON if a schema was kept to.
        cut_off: Its tokens ran out.
    """

    message: AIMessage
    text: str
    cut_off: bool


@dataclass(frozen=True)
class _LeafCall:
    model: Runnable[Any, Any]
    messages: list[BaseMessage]
    options: dict[str, Any]
    structured: bool


class ChatLeaf(Runnable[Any, Reply]):
    """A chat model that is sent what it takes. What it refuses is remembered as long as the model lives.

    A `Runnable`, so that it stands where the chat model stood, inside of retries and fallbacks.

    Args:
        model: The chat model; it is not changed.
        asking: What to ask it for.
    """

    def __init__(self, model: BaseChatModel, asking: Asking) -> None:
        self.model, self.asking = model, asking
        self._learned = _learned_of(model)
        self._fields, self._has_logprobs = _fields_of(type(model))

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Reply:
        """The reply to a list of messages."""
        return drive(self._routine(input, kwargs, config))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Reply:
        """Async twin of `invoke`, on the model's own async path."""
        return await adrive(self._routine(input, kwargs, config))

    def _ask(self, request: _LeafCall, config: RunnableConfig | None) -> Any:
        if (hear := self.asking.hear) is None or request.structured:
            return request.model.invoke(request.messages, config, **request.options)
        answer: Any = None
        heard = self._learned.heard(hear)
        for chunk in request.model.stream(request.messages, config, **request.options):
            answer = chunk if answer is None else answer + chunk
            heard(str(answer.text))
        return answer

    async def _aask(self, request: _LeafCall, config: RunnableConfig | None) -> Any:
        if (hear := self.asking.hear) is None or request.structured:
            return await request.model.ainvoke(request.messages, config, **request.options)
        answer: Any = None
        heard = self._learned.heard(hear)
        async for chunk in request.model.astream(request.messages, config, **request.options):
            answer = chunk if answer is None else answer + chunk
            heard(str(answer.text))
        return answer

    def _routine(
        self, messages: Sequence[BaseMessage], kwargs: dict[str, Any], config: RunnableConfig | None
    ) -> Routine[Reply]:
        refused: set[str] = set()
        again = False
        while True:
            settings = self._settings(refused | self._learned.refused, again)
            try:
                request = self._request(messages, kwargs, settings)
                answer = yield from wait(self._ask, self._aask, request, config)
            except Exception as error:
                named = self._refused(error, settings)
                if not named:
                    if (safe := _without_secrets(error, self.model)) is not None:
                        raise safe from None
                    raise
                refused |= named
                continue
            self._learned.refuse(refused - {"this schema"})
            reply = self._read(answer)
            self.asking.spent.append(reply.message)
            if again or not self._learned.unanswered(reply.text, cut_off=reply.cut_off):
                return reply
            again = True

    def _settings(self, refused: set[str] | frozenset[str], again: bool) -> dict[str, Any]:
        """The settings to send, by their names in `SETTING_NAMES`."""
        params, thinks = self.asking.params, self._learned.thinks or again
        settings: dict[str, Any] = {
            "temperature": params.temperature,
            "top_p": params.top_p if params.top_p < 1 else None,
            "max_tokens": params.max_tokens + (self.asking.thinking_tokens if thinks else 0),
            "seed": self.asking.seed,
        }
        settings = {k: v for k, v in settings.items() if v is not None and self._fields[k] is not None}
        if params.top_logprobs and self._has_logprobs:
            settings["top_logprobs"] = params.top_logprobs
        if stops := self._learned.stops(params.stop, led=self.asking.led, again=again):
            settings["stop"] = stops
        if params.schema is not None and has_schemas(self.model) and "this schema" not in refused:
            settings["schema"] = dict(params.schema)
        return {k: v for k, v in settings.items() if k not in refused}

    def _request(
        self, messages: Sequence[BaseMessage], kwargs: dict[str, Any], settings: Mapping[str, Any]
    ) -> _LeafCall:
        update = {field: settings[name] for name, field in self._fields.items() if field and name in settings}
        if "top_logprobs" in settings:
            update |= {"logprobs": True, "top_logprobs": settings["top_logprobs"]}
        model: Runnable[Any, Any] = self.model.model_copy(update=update) if update else self.model
        messages, options = list(messages), dict(kwargs)
        if "schema" in settings:
            model = model.with_structured_output(settings["schema"], include_raw=True)  # type: ignore[attr-defined]
            messages[-1] = HumanMessage(wish_for(str(messages[-1].content), settings["schema"]))
        elif "stop" in settings:
            options["stop"] = settings["stop"]
        return _LeafCall(model, messages, options, "schema" in settings)

    def _refused(self, error: Exception, settings: Mapping[str, Any]) -> set[str]:
        """Which settings to leave out after an error; none if it is about something else."""
        if transient(error):
            return set()
        status = getattr(error, "status_code", None)
        named: set[str] = set()
        if status in (400, 403, 422) or isinstance(error, _REFUSES):
            named = refused_settings(said_with(error), settings)
        if status == 403:  # a matter of the key, but for "You are not allowed to request logprobs"
            named &= {"top_logprobs"}
        if not named and "schema" in settings and status not in (401, 403, 404):
            return {"this schema"}  # clients fail over replies that do not keep to it
        return named

    def _read(self, answer: Any) -> Reply:
        if isinstance(answer, dict):
            message, parsed = answer.get("raw"), answer.get("parsed")
        else:
            message, parsed = answer, None
        if not isinstance(message, AIMessage):
            raise ModelServerError(f"{type(self.model).__name__} replied with a {type(message).__name__}.")
        reason = finish_reason(message)
        if str(reason).lower() == "error":
            raise TransientModelError(f"{type(self.model).__name__} broke off its reply ({message.text!r}).")
        cut_off = is_cut_off(reason)
        if parsed is not None:
            return Reply(message, parsed if isinstance(parsed, str) else json.dumps(parsed), cut_off)
        text = self._learned.read(clean_text(message.text), cut_off=cut_off, reasoned=_reasoned(message))
        return Reply(message, text, cut_off)


@cache
def _fields_of(kind: type[BaseChatModel]) -> tuple[Mapping[str, str | None], bool]:
    """A class's fields for the settings, and whether it reports log-probabilities.

    Integrations that have both fields report OpenAI's form; for others "logprobs" means other things.
    """
    fields = {name: declared(kind, SETTING_NAMES[name]) for name in _FIELDS}
    return MappingProxyType(fields), {"logprobs", "top_logprobs"} <= set(kind.model_fields)


def declared(kind: type[BaseChatModel], names: Sequence[str]) -> str | None:
    """A class's field for a setting, by name or alias."""
    for name in names:
        for at, info in kind.model_fields.items():
            if name in (at, info.alias):
                return at
    return None


def has_schemas(model: Any) -> bool:
    """Whether a chat model's integration can hold replies to a schema."""
    kind = type(model)
    return isinstance(model, BaseChatModel) and (
        kind.with_structured_output is not BaseChatModel.with_structured_output
        or kind.bind_tools is not BaseChatModel.bind_tools
    )


def finish_reason(message: AIMessage) -> Any:
    """Why a message ended, under whichever key its integration puts it; `None` if it does not say."""
    found = (message.response_metadata.get(key) for key in _FINISH_KEYS)
    return next((reason for reason in found if reason is not None), None)


def _reasoned(message: AIMessage) -> bool:
    """Whether the model thought before it answered, apart from the text."""
    usage = message.usage_metadata
    details = (usage and usage.get("output_token_details")) or {}
    if details.get("reasoning") or message.additional_kwargs.get("reasoning_content"):
        return True
    blocks = message.content if isinstance(message.content, list) else []
    return any(isinstance(b, dict) and b.get("type") in ("reasoning", "thinking") for b in blocks)


def _without_secrets(error: Exception, model: BaseChatModel) -> Exception | None:
    """An error in place of one that shows a secret of the model's, as servers echo keys."""
    values = [getattr(model, name, None) for name in type(model).model_fields]
    secrets = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
    text = str(error)
    found = [secret for secret in secrets if len(secret) > 3 and secret in text]
    if not found:
        return None
    for secret in sorted(found, key=len, reverse=True):
        text = text.replace(secret, "***")
    kind = TransientModelError if transient(error) else ModelServerError
    return kind(f"{type(error).__name__}: {text}")


_known: dict[int, tuple[Any, Learned]] = {}


def _learned_of(model: BaseChatModel) -> Learned:
    """What is known about a model object, however often it is wrapped."""
    # Chat models cannot be hashed; an id is theirs as long as they live.
    key = id(model)
    found = _known.get(key)
    if found is None or found[0]() is not model:
        reference = weakref.ref(model, lambda gone: _known.pop(key, None))
        found = _known.setdefault(key, (reference, Learned()))
    return found[1]
