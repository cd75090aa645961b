"""Prompts to token ids, token ids to text: templates, boundaries, stop strings, partial characters.

What a passage or a question says never becomes a control token. Tokenizers look for their added tokens in
every text, before anything else. So a passage that says `<|im_end|>` would end the turn, and one that says
`<|start_header_id|>` could begin a turn of the system. `as_data` pulls such strings apart by a space; what a
template writes around the content stays.

Models that reason write their thoughts first, between tags of their family; some templates write the opening
tag themselves. `continued` and `opened_thought` say what that means for a prompt.

`Span` says what of a text is to be scored, `Context` how a prompt is fitted into a model's context.
"""

from __future__ import annotations

import re
import weakref
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agentprm.errors import (
    ConfigurationError,
    ContextLengthError,
    InputError,
    MissingDependencyError,
    check_choice,
)
from agentprm.forking import ForkSafeLock
from agentprm.model_names import model_name

if TYPE_CHECKING:
    from agentprm.lm.base import Prompt

__all__ = [
    "CLOSING_TAG",
    "OPENING_TAG",
    "Context",
    "PromptText",
    "Span",
    "as_data",
    "common_length",
    "continued",
    "load_tokenizer",
    "neutral_messages",
    "opened_thought",
    "plain_turns",
    "span_of",
    "special_ids",
    "without_partial",
]

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


def plain_turns(messages: Sequence[Mapping[str, str]]) -> str:
    """What a model without a chat template continues."""
    turns = "\n\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in messages)
    return f"{turns}\n\nAssistant:\n"


class PromptText:
    """A tokenizer and its chat template, safe to use from threads.

    What a message or a prefix says is data: no control token comes out of it (see `as_data`).

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
            return plain_turns(messages) + prefix

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
            ids: list[list[int]] = self.tokenizer(
                list(texts), add_special_tokens=not self.has_template, return_attention_mask=False
            )["input_ids"]
        if self.has_template:
            return ids
        # Some tokenizers close every text with an end token; nothing continues after one.
        end = self.tokenizer.eos_token_id
        return [row[:-1] if len(row) > 1 and row[-1] == end else row for row in ids]

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


def common_length(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Length of the common beginning."""
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count


def span_of(trunk: Sequence[int], joint: Sequence[int], continuation: str) -> Span:
    """The span of a continuation from the ids of its prompt and of both together.

    Where the boundary falls inside a token, the tokens from there on are scored, given those before.
    """
    start = common_length(trunk, joint)
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
        check_choice("on_overflow", self.on_overflow, "error", "truncate_left")

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

    def fit(self, trunk: Sequence[int], spans: Sequence[Span], new: int = 0) -> tuple[list[int], list[Span]]:
        """A prompt and its spans, all cut as the longest one needs it, `new` more tokens left free.

        Raises:
            ContextLengthError: As in `lost`, or if a scored token would have nothing before it.
        """
        longest = max(len(span.ids) for span in spans) - len(trunk) + new
        lost = self.lost(trunk, longest)
        if lost and any(span.start <= lost + self._head(trunk) for span in spans):
            raise ContextLengthError("A prompt that is cut to nothing cannot be scored; shorten the text.")
        fitted = [Span(tuple(self.cut(span.ids, lost)), span.start - lost) for span in spans]
        return self.cut(trunk, lost), fitted

    def _head(self, ids: Sequence[int]) -> int:
        return 1 if self.bos is not None and ids[0] == self.bos else 0


