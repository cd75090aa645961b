"""Ends a build whose pages would load anything from elsewhere: they are read without a network, too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

__all__ = ["foreign", "on_post_build"]

_ELSEWHERE = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
_CSS = re.compile(r"""url\(\s*["']?([^"')]+)|@import\s*["']([^"']+)""", re.IGNORECASE)
# What a browser fetches by itself; links to be clicked are free.
_LOADED = ("src", "srcset", "poster", "data", "background", "xlink:href")


def on_post_build(config: Any, **_: Any) -> None:
    """Reads what was written; MkDocs calls this.

    Raises:
        ValueError: If a page or style sheet loads something from elsewhere.
    """
    site = Path(config["site_dir"])
    found = [
        f"{path.relative_to(site)}: {url}"
        for path in sorted(site.rglob("*"))
        if path.suffix in (".html", ".css", ".svg")
        for url in foreign(path.read_text(encoding="utf-8"), css=path.suffix == ".css")
    ]
    if found:
        raise ValueError("The site would load from elsewhere:\n" + "\n".join(found))


def foreign(text: str, *, css: bool = False) -> list[str]:
    """What a page, or a style sheet, has a browser load from elsewhere."""
    return [url for url in (_of_style(text) if css else _of_page(text)) if _ELSEWHERE.match(url)]


def _of_style(text: str) -> Iterator[str]:
    for url, imported in _CSS.findall(text):
        yield url or imported


def _of_page(text: str) -> list[str]:
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return reader.urls


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.urls: list[str] = []
        self._style = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._style = tag == "style"
        for name, value in attributes:
            if name in _LOADED or (name == "href" and tag in ("link", "use", "image")):
                self.urls += re.split(r",\s+", value or "") if name == "srcset" else [value or ""]
            elif name == "style":
                self.urls += _of_style(value or "")
            elif name == "class" and "mermaid" in (value or "").split():
                self.urls.append("https://unpkg.com (the theme's way to draw Mermaid)")

    def handle_data(self, data: str) -> None:
        if self._style:
            self.urls += _of_style(data)

    def handle_endtag(self, tag: str) -> None:
        self._style = False
