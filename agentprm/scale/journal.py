"""The record of a run: a SQLite file with one row per finished item."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from agentprm.budget import Usage, add_usage
from agentprm.errors import InputError
from agentprm.scale.base import Failure, Outcome

__all__ = ["Entry", "Journal"]

_VERSION = 1
_APPLICATION = 0x61707231  # tells a journal from other SQLite files
_TABLES = """
CREATE TABLE IF NOT EXISTS outcomes (
    run TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, failure TEXT NOT NULL, usage TEXT NOT NULL,
    attempts INTEGER NOT NULL, PRIMARY KEY (run, key)
);
CREATE TABLE IF NOT EXISTS plan (
    run TEXT NOT NULL, position INTEGER NOT NULL, key TEXT NOT NULL, PRIMARY KEY (run, position)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS plan_keys ON plan (run, key);
"""


@dataclass(frozen=True)
class Entry:
    """One finished item.

    Attributes:
        key: Names the item.
        value: Its result, as read from JSON; `None` if it failed.
        failure: Why it failed, or `None`.
        usage: What it cost, failed attempts that were recorded included.
        attempts: How often it was recorded; more than 1 only for items that had failed before.
    """

    key: str
    value: Any
    failure: Failure | None
    usage: Usage
    attempts: int


class Journal:
    """Remembers which items of a run are finished, and with what result.

    A result is committed before the next one is looked at, so a killed run loses at most the items that
    were under way. A success is never replaced: if an item was worked on twice, the first result counts,
    and its cost with it. A later attempt replaces a failure and adds its cost. All values are JSON.

    The file belongs on a disk of the machine that drives the run (SQLite's write-ahead log does not work
    on network file systems). Other processes may read it meanwhile.

    Args:
        path: The file; created if missing.
        run: Name of the run. Rows of other runs in the same file are left alone, so put into it whatever
            changes the results.

    Raises:
        InputError: The file cannot be opened or is no journal.
    """

    def __init__(self, path: str | os.PathLike[str], run: str = "") -> None:
        self._path = Path(path)
        self._run = run
        try:
            self._connection = sqlite3.connect(self._path, isolation_level=None, timeout=30.0)
        except sqlite3.Error as error:
            raise InputError(
                f"The journal {self._path} cannot be opened: {error}. "
                "Give the path of a file in an existing folder that you may write to."
            ) from error
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        run = self._connection.execute
        try:
            mark = run("PRAGMA application_id").fetchone()[0]
            if not mark and not run("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                run("PRAGMA journal_mode = WAL")
                self._connection.executescript(
                    f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id = {_APPLICATION};"
                    f"PRAGMA user_version = {_VERSION}; COMMIT;"
                )
            elif mark != _APPLICATION:
                raise InputError(f"{self._path} is not a journal of agentprm. Choose another file.")
            version = run("PRAGMA user_version").fetchone()[0]
            if version != _VERSION:
                raise InputError(
                    f"The journal {self._path} has format {version}; this release reads format {_VERSION}. "
                    "Choose another file."
                )
            # Survives the death of the process; the death of the machine may cost the last rows, whose
            # items are then done again.
            run("PRAGMA synchronous = NORMAL")
        except sqlite3.DatabaseError as error:
            raise InputError(f"{self._path} is not a journal of agentprm ({error}).") from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def plan(self, position: int, key: str) -> None:
        """Notes which item stands where in the input; `entries` follows this order.

        Raises:
            InputError: An earlier item of the input has the same key.
        """
        twin = self._one(
            "SELECT position FROM plan WHERE run = ? AND key = ? AND position < ?", key, position
        )
        if twin is not None:
            raise InputError(
                f"Items {twin[0]} and {position} have the same key {key!r}. Remove the repetition, or pass a "
                "key that tells them apart."
            )
        if self._one("SELECT key FROM plan WHERE run = ? AND position = ?", position) != (key,):
            self._connection.execute(
                "INSERT OR REPLACE INTO plan VALUES (?, ?, ?)", (self._run, position, key)
            )

    def end_plan(self, count: int) -> None:
        """Says that the input has `count` items; what an earlier, longer input had behind them goes."""
        self._connection.execute("DELETE FROM plan WHERE run = ? AND position >= ?", (self._run, count))

    def status(self, key: str) -> str:
        """`missing`, `done` or `failed`."""
        row = self._one("SELECT failure FROM outcomes WHERE run = ? AND key = ?", key)
        return "missing" if row is None else "failed" if row[0] else "done"

    def record(self, key: str, outcome: Outcome) -> bool:
        """Writes an outcome down, unless the item has a result already.

        A value that is not JSON is recorded as a failure.

        Returns:
            Whether it counts.
        """
        failure = outcome.failure
        try:
            value = json.dumps(None if failure else outcome.value, allow_nan=False)
        except (TypeError, ValueError) as error:
            value = "null"
            failure = Failure(
                type(error).__name__, f"The result is not JSON ({error}); return plain Python values."
            )
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            known = self._one("SELECT failure, usage, attempts FROM outcomes WHERE run = ? AND key = ?", key)
            if known is not None and not known[0]:
                return False
            earlier, attempts = (json.loads(known[1]), known[2]) if known else (None, 0)
            self._connection.execute(
                "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?, ?)",
                (
                    self._run,
                    key,
                    value,
                    json.dumps([failure.kind, failure.message, failure.trace]) if failure else "",
                    json.dumps(add_usage(earlier, outcome.usage)),
                    attempts + 1,
                ),
            )
        return True

    def entries(self) -> Iterator[Entry]:
        """The finished items in the order of the input, read one by one."""
        cursor = self._connection.execute(
            "SELECT key, value, failure, usage, attempts FROM plan JOIN outcomes USING (run, key)"
            " WHERE run = ? ORDER BY position",
            (self._run,),
        )
        for key, value, failure, usage, attempts in cursor:
            failed = Failure(*json.loads(failure)) if failure else None
            yield Entry(key, json.loads(value), failed, cast("Usage", json.loads(usage)), attempts)

    def _one(self, sql: str, *values: object) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._connection.execute(sql, (self._run, *values)).fetchone()
        return row
