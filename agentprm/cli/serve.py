"""`agentprm serve`: an index for agents, by the Model Context Protocol."""

from __future__ import annotations

import argparse
import socket
from typing import Any

from agentprm.cli import opening
from agentprm.cli.console import error_console, tell
from agentprm.cli.options import add_command, add_search_options, count
from agentprm.errors import InputError

__all__ = ["add"]

_HOST = "127.0.0.1"


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "serve",
        run,
        "offer an index to agents, by MCP",
        "Offers the tools 'search' and 'ask' by the Model Context Protocol: over standard input and output, "
        "as clients start it, or with --http to programs on this machine.",
        "agentprm serve my-index --model ollama:llama3.2\n  agentprm serve my-index --http --port 8000",
    )
    command.add_argument("index", metavar="INDEX", help="folder that 'agentprm index' wrote")
    command.add_argument("--http", action="store_true", help=f"serve http://{_HOST}:PORT/mcp instead")
    command.add_argument("--port", type=count, default=8000, metavar="N", help="port for --http (8000)")
    add_search_options(command)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    progress = error_console(args.quiet)
    if args.http:
        _check_port(args.port)
    from agentprm.integrations.mcp_server import create_mcp_server

    graph, _, store = opening.open_graph(args, progress)
    server = create_mcp_server(graph, store, host=_HOST, port=args.port)
    if args.http:
        tell(
            progress, f"Serving http://{_HOST}:{args.port}/mcp for programs on this machine; Ctrl-C ends it."
        )
    server.run("streamable-http" if args.http else "stdio")
    return 0


def _check_port(port: int) -> None:
    """Refuses a port that is taken before the models are loaded."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except (OSError, OverflowError) as error:
            raise InputError(
                f"Port {port} cannot be used ({error}); give another one with --port."
            ) from error
