"""`agentprm view`: a trace in the browser, followed while the search runs."""

from __future__ import annotations

import argparse
import webbrowser
from typing import Any

from agentprm.cli.console import error_console, tell
from agentprm.cli.options import add_command
from agentprm.errors import ConfigurationError, MissingDependencyError

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "view",
        run,
        "show a trace in the browser while the search runs",
        "Serves one page to this machine alone. It shows the trace in FILE, and follows a search that writes "
        "it ('agentprm ask --trace FILE'), step by step. Ctrl-C ends it.",
        'agentprm ask "Which river …?" --index my_index --trace run.json &\n  agentprm view run.json',
    )
    command.add_argument("file", metavar="FILE", help="the trace; it need not be there yet")
    command.add_argument("--port", type=int, default=8765, help="of 127.0.0.1 (8765)")
    command.add_argument("--open", action="store_true", help="open the browser")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    if not 0 < args.port < 65536:
        raise ConfigurationError(f"--port must lie between 1 and 65535, not {args.port}.")
    try:
        import uvicorn
    except ImportError:
        raise MissingDependencyError.for_extra("uvicorn", "view") from None
    from agentprm.trace.app import file_app

    address = f"http://127.0.0.1:{args.port}/"
    tell(error_console(), f"The page is at {address}")
    if args.open:
        webbrowser.open(address)
    uvicorn.run(file_app(args.file), host="127.0.0.1", port=args.port, log_level="warning")
    return 0