_TAG_NAME = r"(?:seed:)?(?:think|thinking|thought|thoughts|reasoning|reason)"
#: Begins a thought: <think>, [THINK] (Mistral), the same in special brackets (Kimi), <|START_THINKING|>
#: (Cohere), and the channels of gpt-oss: all that stands before the final channel is thought.
OPENING_TAG = re.compile(
    rf"<{_TAG_NAME}>|\[THINK\]|\u25c1think\u25b7|<\|START_THINKING\|>|<\|channel\|>(?:analysis|commentary)\b",
    re.IGNORECASE,
)
#: Ends one.
CLOSING_TAG = re.compile(
    rf"</{_TAG_NAME}>|\[/THINK\]|\u25c1/think\u25b7|<\|END_THINKING\|>|<\|channel\|>final<\|message\|>",
    re.IGNORECASE,
)
_LEFT_OPEN = re.compile(rf"(?:{OPENING_TAG.pattern})\s*\Z", re.IGNORECASE)


def opened_thought(rendered: str) -> str:
    """The tag with which a rendered prompt leaves a thought open at its end; empty if it does not."""
    found = _LEFT_OPEN.search(rendered[-200:])
    return found.group().rstrip() if found else ""


def continued(rendered: str, prefix: str, *, thinking: bool = False, answering: bool = False) -> str:
    """A rendered prompt and the beginning of the turn that a model goes on with.

    A prefix begins the answer. So where the template leaves a thought open, it is closed before the
    prefix, and before an answer that is only scored; without either the model is left to think.

    Args:
        rendered: The prompt as its template renders it.
        prefix: How the turn begins; it may bring its own thought, finished or not.
        thinking: The prefix belongs to the thought.
        answering: What comes next is an answer even where there is no prefix.
    """
    tag = opened_thought(rendered)
    if tag and prefix.lstrip().lower().startswith(tag.lower()):
        return rendered[: rendered.rindex(tag)] + prefix.lstrip()
    closing = tag and _closing(tag)
    if not closing or thinking or CLOSING_TAG.search(prefix) or not (prefix or answering):
        return rendered + prefix
    return f"{rendered.rstrip()}\n\n{closing}\n\n{prefix}"


def _closing(tag: str) -> str:
    """The closing tag of an opening one; empty for a channel, which ends with the message."""
    if "channel" in tag:
        return ""
    return tag.replace("START", "END") if "START" in tag else f"{tag[0]}/{tag[1:]}"


# What control tokens look like in the known families; a server does not say which ones its model has.
_looks = re.compile(
    r"<[|\uff5c][^\s<>|\uff5c]{1,60}[|\uff5c]>"  # <|im_end|>, <|start_header_id|>, with full-width bars
    r"|\[\|[^\s\[\]|]{1,60}\|\]"  # [|endofturn|]
    r"|</?[A-Za-z0-9]+(?:_[A-Za-z0-9]+)+>"  # <start_of_turn>, <file_sep>, <extra_id_0>, <tool_call>
    r"|</?(?:s|bos|eos|pad|unk|sep|cls|mask|sop|eop|eoh|eoa|eod|think|image|reponame|filename"
    r"|endoftext|unused\d+|reserved\d+|[a-z]{2,8}:(?:bos|eos|pad|think|tool_call|cot_budget_reflect))>"
    r"|<</?SYS>>|>>[A-Z]{4,}<<|\[@[A-Z]+@\]"
    r"|\[/?(?:INST|SYS|SYSTEM_PROMPT|(?:AVAILABLE_)?TOOLS|TOOL_[A-Z]+|IMG(?:_[A-Z]+)?|(?:BEGIN_)?AUDIO|THINK|ARGS"
    r"|CALL_ID|MODEL_SETTINGS|PREFIX|MIDDLE|SUFFIX|CLS|SEP|[gs]?MASK|PAD|UNK|BOS|EOS|control_\d+)\]"
    r"|\]~!?b[\]\[]|\[e~\["
)
# A model writes these in its own turn, and templates look for them there.
_THINKING = re.compile(r"</?(?:\w+:)?think(?:ing)?>|\[/?THINK\]")


