"""Prompts to token ids, token ids to text: templates, boundaries, stop strings, partial characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentprm.engine.control_tokens import as_data, special_ids
from agentprm.errors import ConfigurationError, MissingDependencyError
from agentprm.forking import ForkSafeLock
from agentprm.model_names import model_name

if TYPE_CHECKING:
    from agentprm.lm.base import Prompt
from agentprm.replies import continued

__all__ = ["PromptText", "load_tokenizer", "neutral_messages", "without_partial"]

_ROLE_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}
_PARTIAL = "\ufffd"  # what a decoder writes for the bytes of an unfinished character
_CONTEXT = 8  # prompt tokens that are decoded along, so that word-initial spaces survive


def load_tokenizer(tokenizer: Any) -> Any:
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


def neutral_messages(prompt: Prompt, tokenizer: Any = None) -> list[dict[str, str]]:
    """A prompt's messages as templates and servers take them, no control token in what they say."""
    return [
        {"role": role, "content": as_data(text, tokenizer, own_turn=role == "assistant")}
        for role, text in prompt.messages
    ]


class PromptText:
    """A tokenizer and its chat template, safe to use from threads.

    What a message or a prefix says is data: no control token comes out of it (see `control_tokens`).

    Args:
        tokenizer: A Hugging Face tokenizer.
        template_kwargs: Variables for the chat template, for instance `{"enable_thinking": False}`.
    """

    def __init__(self, tokenizer: Any, template_kwargs: Mapping[str, Any] | None = None) -> None:
        self.tokenizer = tokenizer
        self.has_template = bool(getattr(tokenizer, "chat_template", None))
        self._kwargs = dict(template_kwargs or {})
        self._lock = ForkSafeLock()
        self._special_ids = special_ids(tokenizer)

    def render(self, prompt: Prompt, *, answering: bool = False) -> str:
        """The text that the model continues.

        With a chat template: the template's rendering with the generation prompt, then the prefix.
        A template that knows no system role gets the system text at the head of the first user
        message. Without a template: `User: …` paragraphs, then `Assistant:`, a line break and the
        prefix.

        Args:
            prompt: The prompt.
            answering: An answer comes next, so that a thought which the template opens is closed.
        """
        messages = neutral_messages(prompt, self.tokenizer)
        prefix = as_data(prompt.prefix, self.tokenizer, own_turn=True)
        if not self.has_template:
            turns = "\n\n".join(f"{_ROLE_NAMES[m['role']]}: {m['content']}" for m in messages)
            return f"{turns}\n\nAssistant:\n{prefix}"

        def joined(rendered: str) -> str:
            return continued(rendered, prefix, thinking=prompt.thinking, answering=answering)

        try:
            return joined(self._apply(messages))
        except Exception as error:
            if messages[0]["role"] != "system" or len(messages) < 2:
                raise ConfigurationError(f"The chat template rejects the prompt: {error}") from error
            merged = f"{messages[0]['content']}\n\n{messages[1]['content']}"
            try:
                return joined(self._apply([{**messages[1], "content": merged}, *messages[2:]]))
            except Exception:
                raise ConfigurationError(f"The chat template rejects the prompt: {error}") from error

    def _apply(self, messages: list[dict[str, str]]) -> str:
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **self._kwargs
        )
        return str(text)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered texts; a template writes its own control tokens."""
        if not texts:
            return []
        with self._lock:
            ids = self.tokenizer(
                list(texts), add_special_tokens=not self.has_template, return_attention_mask=False
            )["input_ids"]
        return [self._without_end(row) for row in ids]

    def _without_end(self, ids: list[int]) -> list[int]:
        # Some tokenizers close every text with an end token; nothing continues after one.
        end = self.tokenizer.eos_token_id
        return ids[:-1] if not self.has_template and len(ids) > 1 and ids[-1] == end else ids

    def count(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of plain texts."""
        if not texts:
            return []
        with self._lock:
            ids = self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)
        return [len(row) for row in ids["input_ids"]]

    def decode(self, prompt_ids: Sequence[int], new_ids: Sequence[int]) -> str:
        """Text of `new_ids` as it follows the prompt, without control tokens."""
        context = list(prompt_ids[-_CONTEXT:])
        new = [i for i in new_ids if i not in self._special_ids]
        before, both = self._raw(context), self._raw(context + new)
        return both[len(before) :] if both.startswith(before) else self._raw(new)

    def _raw(self, ids: list[int]) -> str:
        with self._lock:
            return str(
                self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            )


def without_partial(text: str) -> str:
    """The text without the bytes of a character that was cut off at its end."""
    return text.rstrip(_PARTIAL)
