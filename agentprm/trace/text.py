"""Untrusted text for display: what models and passages say must not steer a terminal or a drawing."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from agentprm.text import cut

__all__ = ["cost_line", "counted", "shown_line"]

_JOINERS = "\u200c\u200d"  # Persian, Hindi and families of emoji are spelt with them


def shown_line(text: str, width: int | None = None) -> str:
    r"""`text` on one line, without control and direction characters, clipped at a word.

    Escape sequences lose their control characters and so their power; their visible rest stays.

    Args:
        text: Any text.
        width: Most characters of the result, the ellipsis included; `None` keeps everything.

    Example:
        >>> shown_line("Jules\tVerne \x1b[31mwrote", 15)
        'Jules Verne…'
    """
    spaced = " ".join(text.split())
    # Cc: controls such as escape; Cf: direction overrides and zero-width marks; Cs: half surrogates
    clean = "".join(c for c in spaced if unicodedata.category(c) not in ("Cc", "Cf", "Cs") or c in _JOINERS)
    if width is None or len(clean) <= width:
        return clean
    return cut(clean, max(1, width - 1)).rstrip(" ,;:") + "…"


def counted(count: int, noun: str, plural: str = "") -> str:
    """`count` with thousands marked and the noun in the right number."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def cost_line(usage: Mapping[str, Any], full: bool = False) -> str:
    """A usage in a few words; items that are zero are left out.

    Args:
        usage: A `Usage`, possibly with missing fields.
        full: Name the calls in full, and computed tokens, searches and reward calls as well.
    """

    def amount(*keys: str) -> Any:
        return sum(usage.get(key, 0) for key in keys)

    parts = [
        (amount("model_calls"), counted(amount("model_calls"), "model call" if full else "call")),
        (amount("prompt_tokens"), counted(amount("prompt_tokens", "completion_tokens"), "token")),
    ]
    if full:
        parts += [
            (amount("computed_tokens"), f"{amount('computed_tokens'):,} computed"),
            (amount("read_tokens"), f"{amount('read_tokens'):,} read by readers"),
            (amount("retrievals"), counted(amount("retrievals"), "search", "searches")),
            (amount("reward_calls"), counted(amount("reward_calls"), "reward call")),
        ]
    parts.append((amount("seconds"), f"{amount('seconds'):.1f} s"))
    return ", ".join(text for count, text in parts if count)
