"""Reads files of each format into rows: text, Markdown, HTML, JSON, CSV, PDF and Word.

What cannot be read, in part or whole, is a `BadRow` that says why; a library that is not installed is such
a reason, so that the other files of a folder are read all the same.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from agentprm.errors import InputError, MissingDependencyError
from agentprm.retrievers.html_text import read_html
from agentprm.retrievers.json_rows import TEXT_KEYS, BadRow, JsonPassage, json_rows, object_row
from agentprm.text import clean_text, cut

__all__ = ["SUFFIXES", "read_file"]

Rows = Iterator[JsonPassage | BadRow]

# Where the title of a Markdown or Word text is looked for, and how long front matter and titles may be.
_HEAD = 1 << 16
_HEAD_BLOCKS = 100
_FRONT = 1 << 13
_TITLE = 300
_CHARSET = re.compile(rb"(?:charset|encoding)\s{0,9}=\s{0,9}[\"']?([\w.:-]{1,40})", re.IGNORECASE)
_COLUMNS = {*TEXT_KEYS, "title", "_id", "id"}
# What a Word file, which is compressed, may unpack to.
_MOST_UNPACKED = 1 << 28


def read_file(file: Path, source: str) -> Rows:
    """The passages of a file before they are split, in order.

    Args:
        file: A file with one of `SUFFIXES`.
        source: Its name in places and messages.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        yield BadRow(source, f"cannot be read ({error.strerror})")
        return
    if not data.strip():
        yield BadRow(source, "empty")
        return
    suffix = file.suffix.lower()
    try:
        if suffix in _BINARY:
            yield from _BINARY[suffix](data, source, file.stem)
        elif (content := _decoded(data, declared=suffix in _DECLARING)) is None:
            yield BadRow(source, "not text in UTF-8 or UTF-16; save it as UTF-8")
        elif content.strip():
            yield from _TEXTUAL[suffix](content, source, file.stem)
        else:
            yield BadRow(source, "empty")
    except (InputError, MissingDependencyError) as error:
        yield BadRow(source, str(error).rstrip("."))


def _decoded(data: bytes, *, declared: bool) -> str | None:
    """The text of a file, or `None` if it is none; older formats may declare another encoding than UTF-8."""
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        found = _CHARSET.search(data, 0, 1024) if declared else None
        try:
            text = data.decode(found.group(1).decode(), errors="replace") if found else "\0"
        except LookupError:
            return None
    return None if "\0" in text else text


def _whole(source: str, title: str, text: str) -> JsonPassage | BadRow:
    if not text.strip():
        return BadRow(source, "holds no text")
    return JsonPassage(source, cut(title, _TITLE), text, None, {})


def _text(content: str, source: str, stem: str) -> Rows:
    yield _whole(source, stem, content)


def _html(content: str, source: str, stem: str) -> Rows:
    page = read_html(content)
    yield _whole(source, page.title or stem, page.text)


def _json(content: str, source: str, stem: str) -> Rows:
    return json_rows(content, source, lines=False)


def _json_lines(content: str, source: str, stem: str) -> Rows:
    return json_rows(content, source, lines=True)


def _markdown(content: str, source: str, stem: str) -> Rows:
    head = content[:_HEAD]
    front, rest = _front_matter(head)
    yield _whole(source, _front_title(front) or _first_heading(rest) or stem, content)


def _front_matter(head: str) -> tuple[str, str]:
    """The YAML between --- lines that a Markdown text begins with, and what comes after it."""
    first, _, rest = head.partition("\n")
    if first.rstrip() != "---":
        return "", head
    place = 0
    for line in rest.splitlines(keepends=True):
        if line.rstrip() in ("---", "..."):
            return rest[:place], rest[place + len(line) :]
        place += len(line)
        if place > _FRONT:
            break
    return "", head


def _front_title(front: str) -> str:
    import yaml

    try:
        data = yaml.safe_load(front)
    except (yaml.YAMLError, ValueError, RecursionError):
        return ""
    title = data.get("title") if isinstance(data, dict) else None
    return " ".join(clean_text(title).split()) if isinstance(title, str) else ""


def _first_heading(text: str) -> str:
    try:
        from markdown_it import MarkdownIt
    except ImportError:
        raise MissingDependencyError.for_extra("markdown-it-py", "text") from None
    parser = MarkdownIt()
    parser.core.ruler.enableOnly(["normalize", "block"])  # inline marks of a whole text are not needed
    tokens = parser.parse(text)
    contents = (after.content for opening, after in pairwise(tokens) if opening.type == "heading_open")
    inline = MarkdownIt()
    for content in islice(filter(None, contents), _HEAD_BLOCKS):
        children = inline.parseInline(content[:500])[0].children or []
        shown = "".join(c.content for c in children if c.type in ("text", "code_inline", "softbreak"))
        if shown.strip():
            return " ".join(shown.split())
    return ""


