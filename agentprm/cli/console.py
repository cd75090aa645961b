"""Where the commands write: results to standard output, the rest to standard error."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentprm.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = ["check_writable", "error_console", "progress_bar", "say", "show", "show_json", "tell"]


def error_console(quiet: bool = False) -> Console:
    """The console for progress and notices, on standard error."""
    try:
        from rich.console import Console
    except ImportError as error:
        raise MissingDependencyError.for_extra("rich", "cli") from error
    return Console(stderr=True, quiet=quiet, highlight=False)


def show(view: Any) -> None:
    """Prints a result on standard output, without reading markup in it."""
    from rich.console import Console

    Console(highlight=False).print(view, markup=False, emoji=False)


def tell(progress: Console, text: str) -> None:
    """Prints one dim line of progress."""
    from agentprm.trace.text import shown_line

    progress.print(shown_line(text), style="dim", markup=False, emoji=False, soft_wrap=True)


def progress_bar(progress: Console, text: str = "{task.description}", **more: Any) -> Progress:
    """A bar with the count and the time left; `more` are further settings of rich's `Progress`."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    left = TimeRemainingColumn(elapsed_when_finished=True)
    return Progress(TextColumn(text), BarColumn(), MofNCompleteColumn(), left, console=progress, **more)


def say(message: str, code: int) -> int:
    """Prints the one sentence of a failure and returns `code`."""
    from agentprm.trace.text import shown_line

    if os.environ.get("AGENTPRM_DEBUG") == "1":
        traceback.print_exc()
    print(f"agentprm: {shown_line(message)}", file=sys.stderr)
    return code


def show_json(value: Any) -> None:
    """Prints a result as JSON."""
    print(json.dumps(value, ensure_ascii=False, indent=1))


def check_writable(path: Path) -> None:
    """Refuses an unusable output path before the long work, not after it."""
    folder = path.absolute().parent
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the path of a file.")
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; make it first or give another path.")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise InputError(f"{path} cannot be written; give a path where you may write.")
