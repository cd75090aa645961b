"""What of a model's reply is its answer, and what it says: thinking is left out.

Models that reason write their thoughts first, between tags of their family. Where the chat template
has written the opening tag, the reply holds the closing one alone. Nothing of a thought is ever an
answer, and a thought that never ends is followed by none.

Only the model's own output is ever parsed, never a passage.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentprm.engine.tokenizing import CLOSING_TAG, OPENING_TAG
from agentprm.text import clean_text, one_line, sentence_ends

if TYPE_CHECKING:
    from agentprm.lm.base import Completion

__all__ = [
    "FAULTS",
    "Critique",
    "Proposal",
    "answer_span",
    "begins_thinking",
    "cut_reply",
    "finished_text",
    "inert",
    "json_object",
    "parse_choice",
    "parse_critique",
    "parse_finding",
    "parse_lines",
    "parse_proposal",
    "short_answer",
    "without_thought",
]

_FIRST = re.compile(r"[<\[\u25c1]")  # what all tags begin with; few texts hold one
_LEADING = re.compile(rf"\s*(?:{OPENING_TAG.pattern})", re.IGNORECASE)
_AT_LINE = re.compile(rf"^[ \t]*(?:{OPENING_TAG.pattern})", re.IGNORECASE | re.MULTILINE)


def answer_span(text: str) -> tuple[int, int]:
    """Where the answer stands in a reply: its start and end, equal if there is none.

    The answer begins after the last closing tag. A thought that opens there and never ends leaves
    none; an opening tag in the middle of a line is a word like any other.
    """
    if not _FIRST.search(text):
        return 0, len(text)
    start = max((match.end() for match in CLOSING_TAG.finditer(text)), default=0)
    opened = _opening(text, start)
    end = len(text) if opened is None else opened
    return start, max(start, end)


def without_thought(text: str) -> str:
    """The answer in a model's reply, without the thinking before it; empty if it never came to one."""
    start, end = answer_span(text)
    return text[start:end].lstrip() if start else text[:end]


_VERB_FIRST = re.compile(
    r"\W*(?:is|are|was|were|am|do|does|did|has|have|had|can|could|would|will|should|shall|may|might|must)\b",
    re.IGNORECASE,
)
_ASKS_WHICH = re.compile(r"\b(?:who|whom|whose|what|which|when|where|why|how)\b", re.IGNORECASE)
_OFFERS = re.compile(r"\bor\b", re.IGNORECASE)
_SAYS_WHETHER = re.compile(r"[\s*_\"'(]*(yes|no)\b[\s*_\"')]*(?:[,.;:!\u2013\u2014-]|$)", re.IGNORECASE)


def short_answer(question: str, reply: str) -> str:
    """The yes or no with which a reply to a question of whether begins; else the reply as it is.

    "No, Everest is not in Peru." becomes "No". A question that offers a choice ("Is it A or B?") or asks
    for a thing ("Who …?") keeps its reply, and so does one in another language than English.
    """
    if _OFFERS.search(question) or not (_VERB_FIRST.match(question) or not _ASKS_WHICH.search(question)):
        return reply
    said = _SAYS_WHETHER.match(reply)
    return said[1] if said else reply


def begins_thinking(text: str) -> bool:
    """Whether a reply begins with the opening tag of a thought."""
    return _LEADING.match(text) is not None


def inert(text: str) -> str:
    """The text with the tags of thinking pulled apart, so that what is quoted can end no thought."""
    if not _FIRST.search(text):
        return text
    for pattern in (OPENING_TAG, CLOSING_TAG):
        text = pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
    return text


def _opening(text: str, start: int) -> int | None:
    """Where a line of `text` begins with an opening tag, from `start` on."""
    found = _LEADING.match(text, start) or _AT_LINE.search(text, start)
    return found.start() if found else None


def cut_reply(text: str, stop: Sequence[str], *, led: bool) -> tuple[str, bool]:
    """The text up to the first stop string of its answer, and whether there was one.

    A stop string ends no thought, and a reply that no prefix leads may begin with blank lines.

    Args:
        text: The reply.
        stop: The stop strings.
        led: The reply continues a prefix.
    """
    if not stop:
        return text, False
    start, end = answer_span(text)
    if not led or start:
        start += len(text[start:end]) - len(text[start:end].lstrip())
    found = [at for at in (text.find(mark, start, end) for mark in stop) if at >= 0]
    return (text[: min(found)], True) if found else (text, False)


@dataclass(frozen=True)
class Proposal:
    """A parsed line of the model: a question to go on with, a conclusion, or a flipped search flag.

    Attributes:
        query: The question; empty for the others.
        final_answer: The conclusion, if it is one.
        retrieve: Whether the question is searched for, rather than answered from what is known.
        flip: The question stays; it is searched for if it was not, and the other way round.
    """

    query: str = ""
    final_answer: str | None = None
    retrieve: bool = True
    flip: bool = False


#: What can be wrong with a step: what it asks, what was found for it, what it made of that.
FAULTS = ("decomposition", "retrieval", "finding")


