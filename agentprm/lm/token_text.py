"""Prompts to token ids, here or by the server, for engines that take ids."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol, TypeVar

from agentprm.engine.tokenizing import PromptText, as_data, continued, neutral_messages
from agentprm.errors import ModelServerError
from agentprm.lm.base import Prompt
from agentprm.lm.json_http import JsonHttp, Refused

__all__ = ["LocalText", "ServerText", "TokenText"]

T = TypeVar("T")

_HEADS = 1024  # rendered conversations that are remembered


class TokenText(Protocol):
    """Turns prompts into token ids."""

    async def tokens(self, prompt: Prompt, continuations: Sequence[str] = ()) -> list[list[int]]:
        """Ids of the prompt, then of the prompt with each continuation, tokenized together."""


class LocalText:
    """Tokenizes here, with a Hugging Face tokenizer and its chat template."""

    def __init__(self, text: PromptText) -> None:
        self._text = text

    async def tokens(self, prompt: Prompt, continuations: Sequence[str] = ()) -> list[list[int]]:
        """See `TokenText.tokens`."""
        rendered = self._text.render(prompt, answering=bool(continuations))
        return self._text.encode([rendered, *(rendered + c for c in continuations)])


class ServerText:
    """Has the server tokenize, through the `/tokenize` and `/detokenize` of vLLM.

    Args:
        http: The server.
        root: Address of the two paths.
        model: The model's name.
        template_kwargs: Variables for the chat template.
    """

    def __init__(self, http: JsonHttp, root: str, model: str, template_kwargs: dict[str, object]) -> None:
        self._http, self._root, self._model, self._kwargs = http, root, model, template_kwargs
        self._heads: dict[object, tuple[list[int], str | None]] = {}  # those used last at the end

    async def tokens(self, prompt: Prompt, continuations: Sequence[str] = ()) -> list[list[int]]:
        """See `TokenText.tokens`."""
        ids, text = await self._head(prompt)
        prefix = as_data(prompt.prefix, own_turn=True)
        tails = [prefix, *(prefix + c for c in continuations)]

        async def joint(tail: str) -> list[int]:
            if text is None:
                return ids + await self._encode(tail, False) if tail else ids
            whole = continued(text, tail, thinking=prompt.thinking, answering=bool(continuations))
            return ids if whole == text else await self._encode(whole, False)

        return list(await asyncio.gather(*map(joint, tails)))

    async def _head(self, prompt: Prompt) -> tuple[list[int], str | None]:
        """Ids and text of the rendered conversation; no text if it does not tokenize to the ids."""
        known = self._heads.pop(prompt.messages, None)
        if known is not None:
            self._heads[prompt.messages] = known
            return known
        messages = neutral_messages(prompt)
        body = {"model": self._model, "add_generation_prompt": True, "chat_template_kwargs": self._kwargs}
        try:
            ids = await self._ids({**body, "messages": messages})
        except Refused:
            ids = await self._without_template(messages, body)
        text = await self._post("/detokenize", {"model": self._model, "tokens": ids}, "prompt", str)
        known = (ids, text if await self._encode(text, False) == ids else None)
        self._heads[prompt.messages] = known
        if len(self._heads) > _HEADS:
            del self._heads[next(iter(self._heads))]
        return known

    async def _without_template(self, messages: list[dict[str, str]], body: dict[str, object]) -> list[int]:
        """As `PromptText.render` does it: no system role in the template, or no template at all."""
        try:
            await self._ids({**body, "messages": [{"role": "user", "content": "a"}]})
        except Refused:
            return await self._encode(_plain_turns(messages), True)
        if messages[0]["role"] != "system" or len(messages) < 2:
            return await self._ids({**body, "messages": messages})
        merged = f"{messages[0]['content']}\n\n{messages[1]['content']}"
        return await self._ids({**body, "messages": [{**messages[1], "content": merged}, *messages[2:]]})

    async def _encode(self, text: str, special: bool) -> list[int]:
        return await self._ids({"model": self._model, "prompt": text, "add_special_tokens": special})

    async def _ids(self, body: dict[str, object]) -> list[int]:
        ids = await self._post("/tokenize", body, "tokens", list)
        if not all(isinstance(i, int) for i in ids):
            raise ModelServerError(f"{self._root}/tokenize sent tokens that are no numbers.")
        return ids

    async def _post(self, path: str, body: dict[str, object], key: str, kind: type[T]) -> T:
        reply = await self._http.post(self._root + path, body)
        value = reply.get(key) if isinstance(reply, dict) else None
        if not isinstance(value, kind):
            raise ModelServerError(f"The reply of {self._root}{path} has no {key!r}.")
        return value


def _plain_turns(messages: Sequence[dict[str, str]]) -> str:
    turns = "\n\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in messages)
    return f"{turns}\n\nAssistant:\n"
