"""`agentprm ask`: an answer from an index, and the search that led to it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentprm.cli import opening
from agentprm.cli.console import check_writable, error_console, say, show, show_json, tell
from agentprm.cli.options import add_command, add_search_options
from agentprm.errors import InputError

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph
    from rich.console import Console

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "ask",
        run,
        "answer a question from an index",
        "Answers a question and shows the search, the answer, its sources and what it cost.",
        'agentprm ask "Where was the director of Vertigo born?" --index my-index\n'
        '  agentprm ask "..." --index my-index --graph rag --model ollama:llama3.2',
    )
    command.add_argument("question", help="the question, in quotes")
    command.add_argument("--index", metavar="INDEX", required=True, help="folder that 'agentprm index' wrote")
    command.add_argument("--trace", metavar="FILE", help="write the whole run as JSON")
    command.add_argument(
        "--experience",
        metavar="FILE",
        help="show how similar questions went, and keep how this one goes, in this file (made if missing)",
    )
    command.add_argument("--json", action="store_true", help="print the whole run as JSON")
    add_search_options(command)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    question = args.question.strip()
    if not question:
        raise InputError('The question is empty; ask for instance: agentprm ask "Who directed Vertigo?"')
    progress = error_console(args.quiet)
    if args.trace:
        check_writable(Path(args.trace))
    from agentprm.trace import answer_panel, save_trace, search_tree, sources_table, trace_of

    graph, settings, _ = opening.open_graph(args, progress)

    def kept(state: dict[str, Any]) -> None:
        if args.trace:  # all along, so that `agentprm view` can follow
            save_trace(trace_of(state, settings), args.trace)

    state = run_streamed(graph, question, progress, kept)
    trace = trace_of(state, settings)
    if args.json:
        show_json(trace)
    else:
        for view in (search_tree(trace), answer_panel(trace), sources_table(trace)):
            show(view)
    if args.trace:
        tell(progress, f"The trace is in {args.trace}.")
    if not trace["answer"]:
        return say(f"No answer was found ({trace['stop_reason'] or 'no reason given'}).", 1)
    return 0


def run_streamed(
    graph: CompiledStateGraph[Any],
    question: str,
    progress: Console,
    seen: Callable[[dict[str, Any]], None] = lambda state: None,
) -> dict[str, Any]:
    """Runs the graph, telling what happens while it happens, and returns the final state.

    Args:
        graph: The graph.
        question: What to ask it.
        progress: Where to tell.
        seen: Called with every state on the way.
    """
    from agentprm.trace.live import event_line

    state: dict[str, Any] = {}
    with progress.status("Searching"):
        for mode, chunk in graph.stream({"question": question}, stream_mode=["custom", "values"]):
            if not isinstance(chunk, dict):
                continue
            if mode == "values":
                state = dict(chunk)
                seen(state)
            elif line := event_line(chunk):
                tell(progress, line)
    return state