def _csv(content: str, source: str, stem: str) -> Rows:
    """A passage for each line: its text column, or all of them as `column: value`."""
    header = content.lstrip().partition("\n")[0]
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=max(",;\t|", key=header.count))
    columns: list[str] = []
    try:
        for cells in reader:
            if not columns:
                columns = [name.strip() for name in cells]
            elif any(cell.strip() for cell in cells):
                yield _csv_row(dict(zip(columns, cells, strict=False)), f"{source}:{reader.line_num}")
    except csv.Error as error:
        yield BadRow(f"{source}:{reader.line_num}", f"not CSV from here on ({error})")


def _csv_row(row: dict[str, str], place: str) -> JsonPassage | BadRow:
    # People write columns with capitals; where both forms stand, the plain one counts.
    known = {name.lower(): name for name in row if name.lower() in _COLUMNS}
    known |= {name: name for name in row if name in _COLUMNS}
    told = {name: row[column] for name, column in known.items()}
    if not told.keys().isdisjoint(TEXT_KEYS):
        return object_row({**told, **{k: v for k, v in row.items() if k not in known.values()}}, place)
    text = "\n".join(f"{name}: {value.strip()}" for name, value in row.items() if name and value.strip())
    return object_row({"text": text, "title": told.get("title", ""), "id": told.get("id")}, place)


def _pdf(data: bytes, source: str, stem: str) -> Rows:
    """A passage for each page."""
    try:
        from pypdf import PdfReader
    except ImportError:
        raise MissingDependencyError.for_extra("pypdf", "documents") from None
    try:
        reader = PdfReader(io.BytesIO(data))
        title = (reader.metadata and reader.metadata.title) or stem
        pages = len(reader.pages)
    except Exception as error:  # a damaged file makes it raise whatever its parts raise
        yield BadRow(source, f"not a PDF that can be read ({type(error).__name__}: {error})")
        return
    for number in range(1, pages + 1):
        place = f"{source}:{number}"
        try:
            text = reader.pages[number - 1].extract_text()
        except Exception as error:
            yield BadRow(place, f"this page cannot be read ({type(error).__name__}: {error})")
            continue
        if text.strip():
            yield JsonPassage(
                place, cut(clean_text(str(title)), _TITLE), clean_text(text), None, {"page": number}
            )
        else:
            yield BadRow(place, "this page holds no text; a scan needs text recognition first")


def _docx(data: bytes, source: str, stem: str) -> Rows:
    try:
        import docx
    except ImportError:
        raise MissingDependencyError.for_extra("python-docx", "documents") from None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MOST_UNPACKED:
                yield BadRow(source, "unpacks to more than 256 MiB")
                return
        document = docx.Document(io.BytesIO(data))
        title = document.core_properties.title
        blocks: list[str] = []
        for block in document.iter_inner_content():
            if hasattr(block, "rows"):
                blocks += ["\n".join(_table_line(row) for row in block.rows)]
            elif (text := block.text).strip():
                headed = not title and len(blocks) < _HEAD_BLOCKS and block.style
                if headed and block.style.name.startswith(("Title", "Heading")):
                    title = text.strip()
                blocks.append(text)
    except Exception as error:  # as for PDF
        yield BadRow(source, f"not a Word file that can be read ({type(error).__name__}: {error})")
        return
    yield _whole(source, clean_text(title or stem), clean_text("\n\n".join(blocks)))


def _table_line(row: Any) -> str:
    cells = dict.fromkeys(row.cells)  # a merged cell is given once for each column
    return f"| {' | '.join(' '.join(cell.text.split()) for cell in cells)} |"


_TEXTUAL: dict[str, Callable[[str, str, str], Rows]] = {
    ".txt": _text,
    ".md": _markdown,
    ".markdown": _markdown,
    ".html": _html,
    ".htm": _html,
    ".json": _json,
    ".jsonl": _json_lines,
    ".csv": _csv,
}
_DECLARING = (".html", ".htm")
_BINARY: dict[str, Callable[[bytes, str, str], Rows]] = {".pdf": _pdf, ".docx": _docx}

#: Names that files which can be read end with.
SUFFIXES = (*_TEXTUAL, *_BINARY)
