"""What is learned about a model from its replies: the settings it refuses, and whether it thinks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from agentprm.replies import answer_span, begins_thinking

__all__ = ["Learned"]


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

    def unanswered(self, text: str, *, cut_off: bool) -> bool:
        """Whether all tokens of a reply went into thinking."""
        start, end = answer_span(text)
        return self.thinks and cut_off and not text[start:end].strip()
