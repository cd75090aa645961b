"""What is left of a question without its names and numbers: what questions of one kind have in common."""

from __future__ import annotations

import re

from agentprm.text import one_line

__all__ = ["question_template"]

_QUOTED = re.compile('["\u201c\u00ab\u201e]([^"\u201d\u00bb\u201c]{1,200})["\u201d\u00bb\u201c]')
_NUMBER = re.compile(r"\b\d[\d.,:/-]*\b|\b\d+(?:st|nd|rd|th)\b")
_CAPITALISED = "[A-Z\u00c0-\u00d6\u00d8-\u00de][\\w'\u2019.&-]*"
_NAME = re.compile(rf"\b{_CAPITALISED}(?:\s+(?:(?:of|the|de|la|von|van|and)\s+){{0,2}}{_CAPITALISED})*")
_POSSESSIVE = re.compile("['\u2019]s$")
_FIRST_WORDS = """
a an and are as at by did do does during for from had has have how if in is it of on the to was were what when
where which who whom whose why with
"""
_FIRST = frozenset(_FIRST_WORDS.split())


def question_template(question: str) -> str:
    """The question with a gap for each quotation, name and number in it.

    Names are told by their capitals, so that in scripts without any the question stays as it is.

    Example:
        >>> question_template('Where was the director of "Up" and Lost River born in 1950?')
        'Where was the director of _ and _ born in _?'
    """

    def gap(match: re.Match[str]) -> str:
        name = match[0].rstrip(".'&-\u2019")
        rest = match[0][len(name) :]
        head, blank, tail = name.partition(" ")
        if match.start() == 0 and head.casefold() in _FIRST:
            # The first word has a capital anyway; a name may follow it.
            return head + blank + _NAME.sub("_", tail) + rest
        return "_" + ("'s" if _POSSESSIVE.search(name) else "") + rest

    text = _QUOTED.sub("_", one_line(question))
    return _NUMBER.sub("_", _NAME.sub(gap, text))
