"""Reading the label that a model wrote when it was asked to choose between two."""

from __future__ import annotations

import re

from agentprm.replies import without_thought

__all__ = ["parse_label"]

# Before the label: markup and "The answer is:". After it: markup, then the end of the line or a reason.
# The bound keeps the time linear: without it "answer****…" is tried in every way of cutting it up.
_MARK = r"[\s*_#`\"'\u2018\u2019\u201c\u201d()\[\]{}<>.!-]{0,20}"
_LEAD = (
    rf"{_MARK}(?:(?:the|my)\s+)?(?:final\s+)?"
    rf"(?:(?:answer|output|verdict|choice|decision){_MARK}(?:is\b)?:?{_MARK})?"
)
_TAIL = rf"(?:{_MARK}(?:\n|$)|\s+(?:is|answers)\s+(?:the\s+)?(?:more|better|best)\b)"


def parse_label(text: str, labels: tuple[str, str]) -> int | None:
    """Which of two labels a model chose: 0, 1, or `None` if that is not beyond doubt.

    The answer must begin with the label (after markup or "The answer is:") and be over then, or go on
    with "is more", "is better", "answers better" and the like. The last word of a label ("A") may
    stand alone, in its own case. Text that names both labels, that quotes one, repeats the prompt's
    "Passage A: ..." or begins with the article "A" decides nothing.

    Args:
        text: What the model wrote.
        labels: The two labels, for instance `("Passage A", "Passage B")`.
    """
    text = without_thought(text).strip()
    if all(_mentions(label, text) for label in labels):
        return None
    found = [i for i, label in enumerate(labels) if _chosen(label, text)]
    return found[0] if len(found) == 1 else None


def _mentions(label: str, text: str) -> bool:
    """Whether the label occurs anywhere, even with letters stuck to it."""
    head, last = _words(label)
    return re.search(rf"(?<!\w){head}(?:{last}|(?i:{last})(?!\w))", text) is not None


def _chosen(label: str, text: str) -> bool:
    """Whether the text begins with the whole label, or is its last word alone."""
    head, last = _words(label)
    return (
        re.match(rf"(?i:{_LEAD}){head}{last}(?i:{_TAIL})", text) is not None
        or re.fullmatch(rf"(?i:{_LEAD}){last}{_MARK}", text) is not None
    )


def _words(label: str) -> tuple[str, str]:
    """Patterns of a label's words but the last, in any case, and of the last in its own."""
    *head, last = label.split()
    return "".join(rf"(?i:{re.escape(word)})\s+" for word in head), re.escape(last)
