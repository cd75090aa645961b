"""The text of a web page as a reader sees it: inline marks join, blocks part, rows of tables stay whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from agentprm.errors import InputError, MissingDependencyError

__all__ = ["HtmlText", "read_html"]

# What a reader does not see as text. <noscript> is not among them: pages forget to close it.
_UNSEEN = frozenset({"script", "style", "template", "svg", "math", "iframe", "object", "select"})
_PARAGRAPH_LIST = """
p h1 h2 h3 h4 h5 h6 ul ol dl table pre blockquote figure section article header footer main hr
"""
_PARAGRAPHS = frozenset(_PARAGRAPH_LIST.split())
_LINE_LIST = """
div li dt dd tr td th br caption figcaption address aside nav form fieldset legend details summary
body html center noscript textarea
"""
_LINES = frozenset(_LINE_LIST.split())
# A page has some dozens of levels. Closing tags that match nothing search all that are open.
_DEEPEST = 2000
_PIECE = 1 << 16


class HtmlText(NamedTuple):
    """A web page.

    Attributes:
        title: Its `<title>`, or its first `<h1>`; empty without both.
        text: Its visible text.
    """

    title: str
    text: str


def read_html(content: str) -> HtmlText:
    """Title and text of a page; what browsers forgive is forgiven.

    Args:
        content: The page's HTML.

    Raises:
        InputError: Its elements are nested more than 2,000 deep.
        MissingDependencyError: lxml is not installed.
    """
    try:
        from lxml.etree import HTMLParser, LxmlError
    except ImportError:
        raise MissingDependencyError.for_extra("lxml", "text") from None
    # A parser that reports events builds no tree: HTML's rules let a small page grow into a huge one.
    reader = _PageParser()
    parser = HTMLParser(target=reader, recover=True, huge_tree=True, encoding="utf-8", no_network=True)
    data = content.encode(errors="replace")
    for start in range(0, len(data), _PIECE):
        parser.feed(data[start : start + _PIECE])
        reader.check()
    try:
        parser.close()
    except LxmlError:
        return HtmlText("", "")  # nothing at all, or nothing but comments
    reader.check()
    title = reader.title.text() or reader.heading.text()
    return HtmlText(" ".join(title.split()), reader.finished())


class _Lines:
    """Text in the making; blanks between words and breaks between blocks are written when text follows."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._breaks = 0
        self._blank = False

    def write(self, text: str, *, verbatim: bool = False) -> None:
        text = text.replace("\u00ad", "")  # soft hyphens
        shown = text if verbatim else " ".join(text.split())
        if verbatim and self._breaks:
            shown = shown.removeprefix("\n")
        if not shown:
            self._blank = self._blank or bool(text)
            return
        if self._parts:
            if self._breaks:
                self._parts[-1] = self._parts[-1].rstrip("\n")  # of preformatted text
                self._parts.append("\n" * self._breaks)
            elif self._blank or (text[0].isspace() and not verbatim):
                self._parts.append(" ")
        self._parts.append(shown)
        self._breaks = 0
        self._blank = text[-1].isspace() and not verbatim

    def part(self, breaks: int) -> None:
        """Makes what follows stand on a line of its own, or as a paragraph of its own with 2 breaks."""
        self._breaks = max(self._breaks, breaks)
        self._blank = False

    def ends_in_digit(self) -> bool:
        return bool(self._parts) and not self._breaks and not self._blank and self._parts[-1][-1].isdigit()

    def text(self) -> str:
        return "".join(self._parts).strip("\n").rstrip()


class _PageParser:
    """Receives the events of the parser."""

    def __init__(self) -> None:
        self.title, self.heading = _Lines(), _Lines()
        self._body = _Lines()
        self._open: dict[str, int] = {}  # elements of a name that are open
        self._depth = self._deepest = self._unseen = 0
        self._row: list[_Lines] | None = None
        self._done_heading = False

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._depth += 1
        self._deepest = max(self._deepest, self._depth)
        self._open[tag] = self._open.get(tag, 0) + 1
        self._unseen += tag in _UNSEEN
        self._boundary(tag)
        if self._open.get("table", 0) == 1 and not self._unseen:
            if tag == "tr":
                self._row = []
            elif tag in ("td", "th") and self._row is not None:
                self._row.append(_Lines())
        if tag == "li":
            self._lines().write("- ")
        elif tag == "sup" and self._lines().ends_in_digit():
            self._lines().write("^")  # 10<sup>6</sup> is not 106

    def end(self, tag: str) -> None:
        self._depth -= 1
        self._open[tag] -= 1
        self._unseen -= tag in _UNSEEN
        if tag == "tr" and self._row is not None and self._open.get("table", 0) == 1:
            self._write_row(self._row)
            self._row = None
        self._done_heading |= tag == "h1"
        self._boundary(tag)

    def data(self, text: str) -> None:
        if self._unseen:
            return
        if self._open.get("title"):
            self.title.write(text)
            return
        if self._open.get("h1") and not self._done_heading:
            self.heading.write(text)
        self._lines().write(text, verbatim=bool(self._open.get("pre")))

    def close(self) -> None:
        """Nothing is returned by the parser."""

    def check(self) -> None:
        if self._deepest > _DEEPEST:
            raise InputError(f"The page's elements are nested more than {_DEEPEST} deep.")

    def finished(self) -> str:
        if self._row is not None:
            self._write_row(self._row)
            self._row = None
        return self._body.text()

    def _boundary(self, tag: str) -> None:
        if tag in _PARAGRAPHS:
            self._lines().part(1 if self._open.get("li") and tag in ("ul", "ol", "p") else 2)
        elif tag in _LINES:
            self._lines().part(1)

    def _lines(self) -> _Lines:
        return self._row[-1] if self._row else self._body

    def _write_row(self, row: list[_Lines]) -> None:
        cells = [cell.text() for cell in row]
        if not any(cells):
            return
        # Cells of several lines are the layout of a page, not data.
        layout = len(cells) == 1 or any("\n" in cell for cell in cells)
        self._body.part(1)
        text = "\n".join(filter(None, cells)) if layout else f"| {' | '.join(cells)} |"
        self._body.write(text, verbatim=True)
        self._body.part(1)
