"""Maps a worker over items with a journal: what is recorded is not done again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from agentprm.budget import Usage, add_usage, empty_usage
from agentprm.errors import InputError
from agentprm.scale.base import Executor, LocalExecutor, Outcome, WorkerFactory
from agentprm.scale.journal import Journal

__all__ = ["MapReport", "item_key", "map_items"]


@dataclass(frozen=True)
class MapReport:
    """How a run stands.

    Attributes:
        items: Items of the input.
        known: Those that the journal had from earlier runs.
        failed: Those, of all, whose last attempt failed.
        usage: What all items cost, each recorded attempt counted once, earlier runs included. Its seconds
            add up the items', so with several workers they are more than the clock's.
    """

    items: int
    known: int
    failed: int
    usage: Usage


def item_key(item: Any) -> str:
    """The default key: a digest of the item's JSON.

    Example:
        >>> item_key({"b": 1, "a": 2}) == item_key({"a": 2, "b": 1})
        True

    Raises:
        InputError: The item is not JSON.
    """
    try:
        text = json.dumps(item, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"An item of type {type(item).__name__} has no key of its own: {error}. Pass key="
        ) from error
    return sha256(text.encode()).hexdigest()[:32]


def map_items(
    make_worker: WorkerFactory,
    items: Iterable[Any],
    journal: Journal,
    *,
    executor: Executor | None = None,
    key: Callable[[Any], str] = item_key,
    retry_failed: bool = False,
    on_outcome: Callable[[str, Outcome], None] | None = None,
) -> MapReport:
    """Works on every item that the journal lacks, and records each outcome as soon as it is there.

    Call it again with the same journal after a kill, and it goes on. Results are read from the journal
    (`Journal.entries`), in the order of the items.

    Args:
        make_worker: Makes the function that is applied to an item and returns JSON; see `WorkerFactory`.
        items: The items; taken one by one, and never held all at once.
        journal: Where results are kept.
        executor: Where the work is done; in this thread by default.
        key: Names an item within the run. Two items must not share a name, and an item that changes
            should change its name.
        retry_failed: Whether items that failed in an earlier run are tried again.
        on_outcome: Called with the key and the outcome of each item that this run worked on.

    Returns:
        How the run stands. Failed items are listed by the journal.

    Raises:
        InputError: Two items share a key, or an item has none.
        ConfigurationError: The worker cannot be made.
    """
    names: dict[int, str] = {}  # keys of the items under way, by their number among those worked on
    count = known = 0

    def missing() -> Iterator[Any]:
        nonlocal count, known
        number = 0
        for item in items:
            name = key(item)
            journal.plan(count, name)
            count += 1
            status = journal.status(name)
            if status == "done" or (status == "failed" and not retry_failed):
                known += 1
                continue
            names[number] = name
            number += 1
            yield item
        journal.end_plan(count)

    with closing((executor or LocalExecutor()).stream(make_worker, missing())) as outcomes:
        for outcome in outcomes:
            name = names.pop(outcome.index)
            journal.record(name, outcome)
            if on_outcome is not None:
                on_outcome(name, outcome)
    failed, usage = 0, empty_usage()
    for entry in journal.entries():
        failed += entry.failure is not None
        usage = add_usage(usage, entry.usage)
    return MapReport(count, known, failed, usage)
