"""`agentprm trace`: the search tree of a run, drawn again."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from agentprm.cli.console import show
from agentprm.cli.options import add_command

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "trace",
        run,
        "draw the search tree of a run",
        "Draws a trace that 'agentprm ask --trace' wrote.",
        "agentprm trace run.json\n  agentprm trace run.json --mermaid > tree.mmd",
    )
    command.add_argument("file", metavar="FILE", help="the trace")
    command.add_argument("--full", action="store_true", help="show long texts whole")
    command.add_argument("--mermaid", action="store_true", help="print Mermaid text instead")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from agentprm.trace import answer_panel, load_trace, search_tree, sources_table, to_mermaid

    trace = load_trace(args.file)
    if args.mermaid:
        sys.stdout.write(to_mermaid(trace))
        return 0
    tree = search_tree(trace, full=args.full)
    for view in (tree, answer_panel(trace), sources_table(trace, full=args.full)):
        show(view)
    return 0
