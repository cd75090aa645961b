"""A chat completion that arrives in pieces, as server-sent events."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from agentprm.lm.reports import content_text

__all__ = ["ChatChunks"]

_REASONING = ("reasoning_content", "reasoning", "thinking")


class ChatChunks:
    """Puts the events of one streamed completion together.

    Args:
        hear: Is told the text so far, whole each time it grows.
    """

    def __init__(self, hear: Callable[[str], None]) -> None:
        self._hear = hear
        self._rest = b""
        self._texts: list[str] = []
        self._finish: Any = None
        self._usage: Any = None
        self._error: Any = None
        self._reasoned = self._done = False

    def feed(self, content: bytes) -> None:
        """Takes the next bytes of the stream."""
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in lines:
            kind, _, data = line.decode(errors="replace").strip().partition(":")
            if kind == "data" and data.strip() == "[DONE]":
                self._done = True
            elif kind in ("data", "error"):
                try:
                    event = json.loads(data)
                except (ValueError, RecursionError):
                    event = {"error": {"message": f"an event that is no JSON: {data[:200]!r}", "code": 502}}
                self._take(event if isinstance(event, dict) else {})

    def reply(self) -> dict[str, Any]:
        """The completion as if it had come at once, or the error that ended it."""
        if self._error is None and self._finish is None and not self._done:
            self._error = {"message": "The stream broke off.", "code": 502}
        if self._error is not None:
            return {"error": self._error}
        message = {"role": "assistant", "content": "".join(self._texts), "reasoning": self._reasoned}
        return {"choices": [{"message": message, "finish_reason": self._finish}], "usage": self._usage}

    def _take(self, event: dict[str, Any]) -> None:
        self._error = event.get("error") or self._error
        self._usage = event.get("usage") or self._usage
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return
        self._finish = choice.get("finish_reason") or self._finish
        if str(self._finish).lower() == "error":
            self._error = self._error or {"message": "finish_reason is 'error'", "code": 502}
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return
        self._reasoned = self._reasoned or any(delta.get(key) for key in _REASONING)
        if text := content_text(delta.get("content")):
            self._texts.append(text)
            self._hear("".join(self._texts))