@dataclass(frozen=True)
class Critique:
    """What an explanation says is wrong with a step.

    Attributes:
        advice: What to do better; empty if there was no usable reply.
        fault: One of `FAULTS`; `None` if the reply names none.
    """

    advice: str
    fault: str | None = None


# A model that was led to write "Search:" may write the label once more, or conclude all the same. Every
# pattern here is linear in its text: possessive, or bounded.
_QUERY = r"(?:\s{1,4}(?:query|question|for))?"


def _labels(words: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """The label that a reply begins with, and one further on.

    Further on in a reply a label counts where a sentence could begin, and not in "I did a search: …".
    """
    first = rf"\W*+(?:next\s{{1,4}})?((?:{words})(?={_QUERY}\W)|final\s{{1,4}}answer){_QUERY}\W*[:\uff1a]"
    later = (
        r"(?:^|[.!?\u2026:;,\u2014\u3002\uff1a)])[\s*_#>`\"'-]{0,8}"
        rf"(?=(?:(?:next\s{{1,4}})?(?:{words}){_QUERY}|final\s{{1,4}}answer)[\s*_`]{{0,8}}[:\uff1a])"
    )
    return re.compile(first, re.IGNORECASE), re.compile(later, re.IGNORECASE | re.MULTILINE)


_SEARCHING = _labels("search")
_RECALLING = _labels("search|recall")
_FLIP = re.compile(r"[\s*_#>`\"'(\[-]{0,20}flip\b[^\n?]{0,80}(?=\n|\Z)", re.IGNORECASE)
_FAULT = re.compile(
    rf"\W{{0,20}}(?:fault|error|family)?\W{{0,8}}({'|'.join(FAULTS)})\b[\W_]{{0,8}}", re.IGNORECASE
)
_ANSWER_LABEL = re.compile(
    r"[\s*_#>`\"']{0,20}(?:final\s{1,4}answer|answer|finding)[\s*_`\"']{0,20}[:\uff1a][\s*_`]{0,20}",
    re.IGNORECASE,
)
_BOXED = re.compile(r"\$?\\boxed\{(?:\\text\{([^{}\n]+)\}|([^{}\n]+))\}\$?\.?")
_FIRST_QUESTION = re.compile(r"[^?\uff1f\u061f]*[?\uff1f\u061f]?")
_MARKS = " \t\"'*`"


def parse_proposal(
    text: str, shown: str = "", *, recall: bool = False, flip: bool = False
) -> Proposal | None:
    """Reads what a model wants to do next; `None` if it says neither `Search:` nor `Final answer:`.

    The first line that is not blank counts. If it has no label, the first label after it where a
    sentence begins does, or a reply in JSON (`agentprm.prompts.proposal_schema`). Thinking is not read.
    Where the text that the model was shown holds a label itself, a later line might be a copy of it, and
    only the first one is read.

    Args:
        text: The reply, after the prompt's prefix if it has one.
        shown: What the model was shown that is not ours: the question, findings and passages.
        recall: `Recall:` is a label too: a question to be answered without a search.
        flip: `Flip` is a reply too.
    """
    labels = _RECALLING if recall else _SEARCHING
    reply = clean_text(without_thought(text)).strip()
    fields = json_object(reply)
    if fields is not None:
        if flip and fields.get("flip") is True:
            return Proposal(flip=True)
        given = {"Search": fields.get("search"), "Recall": recall and fields.get("recall")}
        given["Final answer"] = fields.get("final_answer")
        reply = next((f"{label}: {value}" for label, value in given.items() if value), "")
    found = _proposal(reply, labels[0])
    # A model that was led to search may flip all the same.
    if flip and _FLIP.match(reply if found is None else found.query):
        return Proposal(flip=True)
    if found is None and not labels[1].search(shown):
        later = labels[1].search(reply)
        found = _proposal(reply[later.end() :], labels[0]) if later else None
    return found


def _proposal(reply: str, labels: re.Pattern[str]) -> Proposal | None:
    """The proposal that `reply` begins with."""
    label, at = "", 0
    while not label.startswith("final") and (match := labels.match(reply, at)):
        label, at = match.group(1).lower(), match.end()
    rest = reply[at:].strip().removeprefix("**").lstrip()
    if not label or not re.search(r"\w", rest):
        return None
    if not label.startswith("final"):
        # One question; what a small model babbles after it is not part of it.
        line = rest.splitlines()[0].lstrip(_MARKS)
        query = one_line(_FIRST_QUESTION.match(line)[0]).rstrip("*`")  # type: ignore[index]
        return Proposal(query=query, retrieve=label == "search") if re.search(r"\w", query) else None
    paragraph = re.split(r"\n[ \t]*+\n", rest, maxsplit=1)[0]
    if paragraph.count("```") % 2:  # the label stands in the fence that ends here
        paragraph = paragraph.removesuffix("```").rstrip()
    return Proposal(final_answer=parse_finding(paragraph))


def parse_critique(text: str) -> Critique:
    """Reads what is wrong with a step: `Fault: retrieval. …`, JSON, or a text that names no fault.

    An explanation in words of its own is still one; only a reply without a word in it says nothing.
    """
    reply = clean_text(without_thought(text)).strip()
    fields = json_object(reply)
    if fields is not None:
        fault, advice = fields.get("fault"), fields.get("advice")
        return Critique(
            one_line(advice) if isinstance(advice, str) else "", fault if fault in FAULTS else None
        )
    named = _FAULT.match(reply)
    advice = one_line(reply[named.end() :] if named else reply)
    return Critique(advice if re.search(r"\w", advice) else "", named.group(1).lower() if named else None)


_ITEM = re.compile(r"\s*(?:[-*\u2022]|\(?\d{1,3}[.):])\s+")


def parse_lines(text: str, most: int) -> list[str]:
    """The items of a list in a reply, one a line: without bullets, numbers, quotes and the label `Search:`.

    A reply in JSON may hold them as the list of its only field.

    Args:
        text: The reply.
        most: Most items.
    """
    fields = json_object(text) or {}
    listed = next((value for value in fields.values() if isinstance(value, list)), None)
    reply = clean_text(without_thought(text))
    lines = reply.splitlines() if listed is None else [str(item) for item in listed]
    items = []
    for line in lines:
        bare = _ITEM.sub("", line, count=1)
        label = _SEARCHING[0].match(bare)
        item = _unquoted(one_line(bare[label.end() :] if label else bare))
        if re.search(r"\w", item) and not item.startswith("```"):
            items.append(item)
    return items[:most]


def parse_choice(text: str, words: Sequence[str]) -> tuple[int, int] | None:
    """Which of `words` a reply chooses, and where it stands; `None` if it names none, or several.

    The word that the reply begins with counts, in markup, quotes or behind a label too; else the only one
    that occurs in it.

    Args:
        text: The reply.
        words: Different words, compared without regard to case.
    """
    start, end = answer_span(text)
    either = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    one = re.compile(rf"(?<!\w)(?:{either})(?!\w)", re.IGNORECASE)
    first = re.compile(
        rf"\W*+(?:\w[\w ]{{0,30}}[\s*_`\"']{{0,4}}[:\uff1a]\W{{0,20}})?({either})(?!\w)", re.IGNORECASE
    )
    numbers = {word.casefold(): number for number, word in enumerate(words)}
    if (led := first.match(text, start, end)) is not None:
        return numbers[led[1].casefold()], led.start(1)
    found = {match[0].casefold(): match.start() for match in reversed(list(one.finditer(text, start, end)))}
    if len(found) != 1:
        return None
    ((word, at),) = found.items()
    return numbers[word], at


def parse_finding(text: str) -> str:
    """The answer in a reply, of one line or several; empty if there is none.

    Left out are thinking, a label before it, and quotes, markup, a box or a fence around a line; of a
    reply in JSON its only text is taken.
    """
    reply = clean_text(without_thought(text)).strip()
    reply = _unfenced(reply)
    fields = json_object(reply)
    if fields is not None and len(fields) == 1 and isinstance(value := next(iter(fields.values())), str):
        reply = value.strip()
    label = _ANSWER_LABEL.match(reply)
    lines = [line.rstrip() for line in (reply[label.end() :] if label else reply).strip().splitlines()]
    answer = _unquoted(one_line(lines[0])) if len(lines) == 1 else "\n".join(lines)
    return answer if re.search(r"\w", answer) else ""


def _unfenced(reply: str) -> str:
    """The only line of a code fence, if that is all of the reply; a fence around more is kept."""
    if len(reply) <= 6 or not (reply.startswith("```") and reply.endswith("```")):
        return reply
    head, _, rest = reply[3:-3].partition("\n")
    inner = rest.strip() or head.strip()
    return reply if not inner or "\n" in inner or "`" in inner else inner


def _unquoted(line: str) -> str:
    """`line` without quotes and markup around it; a list of quoted names keeps its own."""
    inner = line.strip(_MARKS)
    if boxed := _BOXED.fullmatch(inner):
        return (boxed[1] or boxed[2]).strip()
    return line if any(mark in inner for mark in set(line) & set('"*`')) else inner


def json_object(reply: str) -> dict[str, Any] | None:
    """The JSON object that a reply consists of, in a code fence or not; `None` if it is none."""
    body = without_thought(reply).strip()
    if body.startswith("```"):
        body = body.removeprefix("```").removeprefix("json").removesuffix("```").strip()
    if not body.startswith("{"):
        return None
    try:
        value = _valid(json.loads(body))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _valid(value: Any) -> Any:
    """A value of JSON whose texts are valid Unicode; an escape may stand for half a surrogate pair."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [_valid(item) for item in value]
    return {_valid(key): _valid(item) for key, item in value.items()} if isinstance(value, dict) else value


def finished_text(completion: Completion) -> str:
    """What of a completion is finished: all of it, or if its tokens ran out its whole sentences.

    A thought that was cut off has no answer after it, so nothing is finished.
    """
    text = without_thought(completion.text)
    if completion.finish_reason == "stop":
        return text
    # A line of a list is whole without a full stop.
    return text[: max([*sentence_ends(text), text.rstrip("\n").rfind("\n"), 0])]
