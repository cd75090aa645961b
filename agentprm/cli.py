"""The command line: `agentprm index`, `ask`, `eval` and `trace`.

Answers go to standard output, progress and errors to standard error. Exit codes: 0 success, 1 failure
while running, 2 wrong usage or unusable input, 130 interrupted. Heavy libraries are imported by the
command that needs them, so that `--help` and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from agentprm._cli_parts import (
    build_store,
    check_index_target,
    check_writable,
    embeddings_called,
    embeddings_name,
    error_console,
    executor_of,
    index_embeddings,
    note_embeddings,
    open_index,
    run_streamed,
    score_table,
    settings_of,
    show,
    system,
    tell,
    worker_graph,
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
  agentprm ask "..." --index my-index --trace run.json      keep the search tree
  agentprm trace run.json                      draw it again

Without further options everything runs on this machine with the two small packaged models.
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
        args = _parser().parse_args(argv)
        _calm_libraries()
        command: Callable[[argparse.Namespace], int] = args.command
        code = command(args)
        sys.stdout.flush()
        return code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        code = _say("Interrupted.", 130)
        if argv is None:
            sys.stdout.flush()
            os._exit(code)  # threads that still compute would hold up a return
        return code
    except BrokenPipeError:
        # whoever read our output has enough; keep Python from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except AgentPRMError as error:
        return _say(str(error), 2 if isinstance(error, _BAD_INPUT) else 1)
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        return _say(f"The system refused: {error.strerror or error}{place}.", 1)
    except Exception as error:  # the last resort: one sentence instead of a traceback
        hint = "Set AGENTPRM_DEBUG=1 to see where, and please report it."
        return _say(f"Unexpected {type(error).__name__}: {error}. {hint}", 1)


def _say(message: str, code: int) -> int:
    from agentprm.trace.text import one_line

    if os.environ.get("AGENTPRM_DEBUG") == "1":
        traceback.print_exc()
    print(f"agentprm: {one_line(message)}", file=sys.stderr)
    return code


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


# Arguments


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see '{self.prog} --help'.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="agentprm",
        description="Answers questions over a folder of documents by a search over reasoning\n"
        "steps that a process reward model guides, and shows the search.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_index, _add_ask, _add_eval, _add_trace):
        add(commands)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"agentprm {version('agentprm')}")
        except PackageNotFoundError:
            print("agentprm, run from its source without being installed")
        parser.exit(0)


def _add_index(commands: Any) -> None:
    command = _command(
        commands,
        "index",
        _index,
        "index a folder of documents",
        "Reads txt, md, html, json and jsonl files under a folder, splits long texts and indexes them.",
        "agentprm index my-notes -o my-index\n  agentprm index my-notes -o my-index --chunk-size 600",
    )
    command.add_argument("folder", metavar="DIR", help="folder with the documents, or one file")
    command.add_argument(
        "-o", "--output", metavar="INDEX", required=True, help="folder to write the index to"
    )
    command.add_argument("--embeddings", metavar="NAME", help="Hugging Face name or path (default: packaged)")
    command.add_argument("--chunk-size", type=_count, default=1000, metavar="N", help="characters (1000)")
    command.add_argument("--chunk-overlap", type=int, default=100, metavar="N", help="characters (100)")


def _add_ask(commands: Any) -> None:
    command = _command(
        commands,
        "ask",
        _ask,
        "answer a question from an index",
        "Answers a question and shows the search, the answer, its sources and what it cost.",
        'agentprm ask "Where was the director of Vertigo born?" --index my-index\n'
        '  agentprm ask "..." --index my-index --graph rag --model path/of/a/model',
    )
    command.add_argument("question", help="the question, in quotes")
    command.add_argument("--index", metavar="INDEX", required=True, help="folder that 'agentprm index' wrote")
    command.add_argument("--trace", metavar="FILE", help="write the whole run as JSON")
    _search_options(command)


def _add_eval(commands: Any) -> None:
    command = _command(
        commands,
        "eval",
        _eval,
        "measure answers on a data set",
        "Answers the questions of a folder in the BEIR layout (queries.jsonl with 'answers', corpus.jsonl, "
        "qrels.tsv) and prints exact match, F1, containment and recall with 95 % intervals.",
        "agentprm eval my-data --limit 50 --log run.jsonl        resumes where it was stopped\n"
        "  agentprm eval my-data --index my-index --ray auto --log run.jsonl       on a Ray cluster",
    )
    command.add_argument("folder", metavar="DIR", help="folder with queries.jsonl and corpus.jsonl")
    command.add_argument("--index", metavar="INDEX", help="index of the corpus (default: made in memory)")
    command.add_argument("--limit", type=_count, metavar="N", help="only the first N questions")
    command.add_argument("--log", metavar="FILE", help="JSONL file with a line per question, to resume from")
    command.add_argument(
        "--threads", type=_count, default=1, metavar="N", help="questions asked at once in a process (1)"
    )
    command.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="ask on a Ray cluster: its address, 'auto' for this machine's, 'local' for a new one here",
    )
    command.add_argument(
        "--workers", type=_count, metavar="N", help="processes on the cluster (as many as it has room for)"
    )
    command.add_argument(
        "--gpus", type=_amount, default=0.0, metavar="N", help="GPUs for each of them, or a share (0)"
    )
    _search_options(command)


def _add_trace(commands: Any) -> None:
    command = _command(
        commands,
        "trace",
        _trace,
        "draw the search tree of a run",
        "Draws a trace that 'agentprm ask --trace' wrote.",
        "agentprm trace run.json\n  agentprm trace run.json --mermaid > tree.mmd",
    )
    command.add_argument("file", metavar="FILE", help="the trace")
    command.add_argument("--full", action="store_true", help="show long texts whole")
    command.add_argument("--mermaid", action="store_true", help="print Mermaid text instead")


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], short: str, long: str, examples: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=short,
        description=textwrap.fill(long, 78),
        epilog=f"examples:\n  {examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=run)
    return command


def _search_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--graph", choices=("reasoning", "rag"), default="reasoning", help="how to answer (reasoning)"
    )
    command.add_argument("--model", metavar="NAME", help="Hugging Face name or path (default: packaged)")
    command.add_argument(
        "--embeddings", metavar="NAME", help="only needed where the index does not know its own"
    )
    command.add_argument("--passages", type=_count, metavar="N", help="passages per search (1; rag: 5)")
    command.add_argument(
        "--candidates", type=_count, default=3, metavar="N", help="steps to choose from each time (3)"
    )
    command.add_argument(
        "--max-steps", type=_count, default=5, metavar="N", help="reasoning steps at most (5)"
    )
    command.add_argument(
        "--look-ahead",
        type=_whole,
        default=0,
        metavar="N",
        help="steps to simulate after each candidate (0); 2 as in the paper takes two to three times as long",
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same search (0)")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress")


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _amount(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not 0 <= amount < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return amount


# Commands


def _index(args: argparse.Namespace) -> int:
    progress = error_console()
    target = Path(args.output)
    check_index_target(target)
    from agentprm.retrievers import load_folder

    start = time.perf_counter()
    name = embeddings_name(args.embeddings)
    logger = logging.getLogger("agentprm.retrievers.loading")
    level = logger.level
    logger.setLevel(logging.ERROR)  # what was skipped is listed below
    try:
        embeddings = embeddings_called(name)
        with progress.status("Reading documents"):
            found = load_folder(
                args.folder,
                chunk_size=args.chunk_size,
                chunk_overlap=args.chunk_overlap,
                embeddings=embeddings,
            )
    finally:
        logger.setLevel(level)
    for source, reason in found.skipped[:5]:
        tell(progress, f"skipped {source}: {reason}")
    if len(found.skipped) > 5:
        tell(progress, f"skipped {len(found.skipped) - 5} more")
    store = build_store(found.documents, embeddings, progress)
    store.save(target)
    note_embeddings(target, name)
    sources = len({document.metadata["source"] for document in found.documents})
    show(
        f"Indexed {len(found.documents):,} passages from {sources:,} file{'' if sources == 1 else 's'} "
        f"into {target} in {time.perf_counter() - start:.1f} s."
    )
    return 0


def _ask(args: argparse.Namespace) -> int:
    question = args.question.strip()
    if not question:
        raise InputError('The question is empty; ask for instance: agentprm ask "Who directed Vertigo?"')
    progress = error_console(args.quiet)
    if args.trace:
        check_writable(Path(args.trace))
    from agentprm.trace import answer_panel, save_trace, search_tree, sources_table, trace_of

    graph, settings = system(args, *open_index(args, progress), progress)
    state = run_streamed(graph, question, progress)
    trace = trace_of(state, settings)
    if args.trace:
        save_trace(trace, args.trace)
    for view in (search_tree(trace), answer_panel(trace), sources_table(trace)):
        show(view)
    if args.trace:
        tell(progress, f"The trace is in {args.trace}.")
    if not trace["answer"]:
        return _say(f"No answer was found ({trace['stop_reason'] or 'no reason given'}).", 1)
    return 0


def _eval(args: argparse.Namespace) -> int:
    progress = error_console(args.quiet)
    if args.log:
        check_writable(Path(args.log))
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from agentprm.evaluation import QaRecord, qa_report, read_dataset, run_questions
    from agentprm.retrievers import load_folder

    executor = executor_of(args)
    data = read_dataset(args.folder)
    questions = data.questions[: args.limit]
    graph: Any
    if args.ray:
        graph, settings = _graph_elsewhere(args), settings_of(args, index_embeddings(args))
    else:
        if args.index:
            store, name = open_index(args, progress)
        else:
            name = embeddings_name(args.embeddings)
            documents = load_folder(data.folder / "corpus.jsonl").documents
            store = build_store(documents, embeddings_called(name), progress)
        graph, settings = system(args, store, name, progress)
    run = json.dumps({**settings, "data": data.name})
    with Progress(
        TextColumn("Answering"), MofNCompleteColumn(), TimeRemainingColumn(), console=progress
    ) as bar:
        task = bar.add_task("", total=len(questions))

        def advance(record: QaRecord, known: bool) -> None:
            bar.advance(task)

        records = run_questions(graph, questions, run=run, log=args.log, on_record=advance, executor=executor)
    show(score_table(qa_report(args.graph, records, questions)))
    return 0


def _graph_elsewhere(args: argparse.Namespace) -> Callable[[], Any]:
    """Makes the graph in another process, perhaps on another machine with the same files."""
    options = {name: value for name, value in vars(args).items() if name != "command"}
    for name in ("index", "model", "embeddings"):
        if options[name] and Path(options[name]).is_dir():
            options[name] = str(Path(options[name]).resolve())
    return partial(worker_graph, options)


def _trace(args: argparse.Namespace) -> int:
    from agentprm.trace import answer_panel, load_trace, search_tree, sources_table, to_mermaid

    trace = load_trace(args.file)
    if args.mermaid:
        sys.stdout.write(to_mermaid(trace))
        return 0
    tree = search_tree(trace, full=args.full)
    for view in (tree, answer_panel(trace), sources_table(trace, full=args.full)):
        show(view)
    return 0


if __name__ == "__main__":
    sys.exit(main())
