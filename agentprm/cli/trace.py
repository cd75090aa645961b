"""`agentprm trace`: the search tree of a run, drawn again."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from agentprm.cli.console import check_writable, show
from agentprm.cli.options import add_command
from agentprm.errors import InputError

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "trace",
        run,
        "draw the search tree of a run",
        "Draws a trace that 'agentprm ask --trace' wrote: in the terminal (show), as one page for any "
        "browser (html; two traces stand side by side), or as Mermaid text for Markdown (mermaid). 'schema' "
        "prints the JSON Schema of such a file.",
        "agentprm trace show run.json\n"
        "  agentprm trace html run.json -o run.html\n"
        "  agentprm trace html before.json after.json -o both.html\n"
        "  agentprm trace mermaid run.json > tree.mmd",
    )
    command.add_argument("view", choices=["show", "html", "mermaid", "schema"], help="how to draw it")
    command.add_argument("files", metavar="FILE", nargs="*", help="the trace; html takes two as well")
    command.add_argument("-o", "--output", metavar="FILE", help="write there instead of standard output")
    command.add_argument("--full", action="store_true", help="show: long texts whole")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from agentprm.trace import (
        answer_panel,
        load_trace,
        search_tree,
        sources_table,
        to_html,
        to_mermaid,
        trace_schema,
    )

    if args.view == "schema":
        if args.files:
            raise InputError("'agentprm trace schema' needs no file.")
        sys.stdout.write(json.dumps(trace_schema(), indent=1) + "\n")
        return 0
    if not args.files:
        raise InputError(f"'agentprm trace {args.view}' needs a trace: give the file.")
    most = 2 if args.view == "html" else 1
    if len(args.files) > most:
        raise InputError(
            f"'agentprm trace {args.view}' draws {most} at a time; {len(args.files)} were given."
        )
    if args.output and args.view == "show":
        raise InputError("'agentprm trace show' draws in the terminal; use html or mermaid with --output.")
    if args.output:
        check_writable(Path(args.output))
    traces = [load_trace(file) for file in args.files]
    if args.view == "show":
        tree = search_tree(traces[0], full=args.full)
        for view in (tree, answer_panel(traces[0]), sources_table(traces[0], full=args.full)):
            show(view)
        return 0
    text = to_html(*traces) if args.view == "html" else to_mermaid(traces[0])
    if args.output:
        Path(args.output).write_text(text, encoding="utf-8", errors="backslashreplace")
    else:
        sys.stdout.write(text)
    return 0
