"""Which functions of agentprm a call goes through: files, calls and depth, in all of its threads."""

from __future__ import annotations

import gc
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import agentprm

ROOT = Path(agentprm.__file__).resolve().parent
_DOCS = Path(__file__).parents[1] / "docs" / "development.md"
# Locks, meters and the checks of settings are no stations: every room has them.
_EVERYWHERE = {"forking.py", "budget.py", "errors.py"}


@dataclass
class Walk:
    """What was gone through.

    Attributes:
        stations: `file: function` in the order in which each was entered first, files relative to the
            package.
        hops: Calls from one file to another.
        depth: Most functions of agentprm inside one another; a thread counts from the deepest one of
            those that it works for.
    """

    stations: list[str] = field(default_factory=list)
    hops: int = 0
    depth: int = 0

    @property
    def files(self) -> list[str]:
        """Files in the order in which they were entered."""
        return list(dict.fromkeys(station.split(":")[0] for station in self.stations))


@contextmanager
def walking() -> Iterator[Walk]:
    """Follows what is called inside the block by this thread and by those that start meanwhile.

    Comprehensions and lambdas count as part of the function that they stand in. A thread that works
    for another one counts from the depth at which that one waits.
    """
    walk = Walk()
    stacks: dict[int, list[str]] = {}
    home = threading.get_ident()
    known = dict.fromkeys(walk.stations)
    files: dict[str, str | None] = {}

    def station(frame: FrameType) -> tuple[str, str] | None:
        name = frame.f_code.co_filename
        if name not in files:
            path = Path(name).resolve() if not name.startswith("<") else Path(name)
            files[name] = _short(path)
        file, function = files[name], frame.f_code.co_name
        return None if file is None or function.startswith("<") else (file, function)

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event not in ("call", "return") or (found := station(frame)) is None:
            return
        me = threading.get_ident()
        stack = stacks.setdefault(me, [])
        if event == "return":
            if stack:
                stack.pop()
            return
        file, function = found
        walk.hops += bool(stack) and stack[-1] != file
        stack.append(file)
        waiting = 0 if me == home else len(stacks.get(home, []))
        walk.depth = max(walk.depth, len(stack) + waiting)
        name = f"{file}: {function}"
        if name not in known:
            known[name] = None
            walk.stations.append(name)

    # What others have left behind is cleared away before, and not on the way.
    gc.collect()
    gc.disable()
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield walk
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        gc.enable()


def _short(path: Path) -> str | None:
    # `agentprm/graphs` and `agentprm/retrievers` are links; both lie beside the package.
    for root in (ROOT, ROOT.parent):
        if path.is_relative_to(root):
            short = path.relative_to(root).as_posix()
            inside = root == ROOT or short.startswith(("graphs/", "retrievers/"))
            return short if inside and short not in _EVERYWHERE else None
    return None


def walk(call: Callable[[], Any]) -> Walk:
    """The walk of one call."""
    with walking() as found:
        call()
    return found


def check(way: str, found: Walk) -> None:
    """Holds a walk to what `docs/development.md` says of it: the stations of its list, and its table.

    Args:
        way: Its name there, in bold above the list and in the first column.
        found: The walk.
    """
    docs = _DOCS.read_text()
    text = re.search(rf"\*\*{re.escape(way)}\*\*.*?```\n(.*?)```", docs, re.DOTALL)
    assert text is not None, way
    listed = [" ".join(line.split()[:2]) for line in text[1].splitlines()]
    assert len(listed) > 10
    met = set(found.stations)
    assert [station for station in listed if station not in met] == []
    assert sorted(listed, key=found.stations.index) == listed
    hold(way, found)


def hold(way: str, found: Walk, column: int = -1) -> None:
    """Holds a walk to numbers of its row in the table of `docs/development.md`.

    Args:
        way: Its name in the first column.
        found: The walk.
        column: Which numbers; the last ones are those of the default.
    """
    row = re.search(rf"^\| {re.escape(way)} \| (.*) \|$", _DOCS.read_text(), re.MULTILINE)
    assert row is not None, way
    files, _, depth = row[1].split("|")[column].split("/")
    assert len(found.files) <= int(files)
    assert found.depth <= int(depth)
