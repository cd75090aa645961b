"""What of a model's reply is its answer: thinking is left out.

Models that reason write their thoughts first, between tags of their family. Where the chat template
has written the opening tag, the reply holds the closing one alone. Nothing of a thought is ever an
answer, and a thought that never ends is followed by none.
"""

from __future__ import annotations

import re

__all__ = [
    "answer_span",
    "begins_thinking",
    "continued",
    "inert",
    "is_tag",
    "opened_thought",
    "without_thought",
]

_NAME = r"(?:seed:)?(?:think|thinking|thought|thoughts|reasoning|reason)"
# <think>, [THINK] (Mistral), the same in special brackets (Kimi), <|START_THINKING|> (Cohere), and
# the channels of gpt-oss: all that stands before the final channel is thought.
_OPEN = re.compile(
    rf"<{_NAME}>|\[THINK\]|\u25c1think\u25b7|<\|START_THINKING\|>|<\|channel\|>(?:analysis|commentary)\b",
    re.IGNORECASE,
)
_CLOSE = re.compile(
    rf"</{_NAME}>|\[/THINK\]|\u25c1/think\u25b7|<\|END_THINKING\|>|<\|channel\|>final<\|message\|>",
    re.IGNORECASE,
)
_LEADING = re.compile(rf"\s*(?:{_OPEN.pattern})", re.IGNORECASE)
_AT_LINE = re.compile(rf"^[ \t]*(?:{_OPEN.pattern})", re.IGNORECASE | re.MULTILINE)
_ENDING = re.compile(rf"(?:{_OPEN.pattern})\s*\Z", re.IGNORECASE)


def answer_span(text: str) -> tuple[int, int]:
    """Where the answer stands in a reply: its start and end, equal if there is none.

    The answer begins after the last closing tag. A thought that opens there and never ends leaves
    none; an opening tag in the middle of a line is a word like any other.
    """
    start = max((match.end() for match in _CLOSE.finditer(text)), default=0)
    opened = _opening(text, start)
    end = len(text) if opened is None else opened
    return start, max(start, end)


def without_thought(text: str) -> str:
    """The answer in a model's reply, without the thinking before it; empty if it never came to one."""
    start, end = answer_span(text)
    return text[start:end].lstrip() if start else text[:end]


def begins_thinking(text: str) -> bool:
    """Whether a reply begins with the opening tag of a thought."""
    return _LEADING.match(text) is not None


def is_tag(text: str) -> bool:
    """Whether this is a tag of thinking, and nothing else."""
    return bool(_OPEN.fullmatch(text) or _CLOSE.fullmatch(text))


def opened_thought(rendered: str) -> str:
    """The tag with which a rendered prompt leaves a thought open at its end; empty if it does not."""
    found = _ENDING.search(rendered[-200:])
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
    if not closing or thinking or answer_span(prefix)[0] or not (prefix or answering):
        return rendered + prefix
    return f"{rendered.rstrip()}\n\n{closing}\n\n{prefix}"


def inert(text: str) -> str:
    """The text with the tags of thinking pulled apart, so that what is quoted can end no thought."""
    for pattern in (_OPEN, _CLOSE):
        text = pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
    return text


def _closing(tag: str) -> str:
    """The closing tag of an opening one; empty for a channel, which ends with the message."""
    if "channel" in tag:
        return ""
    return tag.replace("START", "END") if "START" in tag else f"{tag[0]}/{tag[1:]}"


def _opening(text: str, start: int) -> int | None:
    """Where a line of `text` begins with an opening tag, from `start` on."""
    found = _LEADING.match(text, start) or _AT_LINE.search(text, start)
    return found.start() if found else None
