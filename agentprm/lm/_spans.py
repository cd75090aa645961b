"""Token ids of prompts and of what is to be scored after them, for engines that take ids."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from agentprm._names import model_name
from agentprm.errors import (
    ConfigurationError,
    ContextLengthError,
    InputError,
    MissingDependencyError,
    ModelServerError,
)
from agentprm.lm._http import JsonHttp, Refused
from agentprm.lm._text import PromptText
from agentprm.lm.base import Prompt
from agentprm.memory import Memory

__all__ = [
    "Context",
    "LocalText",
    "ServerText",
    "Span",
    "TokenText",
    "as_data",
    "sample_seed",
    "span_of",
    "tokenizer_of",
]

T = TypeVar("T")

_HEADS = 1024  # rendered conversations that are remembered
# What control tokens look like: <|im_end|>, the same with full-width bars, </s>, <end_of_turn>, [INST].
# A server does not say which ones its model has.
_CONTROL = re.compile(
    r"<[|\uff5c][^\s<>|\uff5c]{1,40}[|\uff5c]>"
    r"|</?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn)>"
    r"|\[/?(?:INST|SYS|AVAILABLE_TOOLS)\]"
)


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
        rendered = self._text.render(prompt)
        return self._text.encode([rendered, *(rendered + c for c in continuations)])


def tokenizer_of(tokenizer: Any) -> Any:
    """A tokenizer, loaded if it is a name or a folder.

    Raises:
        MissingDependencyError: For a name or folder without transformers.
        ConfigurationError: If it cannot be loaded.
    """
    if not isinstance(tokenizer, str | Path):
        return tokenizer
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingDependencyError.for_extra("transformers", "transformers") from error
    name = model_name(tokenizer)
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"The tokenizer {name!r} cannot be loaded: {error}") from error


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
        self._heads = Memory[object, tuple[list[int], str | None]](_HEADS)

    async def tokens(self, prompt: Prompt, continuations: Sequence[str] = ()) -> list[list[int]]:
        """See `TokenText.tokens`."""
        ids, text = await self._head(prompt)
        tails = [as_data(prompt.prefix), *(as_data(prompt.prefix) + c for c in continuations)]

        async def joint(tail: str) -> list[int]:
            if not tail:
                return ids
            if text is None:
                return ids + await self._encode(tail, False)
            return await self._encode(text + tail, False)

        return list(await asyncio.gather(*map(joint, tails)))

    async def _head(self, prompt: Prompt) -> tuple[list[int], str | None]:
        """Ids and text of the rendered conversation; no text if it does not tokenize to the ids."""
        known = self._heads.get(prompt.messages)
        if known is not None:
            return known
        messages = [{"role": role, "content": as_data(text)} for role, text in prompt.messages]
        body = {"model": self._model, "add_generation_prompt": True, "chat_template_kwargs": self._kwargs}
        try:
            ids = await self._ids({**body, "messages": messages})
        except Refused:
            ids = await self._without_template(messages, body)
        text = await self._post("/detokenize", {"model": self._model, "tokens": ids}, "prompt", str)
        known = (ids, text if await self._encode(text, False) == ids else None)
        self._heads.keep({prompt.messages: known})
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


def as_data(text: str) -> str:
    """The text with control tokens pulled apart, so that a passage cannot end the turn."""
    return _CONTROL.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def _plain_turns(messages: Sequence[dict[str, str]]) -> str:
    turns = "\n\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in messages)
    return f"{turns}\n\nAssistant:\n"


@dataclass(frozen=True)
class Span:
    """What to score of a text: the tokens of `ids` from `start` on.

    Attributes:
        ids: Prompt and continuation.
        start: Index of the first scored token, at least 1.
    """

    ids: tuple[int, ...]
    start: int

    @property
    def scored(self) -> tuple[int, ...]:
        """The tokens whose log-probabilities count."""
        return self.ids[self.start :]


def span_of(trunk: Sequence[int], joint: Sequence[int], continuation: str) -> Span:
    """The span of a continuation from the ids of its prompt and of both together.

    Where the boundary falls inside a token, the tokens from there on are scored, given those before.
    """
    pairs = enumerate(zip(trunk, joint, strict=False))
    start = next((at for at, (a, b) in pairs if a != b), min(len(trunk), len(joint)))
    if not start or len(joint) <= start:
        raise InputError(f"The continuation {continuation!r} adds no token to its prompt.")
    return Span(tuple(joint), start)


@dataclass(frozen=True)
class Context:
    """A model's context, and what to do with a prompt that does not fit.

    Attributes:
        length: Most tokens, or `None` where it is not known.
        on_overflow: `"error"`, or `"truncate_left"`: drop the oldest tokens, keep a leading BOS.
        bos: Id of the token to keep.
    """

    length: int | None
    on_overflow: Literal["error", "truncate_left"] = "error"
    bos: int | None = None

    def __post_init__(self) -> None:
        if self.on_overflow not in ("error", "truncate_left"):
            raise ConfigurationError(
                f"on_overflow must be 'error' or 'truncate_left', not {self.on_overflow!r}."
            )

    def lost(self, ids: Sequence[int], new: int) -> int:
        """Tokens to drop so that `new` more fit.

        Raises:
            ContextLengthError: If the policy is not to cut, or nothing would be left.
        """
        if not ids:
            raise InputError("A prompt must have at least one token; this tokenizer adds none of its own.")
        if self.length is None or len(ids) + new <= self.length:
            return 0
        head = self._head(ids)
        if self.on_overflow == "error" or self.length - new - head < 1:
            raise ContextLengthError(
                f"The prompt has {len(ids)} tokens and {new} more are asked for, but the model's context is "
                f"{self.length}. Shorten the prompt (fewer or shorter passages), lower max_tokens, or use "
                "on_overflow='truncate_left'."
            )
        return len(ids) + new - self.length

    def cut(self, ids: Sequence[int], lost: int) -> list[int]:
        """The ids without the `lost` oldest ones after a leading BOS."""
        head = self._head(ids)
        return [*ids[:head], *ids[head + lost :]]

    def fit(self, trunk: Sequence[int], spans: Sequence[Span]) -> list[Span]:
        """The spans of one prompt, all cut as its longest one needs it.

        Raises:
            ContextLengthError: As in `lost`, or if a scored token would have nothing before it.
        """
        # One more: engines that score a text generate a token after it.
        longest = max(len(span.ids) for span in spans) - len(trunk) + 1
        lost = self.lost(trunk, longest)
        if lost and any(span.start <= lost + self._head(trunk) for span in spans):
            raise ContextLengthError("A prompt that is cut to nothing cannot be scored; shorten the text.")
        return [Span(tuple(self.cut(span.ids, lost)), span.start - lost) for span in spans]

    def _head(self, ids: Sequence[int]) -> int:
        return 1 if self.bos is not None and ids[0] == self.bos else 0


def sample_seed(seed: int, ids: Sequence[int], number: int, bits: int) -> int:
    """A sample's own seed, from the call's seed, the prompt's tokens and the sample's number."""
    digest = hashlib.sha256(f"{seed}/{number}/{','.join(map(str, ids))}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - bits)
