"""What model servers and their clients say: refusals, limits, errors in a good reply, counts, content.

Servers word the same thing in many ways. All the wordings that are known stand here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentprm.text import clean_text

__all__ = [
    "SETTING_NAMES",
    "content_text",
    "error_within",
    "is_cut_off",
    "refused_settings",
    "said_with",
    "token_count",
    "too_long",
]

#: What each setting is called in requests and in refusals, by OpenAI's name of it.
SETTING_NAMES: dict[str, tuple[str, ...]] = {
    "temperature": ("temperature",),
    "top_p": ("top_p", "topp"),
    "seed": ("seed", "random_seed"),
    "stop": ("stop", "stop_sequences", "stop_sequence", "stopsequences"),
    "max_tokens": (
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "max_new_tokens",
        "max_tokens_to_sample",
        "num_predict",
    ),
    "top_logprobs": ("top_logprobs", "logprobs", "logprob"),
    "schema": ("response_format", "json_schema", "schema", "format", "tool_choice", "tools", "grammar"),
}

_REFUSAL = re.compile(
    r"unsupported|support|unknown|unrecogni[sz]ed|unexpected|permitted|allowed|forbidden|reject|"
    r"only the default|cannot both|can(?:no|')t be|may only|must (?:be|contain|not)|invalid|deprecated|"
    r"extra (?:inputs|fields)|instead|does not (?:accept|take)|only one|not (?:available|implemented|valid)",
    re.IGNORECASE,
)
# A field of the refusal that names what is refused, whatever the words beside it.
_POINTED_AT = re.compile(r'"(?:param|parameter|loc|field)"\s{0,4}:\s{0,4}("[^"]{1,60}"|\[[^\]]{1,200}\])')
_TOO_LONG = re.compile(
    r"context[ _-]{0,2}(?:length|window|size)|maximum model length|exceeds? the (?:available )?context|"
    r"prompt is too long|input is too long|too many (?:input )?tokens|reduce the length|"
    r"(?:input|prompt|context|tokens?)\b[^.\n]{0,80}must be <=|longer than the (?:maximum|model)|"
    r"exceeds? (?:the )?(?:maximum|limit of)[^.\n]{0,40}tokens|string too long",
    re.IGNORECASE,
)
_CUT_OFF = {"length", "max_tokens", "max_output_tokens", "model_length", "incomplete"}
_MOST_TOKENS = 2**31  # of one reply: what a report says beyond is no count


def too_long(said: str) -> bool:
    """Whether a refusal means that the prompt does not fit the model's context."""
    return _TOO_LONG.search(said[:4000]) is not None


def refused_settings(said: str, sent: Iterable[str]) -> set[str]:
    """Which of the settings that were sent a refusal names; none if it is about something else.

    Args:
        said: The refusal.
        sent: Names as in `SETTING_NAMES`.
    """
    said = said[:4000]
    if too_long(said):
        return set()
    if not _REFUSAL.search(said):
        said = " ".join(_POINTED_AT.findall(said))
    words = set(re.findall(r"[a-z_]+", said.lower()))
    words |= {word.strip("_") for word in words}
    found = {name for name in sent if name != "n" and words & set(SETTING_NAMES[name])}
    if "n" in sent and re.search(r"(?<![\w\\])n(?!\w)|(?:one|single) (?:completion )?choice", said):
        found.add("n")
    if "schema" in sent and re.search(r"structured output|json mode|function call", said, re.IGNORECASE):
        found.add("schema")
    return found


def said_with(error: BaseException) -> str:
    """What a client's error says, with the reply that it keeps beside its message, if it keeps one."""
    said, body = str(error), getattr(error, "body", None)
    if not body:
        return said
    try:
        return f"{said} {body if isinstance(body, str) else json.dumps(body)}"
    except (TypeError, ValueError, RecursionError):
        return said


def error_within(reply: Any) -> tuple[str, int | None] | None:
    """An error that arrived as a success: its text, and the status that it names.

    Routers send one instead of the reply, or as the reason why a completion ended.
    """
    if not isinstance(reply, Mapping):
        return None
    choices = reply.get("choices")
    error: Any = reply.get("error")
    if not error and isinstance(choices, Sequence) and not isinstance(choices, str):
        for choice in choices:
            if isinstance(choice, Mapping) and (
                choice.get("error") or str(choice.get("finish_reason")).lower() == "error"
            ):
                # A completion that broke off upstream may succeed the next time.
                error = choice.get("error") or {"message": "finish_reason is 'error'", "code": 502}
                break
    if not error or not isinstance(error, str | Mapping):
        return None
    if isinstance(error, str):
        return error, None
    codes = [error.get(key) for key in ("code", "status", "status_code", "http_code")]
    numbers = [int(c) for c in codes if isinstance(c, int | str) and re.fullmatch(r"[1-5]\d\d", str(c))]
    kind = " ".join(str(error.get(key) or "") for key in ("type", "code")).lower()
    if not numbers and re.search(r"rate_?limit|overloaded|too_many", kind):
        numbers = [429]
    if not numbers and re.search(r"server_error|unavailable|timeout", kind):
        numbers = [503]
    text = str(error.get("message") or error)
    return (f"{text} ({kind.strip()})" if kind.strip() else text), numbers[0] if numbers else None


def token_count(value: Any, default: int) -> int:
    """A count that a server reports, or `default` if that is none."""
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_TOKENS
    return value if good else default


def is_cut_off(reason: Any) -> bool:
    """Whether a finish reason says that the tokens ran out."""
    return str(reason).lower() in _CUT_OFF


def content_text(content: Any) -> str | None:
    """The text of a message's content: a string, or parts of which those of text count.

    JSON may hold half a surrogate pair, as of a model that ends in the middle of a character.

    Returns:
        The text as valid Unicode, `""` for none, or `None` if the content is neither.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return clean_text(content)
    if not isinstance(content, list):
        return None
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping):
            if part.get("type", "text") in ("text", "output_text") and isinstance(part.get("text"), str):
                texts.append(part["text"])
        else:
            return None
    return clean_text("".join(texts))