def as_data(text: str, tokenizer: Any = None, *, own_turn: bool = False) -> str:
    """The text with every control token pulled apart by a space.

    Of the tokenizer's added tokens all count, with a name or without, except white space, single
    characters and plain words that are not marked as special; further the markers that its chat
    template spells out. Without a tokenizer it is what looks like a control token.

    Args:
        text: A message, a question, a step.
        tokenizer: A Hugging Face tokenizer, or `None` where a server has it.
        own_turn: It is the model's own turn, in which the marks of its thinking stay.
    """
    marks = None if tokenizer is None else _marks(tokenizer)
    pattern = _looks if marks is None else marks.pattern
    while True:
        # Once more until nothing is found, as a mark may begin inside another one.
        apart = pattern.sub(lambda found: _apart(found, own_turn), text)
        if apart == text:
            break
        text = apart
    return _respelled(text, tokenizer, marks, own_turn) if marks is not None and marks.respelled else text


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of the tokens that are no text: the named ones, and those marked as special.

    Tags of thinking stay in the text whatever they are marked as: without them a thought is an answer.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
    tags = {i for i, t in added.items() if OPENING_TAG.fullmatch(str(t)) or CLOSING_TAG.fullmatch(str(t))}
    return special - tags


def _apart(found: re.Match[str], own_turn: bool) -> str:
    if own_turn and _THINKING.fullmatch(found[0]):
        return found[0]
    return f"{found[0][0]} {found[0][1:]}"


@dataclass(frozen=True)
class _Marks:
    """What a tokenizer takes for control tokens.

    Attributes:
        of: The size and the template of the tokenizer, both of which may change.
        pattern: Finds them in a text.
        respelled: Ids of those that the tokenizer looks for in the text as it normalizes it.
    """

    of: tuple[int, Any]
    pattern: re.Pattern[str]
    respelled: dict[int, str]


_known: weakref.WeakKeyDictionary[Any, _Marks] = weakref.WeakKeyDictionary()


def _marks(tokenizer: Any) -> _Marks:
    template = getattr(tokenizer, "chat_template", None)
    marks, now = _known.get(tokenizer), (len(tokenizer), template)
    if marks is None or marks.of != now:
        added = {i: token for i, token in tokenizer.added_tokens_decoder.items() if _is_mark(token)}
        texts = {*map(str, added.values()), *tokenizer.all_special_tokens}
        for some in template.values() if isinstance(template, dict) else [template or ""]:
            texts.update(_looks.findall(some))
        backend = getattr(tokenizer, "backend_tokenizer", None)
        normalizes = getattr(backend, "normalizer", None) is not None
        respelled = {i: str(token) for i, token in added.items() if normalizes and token.normalized}
        _known[tokenizer] = marks = _Marks(now, _one_of(text.strip() for text in texts), respelled)
    return marks


def _is_mark(token: Any) -> bool:
    text = str(token).strip()
    return len(text) > 1 and (token.special or not text.replace(" ", "").isalnum())


def _one_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Finds any of the texts, of some that begin alike the longest."""
    by_first: dict[str, list[str]] = defaultdict(list)
    for text in sorted({text for text in texts if len(text) > 1}, key=len, reverse=True):
        by_first[text[0]].append(re.escape(text[1:]))
    # Thousands of tokens begin with the same few characters; elsewhere none is tried.
    return re.compile("|".join(f"{re.escape(c)}(?:{'|'.join(s)})" for c, s in by_first.items()) or "(?!)")


def _respelled(text: str, tokenizer: Any, marks: _Marks, own_turn: bool) -> str:
    """Pulls apart what only the tokenizer's normalization makes a mark: <TOOL>, or one with a wide <."""
    ids = {i for i, mark in marks.respelled.items() if not (own_turn and _THINKING.fullmatch(mark))}
    while True:
        # Not the tokenizer itself, which would set its options: it is not locked here.
        found = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        apart = text
        for i, (begin, end) in reversed(list(zip(found.ids, found.offsets, strict=True))):
            if i in ids and len(text[begin:end].strip()) > 1:
                cut = end - len(text[begin:end].lstrip()) + 1
                apart = f"{apart[:cut]} {apart[cut:]}"
        if apart == text:
            return text
        text = apart
