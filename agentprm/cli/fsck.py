"""`agentprm fsck`: checks an index, and goes back to its last whole state."""

from __future__ import annotations

import argparse
from typing import Any

from agentprm.cli.console import error_console, say, show, tell
from agentprm.cli.options import add_command

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "fsck",
        run,
        "check an index",
        "Verifies all checksums of an index and that its files agree with each other. An index keeps the "
        "state before its last change, to which --rollback returns when the current one is damaged.",
        "agentprm fsck my-index\n  agentprm fsck my-index --rollback",
    )
    command.add_argument("index", metavar="INDEX", help="folder that 'agentprm index' wrote")
    command.add_argument(
        "--rollback", action="store_true", help="if it is damaged, make its newest whole state current"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from agentprm.retrievers import fsck, roll_back

    progress = error_console()
    report = fsck(args.index)
    for problem in report.problems:
        tell(progress, problem)
    if report.clean:
        for name in report.leftovers:
            tell(progress, f"{name}: left by a writer that died; the next change removes it")
        show(f"{args.index} is whole: {report.documents:,} passages.")
        return 0
    if args.rollback:
        show(f"{args.index} is back at its last whole state: {roll_back(args.index):,} passages.")
        return 0
    return say(f"{args.index} is damaged; agentprm fsck --rollback goes back to its last whole state.", 1)
