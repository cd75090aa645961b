"""The chat API of OpenAI-compatible servers, with the differences between them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from agentprm.engine.tokenizing import as_data, neutral_messages
from agentprm.errors import ModelServerError
from agentprm.lm.base import Completion, Prompt, SamplingParams, wish_for
from agentprm.lm.json_http import Refused
from agentprm.lm.reports import (
    REASONING_FIELDS,
    Learned,
    content_text,
    indexed,
    is_cut_off,
    refused_settings,
    summed,
    token_count,
    token_logprobs,
    token_usage,
)
from agentprm.lm.token_lm import Cost, Job
from agentprm.replies import cut_reply
from agentprm.routines import all_of

__all__ = ["ChatRequests"]

Hear = Callable[[str], None]

_PATH = "/chat/completions"
_SEED_BITS = 31  # what every server takes for an integer


class ChatRequests:
    """Samples through `/chat/completions`.

    Settings that the server refuses are left out from then on, samples that it does not send are asked
    for one by one, and a model that thinks gets tokens for it. Stop strings are applied here as well.

    Args:
        post: Sends a path and the body of a request, without the model's name; a streamed reply is heard.
        template_kwargs: Variables for the chat template.
        thinking_tokens: Most tokens of a thought.
    """

    def __init__(
        self,
        post: Callable[[str, dict[str, Any], Hear | None], Awaitable[dict[str, Any]]],
        template_kwargs: Mapping[str, Any],
        thinking_tokens: int,
    ) -> None:
        self._post, self._kwargs, self._thinking_tokens = post, dict(template_kwargs), thinking_tokens
        self._learned = Learned()
        self._cap = "max_tokens"  # OpenAI's own models have another name for it

    async def samples(
        self, prompt: Prompt, n: int, params: SamplingParams, cost: Cost, hear: Hear | None = None
    ) -> list[Completion]:
        """`n` completions of a prompt; a greedy one is asked for once. `hear` follows a single one."""
        if params.temperature == 0 and "temperature" not in self._learned.refused:
            return [(await self._some(prompt, 1, 0, params, cost, hear))[0]] * n
        done: list[Completion] = []
        if "n" not in self._learned.refused:
            done = await self._some(prompt, n, 0, params, cost, hear)
        rest = range(len(done), n)

        async def one(number: int) -> list[Completion]:
            return await self._some(prompt, 1, number, params, cost, hear)

        return done + [row[0] for row in await all_of(one, rest)]

    async def _some(
        self, prompt: Prompt, n: int, first: int, params: SamplingParams, cost: Cost, hear: Hear | None
    ) -> list[Completion]:
        """What one request for `n` completions brings: at least one, perhaps fewer than `n`."""
        settings = self._settings(prompt, n, first, params)
        reply = await self._ask(prompt, params, settings, hear)
        done = self._completions(prompt, params, n, reply, cost)
        cost.calls += 1  # asking once more is part of the call; its tokens count
        if len(done) < n:
            self._learned.refuse({"n"})
        if any(self._learned.unanswered(c.text, cut_off=c.finish_reason == "length") for c in done):
            settings = {**settings, "max_tokens": params.max_tokens + self._thinking_tokens}
            done = self._completions(prompt, params, n, await self._ask(prompt, params, settings, hear), cost)
        return done

    def _settings(self, prompt: Prompt, n: int, first: int, params: SamplingParams) -> dict[str, Any]:
        thinking = self._thinking_tokens if self._learned.thinks else 0
        settings: dict[str, Any] = {
            "max_tokens": params.max_tokens + thinking,
            "temperature": params.temperature,
            "top_p": params.top_p,
        }
        if stops := self._learned.stops(params.stop, led=bool(prompt.prefix)):
            settings["stop"] = stops
        if params.seed is not None:
            key = tuple(ord(c) for c in repr(prompt))
            settings["seed"] = Job(key, n, params.seed, params).seed_of(first, _SEED_BITS)
        if n > 1:
            settings["n"] = n
        if params.top_logprobs:
            settings["top_logprobs"] = params.top_logprobs
        if params.schema is not None:
            strict = params.schema.get("additionalProperties") is False  # which strictness presupposes
            name = re.sub(r"\W", "_", str(params.schema.get("title", "reply")))
            schema = {"name": name, "schema": params.schema, "strict": strict}
            settings["schema"] = {"type": "json_schema", "json_schema": schema}
        return settings

    async def _ask(
        self, prompt: Prompt, params: SamplingParams, settings: Mapping[str, Any], hear: Hear | None
    ) -> dict[str, Any]:
        """The reply to a request with as many of the settings as the server takes."""
        refused: set[str] = set()
        while True:
            sent = {k: v for k, v in settings.items() if k not in self._learned.refused | refused}
            try:
                body = self._body(prompt, params, sent)
                if hear is None or "stream" in refused:
                    reply = await self._post(_PATH, body, None)
                else:
                    streaming = {"stream": True, "stream_options": {"include_usage": True}}
                    reply = await self._post(_PATH, body | streaming, self._learned.heard(hear))
            except Refused as error:
                named = refused_settings(error.said, sent)
                if self._cap == "max_tokens" and "max_completion_tokens" in error.said:
                    self._cap = "max_completion_tokens"
                    continue
                if not named and hear is not None and "stream" not in refused:
                    named = {"stream"} if "stream" in error.said else set()
                if not named:
                    raise
                refused |= named
                continue
            self._learned.refuse(refused - {"stream"})
            return reply

    def _body(self, prompt: Prompt, params: SamplingParams, sent: Mapping[str, Any]) -> dict[str, Any]:
        messages = neutral_messages(prompt)
        if "schema" in sent and params.schema:
            messages[-1]["content"] = wish_for(messages[-1]["content"], params.schema)
        body: dict[str, Any] = {"messages": messages}
        if prompt.prefix:
            messages.append({"role": "assistant", "content": as_data(prompt.prefix, own_turn=True)})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if self._kwargs:
            body["chat_template_kwargs"] = self._kwargs
        if "top_logprobs" in sent:
            body["logprobs"] = True
        names = {"max_tokens": self._cap, "schema": "response_format"}
        return body | {names.get(name, name): value for name, value in sent.items()}

    def _completions(
        self, prompt: Prompt, params: SamplingParams, n: int, reply: dict[str, Any], cost: Cost
    ) -> list[Completion]:
        """The reply's choices in order; its cost is added."""
        rows = indexed(reply.get("choices"))
        if not rows:
            raise ModelServerError(f"The server sent {'no' if rows is None else 0} choices instead of {n}.")
        usage = reply.get("usage")
        details = usage.get("completion_tokens_details") if isinstance(usage, dict) else None
        reasoned = isinstance(details, dict) and token_count(details.get("reasoning_tokens"), 0) > 0
        done = [self._completion(prompt, params, row, reasoned) for row in rows[:n]]
        texts = [text for _, text in prompt.messages] + [prompt.prefix]
        known = sum((len(text) + 3) // 4 for text in texts), sum(c.tokens for c in done)
        asked, computed, generated = token_usage(usage, *known)
        cost.asked += asked
        cost.generated += generated
        cost.computed += computed + generated
        if len(done) == 1:
            done = [replace(done[0], tokens=generated)]
        return done

    def _completion(
        self, prompt: Prompt, params: SamplingParams, row: dict[str, Any], reasoned: bool
    ) -> Completion:
        message = row.get("message")
        message = message if isinstance(message, dict) else {}
        text = content_text(message.get("content"))
        if text is None:
            raise ModelServerError("The server sent a completion that is no text.")
        cut_off = is_cut_off(row.get("finish_reason"))
        reasoned = reasoned or any(message.get(key) for key in REASONING_FIELDS)
        text = self._learned.read(text, cut_off=cut_off, reasoned=reasoned)
        text, stopped = cut_reply(text, params.stop, led=bool(prompt.prefix))
        report = row.get("logprobs")
        return Completion(
            text,
            (len(text) + 3) // 4,
            "length" if cut_off and not stopped else "stop",
            summed(report),
            token_logprobs(report, text) if params.top_logprobs else (),
        )
