"""Splits a text into chunks at the best places: headings, paragraphs, lines, sentences, words, characters."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from agentprm.text import cut, sentence_ends

__all__ = ["Measure", "split_text"]


class Measure(NamedTuple):
    """A second limit on chunks, besides characters: an embedding model's tokens.

    Attributes:
        limit: Most tokens of a chunk.
        starts: Where each token of a text begins, ascending.
    """

    limit: int
    starts: Callable[[str], Sequence[int]]

    def counts(self, texts: Iterable[str]) -> list[int]:
        """Tokens of each text that may have more than the limit; 0 for those that are too short for it."""
        return [len(self.starts(text)) if len(text.encode()) > self.limit else 0 for text in texts]


def split_text(
    text: str, size: int, overlap: int, *, markdown: bool = False, measure: Measure | None = None
) -> list[str]:
    """Chunks of a text, in order, without white space at their ends.

    A chunk ends at the best place in its second half: before a heading of Markdown, else between
    paragraphs, lines, sentences, words, characters, whichever there is. The next one begins at a line,
    sentence or word so that it repeats at most `overlap` characters.

    Args:
        text: Any text.
        size: Most characters of a chunk.
        overlap: Most characters that a chunk repeats of the one before.
        markdown: Whether lines that begin with # are headings.
        measure: A limit in tokens that chunks keep as well.
    """
    if len(text) <= size and measure is None:
        return [text.strip()] if text.strip() else []
    levels = _places(text, markdown)
    tokens = measure.starts(text) if measure else ()
    chunks: list[str] = []
    start, shown = 0, 0
    while True:
        start += len(text[start : start + size]) - len(text[start : start + size].lstrip())
        last = min(len(text), start + size)
        if measure:
            first = bisect_left(tokens, start)
            if first + measure.limit < len(tokens):
                last = min(last, max(start + 1, tokens[first + measure.limit]))
        end = len(text) if last == len(text) else _end(text, levels, max(start, shown), start, last)
        if chunk := text[start:end].strip():
            chunks.append(chunk)
        if end >= len(text):
            return chunks
        shown = end
        start = _begin(text, levels, max(start + 1, end - overlap), end) if overlap else end


def _places(text: str, markdown: bool) -> list[list[int]]:
    """Where headings, paragraphs and lines begin, and sentences end."""
    headings, paragraphs, lines = [], [], []
    place, after_blank, fence = 0, False, ""
    for line in text.splitlines(keepends=True):
        bare = line.strip()
        if markdown:
            if bare[:3] in ("```", "~~~"):
                fence = "" if fence == bare[:3] else fence or bare[:3]
            if bare.startswith("#") and not fence:
                headings.append(place)
        lines.append(place)
        if after_blank and bare:
            paragraphs.append(place)
        after_blank = not bare
        place += len(line)
    return [headings, paragraphs, lines, sentence_ends(text)]


def _end(text: str, levels: list[list[int]], shown: int, start: int, last: int) -> int:
    """Best end in (shown, last] of a chunk that begins at `start`."""
    least = max(shown + 1, start + (last - start) // 2)
    for places in levels:
        found = bisect_right(places, last) - 1
        if found >= 0 and places[found] >= least:
            return places[found]
    kept = start + len(cut(text[start : last + 64], last - start))
    return kept if kept > shown else last


def _begin(text: str, levels: list[list[int]], earliest: int, end: int) -> int:
    """Where the chunk after one that ended at `end` begins: at most `end`, at least `earliest`."""
    for places in levels[2:]:
        found = bisect_left(places, earliest)
        if found < len(places) and places[found] < end:
            return places[found]
    blank = text.find(" ", earliest, end)
    return blank + 1 if blank >= 0 else end
