"""Tables: does a step say what the cell says?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from agentprm.errors import ConfigurationError
from agentprm.rewards.base import Trajectory
from agentprm.rewards.checkers.base import CheckResult
from agentprm.text import words

__all__ = ["TableChecker"]

TableRow = Mapping[str, str | int | float]

_NUMBER = re.compile(r"(?<![\w.,])[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\w)|(?<![\w.])[-+]?\d+(?:\.\d+)?(?!\w)")
_RULE = re.compile(r"^\|?\s*:?-{2,}.*$")
_MOST_ROWS = 10_000


class TableChecker:
    """Looks up the cell that a step speaks of (TaTToo's lookup).

    The row is the one whose key the step names, the column the one whose name it names, in the
    sub-question or in the finding. A finding that holds the cell is supported. It is refuted if exactly
    one cell is meant and the finding holds another number, or another value of the same column, instead.

    Args:
        rows: The table, a mapping from column to cell a row; by default the tables among the step's own
            passages, in Markdown (`| a | b |`) or as `Table: a: 1; b: 2 | a: 3; b: 4`.
        key: The column whose cells name the rows; by default the first.

    Raises:
        ConfigurationError: If a row lacks the key column.
    """

    name = "table"

    def __init__(self, rows: Sequence[TableRow] | None = None, *, key: str | None = None) -> None:
        texts = [{str(column): str(cell) for column, cell in row.items()} for row in rows or ()]
        self._tables = None if rows is None else [texts]
        self._key = key
        if rows is not None and key is not None and not all(key in row for row in rows):
            raise ConfigurationError(f"Every row needs the key column {key!r}.")

    def check(self, question: str, prefix: Trajectory) -> CheckResult:
        """See `Checker.check`."""
        step = prefix[-1]
        tables = self._tables
        if tables is None:
            tables = [table for passage in step["passages"] for table in read_tables(passage)]
        results = [
            result
            for table in tables
            if (result := self._look_up(table, step["query"], step["thought"])) is not None
        ]
        # Tables contradict each other seldom; the first that has something to say is heard.
        return results[0] if results else CheckResult("unknown", "no cell is named", self.name)

    def _look_up(self, table: list[dict[str, str]], query: str, finding: str) -> CheckResult | None:
        if not table:
            return None
        columns = list(table[0])
        key = self._key if self._key in columns else columns[0]
        said = _plain(f"{query} {finding}")
        names = _longest([row[key] for row in table if row.get(key)], said)
        named = _longest([column for column in columns if column != key], said)
        cells = [
            (row[key], column, row[column])
            for row in table
            for column in named
            if row.get(key) in names and row.get(column, "").strip()
        ]
        if not cells:
            return None
        evidence = "; ".join(f"{column} of {name} is {cell}" for name, column, cell in cells)
        # Numbers of the question, the row and the column are no findings.
        known = {*_numbers(query), *(n for name, column, _ in cells for n in _numbers(f"{name} {column}"))}
        numbers = [n for n in _numbers(finding) if n not in known]
        held = [_holds(finding, numbers, cell) for _, _, cell in cells]
        if all(held):
            return CheckResult("supported", evidence, self.name)
        if len(cells) > 1 or any(held):
            return CheckResult("unknown", evidence, self.name)
        _, column, cell = cells[0]
        if _number(cell) is not None:
            other = bool(numbers)
        else:
            others = {row.get(column, "") for row in table} - {cell, ""}
            other = bool(_longest(sorted(others), _plain(finding)))
        return CheckResult("refuted" if other else "unknown", evidence, self.name)


def read_tables(text: str) -> Iterator[list[dict[str, str]]]:
    """The tables in a text, each as rows from column to cell."""
    lines: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        stripped = line.strip()
        if stripped.startswith("|") and stripped.count("|") > 1:
            if not _RULE.match(stripped):
                lines.append([cell.strip() for cell in stripped.strip("|").split("|")])
            continue
        if len(lines) > 1:
            yield [dict(zip(lines[0], cells, strict=False)) for cells in lines[1:_MOST_ROWS]]
        lines = []
        _, mark, listed = stripped.partition("Table: ")
        if mark:
            rows = [
                dict(cell.split(": ", 1) for cell in row.split("; ") if ": " in cell)
                for row in listed.split(" | ")[:_MOST_ROWS]
            ]
            if all(rows) and len({tuple(row) for row in rows}) == 1:
                yield rows


def _plain(text: str) -> str:
    return " " + " ".join(word.text.casefold() for word in words(text)) + " "


def _longest(names: Sequence[str], said: str) -> set[str]:
    """The names that occur as whole words; one inside another that occurs does not count."""
    found = {name: plain for name in names if (plain := _plain(name)).strip() and plain in said}
    return {
        name
        for name, plain in found.items()
        if not any(plain != other and plain in other for other in found.values())
    }


def _number(text: str) -> float | None:
    match = _NUMBER.search(text)
    bare = text.strip().strip("$€£%").strip()
    return float(match.group().replace(",", "")) if match and match.group() == bare else None


def _numbers(text: str) -> list[float]:
    return [float(match.replace(",", "")) for match in _NUMBER.findall(text)]


def _holds(finding: str, numbers: Sequence[float], cell: str) -> bool:
    value = _number(cell)
    if value is not None:
        return value in numbers
    return _plain(cell) in _plain(finding)
