"""Traces as one HTML page that needs nothing else: no network, no server, no library."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from itertools import pairwise
from typing import Any, NamedTuple

from agentprm.text import sentence_ends, terms
from agentprm.trace.schema import Trace, answer_path, drawn_steps, guess_warning

__all__ = ["Page", "live_html", "shown", "to_html"]

_PLACE = "/*DATA*/"
# A trace may come from anybody: so much of it is searched for the sentences that were used.
_MOST_MARKS = 1000
_READ = 20_000
# What could end the script element that holds the data, or a line of JavaScript. JSON knows these escapes.
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


class Page(str):
    """A whole HTML page; a notebook shows it in a frame of its own."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        frame = 'style="width:100%;height:640px;border:1px solid #ccc" sandbox="allow-scripts"'
        return f'<iframe {frame} srcdoc="{escape(self)}"></iframe>'


def to_html(*traces: Trace) -> Page:
    r"""A page that shows one trace, or several side by side.

    The tree with scores as colours and values as sizes, the chosen path, every step's query, passages,
    finding, critique and cost, and a timeline; with search, filters, keyboard use, light and dark. The page
    is one file: it loads nothing, its policy forbids connections, and text of models and passages is
    never read as markup.

    Args:
        *traces: What to show, from left to right.

    Returns:
        The page; write it to a file and open that in any browser, or end a notebook's cell with it.

    Example:
        >>> from agentprm.trace import trace_of
        >>> page = to_html(trace_of({"question": "Why <script>?"}))
        >>> "Why <script>?" in page, "Why \\u003cscript\\u003e?" in page
        (False, True)
    """
    data = json.dumps([shown(trace) for trace in traces], ensure_ascii=True, allow_nan=False)
    return Page(_page().replace(_PLACE, data.translate(_ESCAPES), 1))


def live_html(events: str) -> Page:
    """The same page for a search that is still running: it listens to server-sent events.

    Args:
        events: Path of the events on the page's own server, the only one that its policy lets it reach. An
            event `trace` has a JSON list of what `shown` makes of traces; `failed` has a message, the last.
    """
    page = _page().replace(_PLACE, "[]", 1)
    page = page.replace("default-src 'none';", "default-src 'none'; connect-src 'self';", 1)
    return Page(page.replace("<title>", f'<meta name="source" content="{escape(events)}">\n<title>', 1))


def _page() -> str:
    return files("agentprm.trace").joinpath("viewer.html").read_text(encoding="utf-8")


def shown(trace: Trace) -> dict[str, Any]:
    """The trace with what the page would otherwise have to work out in a second language."""
    texts = {document["id"]: document["text"] for document in trace["documents"]}
    marks: dict[str, dict[str, list[tuple[int, int]]]] = {}
    sentences: dict[str, list[_Sentence]] = {}
    left = _MOST_MARKS
    steps = drawn_steps(trace)
    for step in steps:
        wanted = set(terms(f"{step['query']} {step['thought']}"[:_READ]))
        cited = [key for key in dict.fromkeys(step.get("cited_ids", [])) if key in texts][:left]
        left -= len(cited)
        for key in cited:
            if key not in sentences:
                sentences[key] = _sentences(texts[key][:_READ])
            best = max(sentences[key], key=lambda s: len(wanted & s.words), default=None)
            used = best is not None and not wanted.isdisjoint(best.words)
            marks.setdefault(step["id"], {})[key] = [(best.start, best.end)] if best and used else []
    path = [step["id"] for step in answer_path(steps)]
    return {
        **trace,
        "steps": steps,
        "path": path,
        "marks": marks,
        "guess": guess_warning(steps) if trace["answer"] else "",
    }


class _Sentence(NamedTuple):
    """A sentence of a passage: its words, and its place in UTF-16 (JavaScript's)."""

    words: frozenset[str]
    start: int
    end: int


def _sentences(passage: str) -> list[_Sentence]:
    found = []
    start = 0
    for left, right in pairwise([0, *sentence_ends(passage), len(passage)]):
        text = passage[left:right]
        begin, end = start + _units(text) - _units(text.lstrip()), start + _units(text)
        if text.strip():
            found.append(_Sentence(frozenset(terms(text)), begin, end))
        start = end
    return found


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", errors="surrogatepass")) // 2
