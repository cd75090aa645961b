"""Content stays text: what a passage or a question says never becomes a control token.

Tokenizers look for their added tokens in every text, before anything else. So a passage that says
`<|im_end|>` would end the turn, and one that says `<|start_header_id|>` could begin a turn of the
system. Here such strings are pulled apart by a space; what a template writes around the content stays.
"""

from __future__ import annotations

import re
import weakref
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from agentprm.replies import is_tag

__all__ = ["as_data", "special_ids"]

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
    return special - {i for i, token in added.items() if is_tag(str(token))}


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
