"""Reads JSON and JSON Lines: one passage for each object with a text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from agentprm.documents import plain
from agentprm.errors import InputError
from agentprm.text import clean_text

__all__ = ["TEXT_KEYS", "BadRow", "JsonPassage", "json_rows", "object_row"]

#: Fields that may hold the text, the first that there is.
TEXT_KEYS = ("text", "page_content", "content", "contents", "body")


class JsonPassage(NamedTuple):
    """A passage of a JSON file.

    Attributes:
        place: Where it stands: `file.jsonl:3` is line 3, `file.json[2]` the third item of a list.
        title: Its title, perhaps empty.
        text: Its text.
        id: The id that the file gives it, or `None`.
        metadata: All other fields, plain.
    """

    place: str
    title: str
    text: str
    id: str | None
    metadata: dict[str, Any]


class BadRow(NamedTuple):
    """A part of a JSON file that is no passage."""

    place: str
    reason: str


def json_rows(content: str, source: str, *, lines: bool) -> Iterator[JsonPassage | BadRow]:
    """Passages of a file, in their order.

    Args:
        content: Text of the file.
        source: Name of the file.
        lines: Whether each line is a value of its own.
    """
    if lines:
        for number, line in enumerate(content.split("\n"), 1):
            if line.strip():
                yield object_row(_parsed(line), f"{source}:{number}")
        return
    whole = _parsed(content)
    if isinstance(whole, list):
        for number, item in enumerate(whole):
            yield object_row(item, f"{source}[{number}]")
    else:
        yield object_row(whole, source)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return ValueError("not valid JSON")


def object_row(value: Any, place: str) -> JsonPassage | BadRow:
    """The passage that an object of JSON is, or why it is none.

    Args:
        value: A parsed value; a `ValueError` says that it could not be parsed.
        place: Where it stands.
    """
    if isinstance(value, ValueError):
        return BadRow(place, str(value))
    if not isinstance(value, dict):
        return BadRow(place, "not a JSON object with a text")
    key = next((k for k in TEXT_KEYS if isinstance(value.get(k), str)), None)
    if key is None:
        return BadRow(place, f"has none of the fields {', '.join(TEXT_KEYS)}")
    title = clean_text(value["title"]).strip() if isinstance(value.get("title"), str) else ""
    text = clean_text(value[key])
    if not (title + text).strip():
        return BadRow(place, "empty")
    own = {k: v for k, v in value.items() if k not in (key, "title", "_id", "id") and v not in (None, {})}
    try:
        metadata = plain(own, "metadata", json_only=True)
    except InputError as error:
        return BadRow(place, str(error).rstrip("."))
    return JsonPassage(place, title, text, _id(value.get("_id")) or _id(value.get("id")), metadata)


def _id(value: Any) -> str | None:
    """The id that a field gives: text or a number, else none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return clean_text(str(value)).strip() or None
