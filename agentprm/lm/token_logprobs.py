"""Log-probabilities of a reply's tokens, as OpenAI's chat interface and Ollama report them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from agentprm.lm.base import TokenLogprob
from agentprm.text import clean_text

__all__ = ["summed", "token_logprobs"]


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
