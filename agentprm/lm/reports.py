"""What model servers and their clients say: refusals, limits, errors in a good reply, counts, content,
log-probabilities. `Learned` remembers what one model was found to do.

Servers word the same thing in many ways. All the wordings that are known stand here.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from agentprm.lm.base import TokenLogprob
from agentprm.replies import answer_span, begins_thinking
from agentprm.text import clean_text

__all__ = [
    "REASONING_FIELDS",
    "SETTING_NAMES",
    "Learned",
    "content_text",
    "error_within",
    "indexed",
    "is_cut_off",
    "refused_settings",
    "said_with",
    "summed",
    "token_count",
    "token_logprobs",
    "token_usage",
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


def token_usage(usage: Any, asked: int, generated: int) -> tuple[int, int, int]:
    """Tokens of the prompt, those of them that were computed, and the generated ones, by a server's report.

    Args:
        usage: The report, if there is one.
        asked: What is known of the prompt here.
        generated: What is known of the reply.
    """
    usage = usage if isinstance(usage, Mapping) else {}
    asked = token_count(usage.get("prompt_tokens"), asked)
    details = usage.get("prompt_tokens_details")
    cached = token_count(details.get("cached_tokens"), 0) if isinstance(details, Mapping) else 0
    return asked, max(0, asked - cached), token_count(usage.get("completion_tokens"), generated)


def indexed(rows: Any) -> list[dict[str, Any]] | None:
    """A reply's choices in their order; `None` if they are no list of objects."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return None
    return sorted(rows, key=lambda row: index if isinstance(index := row.get("index"), int) else 0)


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


def summed(report: Any) -> float | None:
    """Sum of the tokens' log-probabilities, or `None` if the report does not say every one.

    Args:
        report: A list of rows, or an object with them as its `content`.
    """
    values = [_number(row.get("logprob")) for row in _rows(report)]
    known = [value for value in values if value is not None]
    return math.fsum(known) if known and len(known) == len(values) else None


def token_logprobs(report: Any, text: str) -> tuple[TokenLogprob, ...]:
    """The tokens that a text of a reply consists of; none if they cannot be told.

    The report is of all that was generated: thinking and what follows a stop string too.

    Args:
        report: As in `summed`.
        text: What of the reply counts.
    """
    rows = _rows(report)
    pieces = [_bytes(row) for row in rows]
    content = text.encode()
    begin = b"".join(pieces).rfind(content)
    if begin < 0 or not content:
        return ()
    tokens, place, at = [], 0, 0
    for row, piece in zip(rows, pieces, strict=True):
        inside = piece[max(0, begin - place) :]
        if begin - place < len(piece) and place < begin + len(content):
            logprob = _number(row.get("logprob"))
            if logprob is None:
                return ()
            # A token that begins before the text counts as if it began with it.
            tokens.append(TokenLogprob(at, _text(row), logprob, _top(row)))
            at += sum(byte & 0xC0 != 0x80 for byte in inside)  # characters that begin in it
        place += len(piece)
    return tuple(tokens)


def _rows(report: Any) -> list[Mapping[str, Any]]:
    rows = report.get("content") if isinstance(report, Mapping) else report
    if not isinstance(rows, list):
        return []
    rows = [row.model_dump() if isinstance(row, BaseModel) else row for row in rows]
    return rows if all(isinstance(row, Mapping) for row in rows) else []


def _bytes(row: Mapping[str, Any]) -> bytes:
    """A token's bytes, which may be a part of a character."""
    values = row.get("bytes")
    if isinstance(values, list) and all(isinstance(v, int) and 0 <= v < 256 for v in values):
        return bytes(values)
    return _text(row).encode()


def _text(row: Mapping[str, Any]) -> str:
    token = row.get("token")
    return clean_text(token) if isinstance(token, str) else ""


def _top(row: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    listed = row.get("top_logprobs")
    others = [other for other in listed if isinstance(other, Mapping)] if isinstance(listed, list) else []
    found = [(_text(other), _number(other.get("logprob"))) for other in others]
    return tuple((token, logprob) for token, logprob in found if logprob is not None)


def _number(value: Any) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    return float(value) if good and value < math.inf else None


REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
_MOST_STOPS = 4  # that OpenAI's interface takes


class Learned:
    """What one model was found to do; safe to use from threads.

    Attributes:
        refused: Settings that the model does not take, by their names in `reports.SETTING_NAMES`.
        thinks: It thinks before it answers, so that its tokens must suffice for both.
    """

    def __init__(self) -> None:
        self.refused: frozenset[str] = frozenset()
        self.thinks = False
        self._template_opens = False
        self._lock = threading.Lock()

    def refuse(self, settings: Iterable[str]) -> None:
        """Remembers settings that a request succeeded without after it had failed with them."""
        with self._lock:
            self.refused |= frozenset(settings)

    def read(self, text: str, *, cut_off: bool, reasoned: bool) -> str:
        """The text of a reply, with an opening tag where the chat template has swallowed it.

        Args:
            text: What the model wrote.
            cut_off: Its tokens ran out.
            reasoned: The server reports thinking apart from the text.
        """
        start, end = answer_span(text)
        if start and not begins_thinking(text):
            self._template_opens = True
        if start or end < len(text) or reasoned:
            self.thinks = True
        if cut_off and self._template_opens and not start and end == len(text):
            return "<think>" + text  # it never came to the closing tag
        return text

    def heard(self, hear: Callable[[str], None]) -> Callable[[str], None]:
        """Tells `hear` texts under way, with an opening tag where the template is known to swallow it."""
        if not self._template_opens:
            return hear
        return lambda text: hear(text if answer_span(text)[0] else f"<think>{text}")

    def stops(self, stop: Sequence[str], *, led: bool, again: bool = False) -> list[str]:
        """The stop strings to send; a thought may hold them.

        White space ends a reply before it has begun, unless a prefix leads it; some refuse it.
        """
        return [] if self.thinks or again else [s for s in stop if led or s.strip()][:_MOST_STOPS]

    def unanswered(self, text: str, *, cut_off: bool) -> bool:
        """Whether all tokens of a reply went into thinking."""
        start, end = answer_span(text)
        return self.thinks and cut_off and not text[start:end].strip()
