"""Traces as one HTML page that needs nothing else: no network, no server, no library."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from typing import Any

from agentprm.text import sentence_ends, terms
from agentprm.trace.schema import Trace, answer_path

__all__ = ["Page", "to_html"]

_PLACE = "/*DATA*/"
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
    data = json.dumps([_shown(trace) for trace in traces], ensure_ascii=True, allow_nan=False)
    page = files("agentprm.trace").joinpath("viewer.html").read_text(encoding="utf-8")
    return Page(page.replace(_PLACE, data.translate(_ESCAPES), 1))


def _shown(trace: Trace) -> dict[str, Any]:
    """The trace with what the page would otherwise have to work out in a second language."""
    texts = {document["id"]: document["text"] for document in trace["documents"]}
    marks: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for step in trace["steps"]:
        said = f"{step['query']} {step['thought']}"
        found = {key: _used(texts[key], said) for key in step.get("cited_ids", []) if key in texts}
        if found:
            marks[step["id"]] = found
    return {**trace, "path": [step["id"] for step in answer_path(trace["steps"])], "marks": marks}


def _used(passage: str, said: str) -> list[tuple[int, int]]:
    """The sentence of a cited passage that has most words of the step, as places in UTF-16 (JavaScript's)."""
    wanted = set(terms(said))
    ends = [*sentence_ends(passage), len(passage)]
    spans = [(begin, end) for begin, end in zip([0, *ends], ends, strict=False) if passage[begin:end].strip()]
    shared = [len(wanted.intersection(terms(passage[begin:end]))) for begin, end in spans]
    if not any(shared):
        return []
    begin, end = spans[shared.index(max(shared))]
    begin += len(passage[begin:end]) - len(passage[begin:end].lstrip())

    def units(place: int) -> int:
        return len(passage[:place].encode("utf-16-le", errors="surrogatepass")) // 2

    return [(units(begin), units(end))]
