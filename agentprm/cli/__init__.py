"""The command line: `agentprm index`, `fsck`, `ask`, `serve`, `eval`, `eval-reward`, `synth`, `trace`, ….

Answers go to standard output, progress and errors to standard error. Exit codes: 0 success, 1 failure
while running, 2 wrong usage or unusable input, 130 interrupted. Heavy libraries are imported by the
command that needs them, so that `--help` and mistakes answer at once.

`options` declares what can be said, `models`, `graphs` and `opening` make models and graphs of it, `console`
writes;
`ask`, `eval_reward`, `evaluate`, `fsck`, `index`, `serve`, `synth`, `trace`, `train` and `view` are the
commands; `experiments` reads the file of set-ups.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from agentprm.cli import (
    ask,
    console,
    eval_reward,
    evaluate,
    fsck,
    index,
    options,
    serve,
    synth,
    trace,
    train,
    view,
)
from agentprm.errors import (
    AgentPRMError,
    ConfigurationError,
    IndexCorruptError,
    InputError,
    MissingDependencyError,
)

__all__ = ["main"]

_BAD_INPUT = (InputError, ConfigurationError, IndexCorruptError, MissingDependencyError)

_EXAMPLES = """\
examples:
  agentprm index my-notes -o my-index          index a folder of documents, once
  agentprm ask "Who founded the company that built the Ark Royal?" --index my-index
  agentprm ask "..." --index my-index --model ollama:llama3.2      with a chat model
  agentprm ask "..." --index my-index --trace run.json      keep the search tree
  agentprm trace show run.json                 draw it again

Without further options everything runs on this machine with the small packaged models.
Each command has a --help of its own.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: Arguments without the program's name; the process's own by default.

    Returns:
        The exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    if argv is None:
        _end_soon_after_interrupt()
    try:
        given = sys.argv[1:] if argv is None else list(argv)
        parser, commands = _parser()
        args = parser.parse_args(options.with_config(given, commands))
        _calm_libraries()
        command: Callable[[argparse.Namespace], int] = args.command
        code = command(args)
        sys.stdout.flush()
        return code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        code = console.say("Interrupted.", 130)
        if argv is None:
            sys.stdout.flush()
            os._exit(code)  # threads that still compute would hold up a return
        return code
    except BrokenPipeError:
        # whoever read our output has enough; keep Python from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except AgentPRMError as error:
        return console.say(str(error), 2 if isinstance(error, _BAD_INPUT) else 1)
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        if error.errno == errno.ENOSPC:
            return console.say(f"The disk is full{place}: free some space and try again.", 1)
        return console.say(f"The system refused: {error.strerror or error}{place}.", 1)
    except Exception as error:  # the last resort: one sentence instead of a traceback
        hint = "Set AGENTPRM_DEBUG=1 to see where, and please report it."
        return console.say(f"Unexpected {type(error).__name__}: {error}. {hint}", 1)


def _end_soon_after_interrupt() -> None:
    """Makes Ctrl-C end the process within two seconds.

    Python alone would wait for the model call that is under way in another thread. The two seconds are
    for tidying up.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        while os.read(reader, 1) != bytes([signal.SIGINT]):
            pass
        time.sleep(2)
        show_cursor = "\x1b[?25h\n" if sys.stderr.isatty() else ""
        with contextlib.suppress(OSError, ValueError):
            print(f"{show_cursor}agentprm: Interrupted.", file=sys.stderr, flush=True)
        os._exit(130)

    threading.Thread(target=watch, daemon=True).start()


def _calm_libraries() -> None:
    """Other libraries' bars and notices would mix with our progress."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _parser() -> tuple[options.Parser, dict[str, Any]]:
    """The parser, and those of its commands by name."""
    parser = options.Parser(
        prog="agentprm",
        description="Answers questions over a folder of documents by a search over reasoning\n"
        "steps that a process reward model guides, and shows the search.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (index, fsck, ask, serve, evaluate, eval_reward, synth, trace, train, view):
        module.add(commands)
    return parser, dict(commands.choices)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"agentprm {version('agentprm')}")
        except PackageNotFoundError:
            print("agentprm, run from its source without being installed")
        parser.exit(0)
