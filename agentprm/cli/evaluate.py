"""`agentprm eval`: answers measured on a data set."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentprm.cli import opening
from agentprm.cli.console import check_writable, error_console, show, show_json
from agentprm.cli.options import add_command, add_search_options, amount, count
from agentprm.errors import InputError

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph
    from rich.table import Table

    from agentprm.evaluation import QaReport
    from agentprm.scale import Executor

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "eval",
        run,
        "measure answers on a data set",
        "Answers the questions of a folder in the BEIR layout (queries.jsonl with 'answers', corpus.jsonl, "
        "qrels.tsv) and prints exact match, F1, containment and recall with 95 % intervals.",
        "agentprm eval my-data --limit 50 --log run.jsonl        resumes where it was stopped\n"
        "  agentprm eval my-data --index my-index --ray auto --log run.jsonl       on a Ray cluster",
    )
    command.add_argument("folder", metavar="DIR", help="folder with queries.jsonl and corpus.jsonl")
    command.add_argument("--index", metavar="INDEX", help="index of the corpus (default: made in memory)")
    command.add_argument("--limit", type=count, metavar="N", help="only the first N questions")
    command.add_argument("--log", metavar="FILE", help="JSONL file with a line per question, to resume from")
    command.add_argument(
        "--threads", type=count, default=1, metavar="N", help="questions asked at once in a process (1)"
    )
    command.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="ask on a Ray cluster: its address, 'auto' for this machine's, 'local' for a new one here",
    )
    command.add_argument(
        "--workers", type=count, metavar="N", help="processes on the cluster (as many as it has room for)"
    )
    command.add_argument(
        "--gpus", type=amount, default=0.0, metavar="N", help="GPUs for each of them, or a share (0)"
    )
    command.add_argument("--json", action="store_true", help="print the measures as JSON")
    add_search_options(command)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
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
        graph = _graph_elsewhere(args)
        settings = opening.settings_of(args, opening.index_embeddings(args))
    elif args.index:
        graph, settings, _ = opening.open_graph(args, progress)
    else:
        models = opening.open_models(args, progress)
        name = opening.embeddings_name(args.embeddings)
        if data.folder is None:
            raise InputError("A file of questions has no passages; name their index with --index.")
        documents = load_folder(data.folder / "corpus.jsonl").documents
        store = opening.build_store(documents, opening.embeddings_called(name), progress)
        graph, settings = opening.make_graph(args, models, store), opening.settings_of(args, name)
    run = json.dumps({**settings, "data": data.name})
    with Progress(
        TextColumn("Answering"), MofNCompleteColumn(), TimeRemainingColumn(), console=progress
    ) as bar:
        task = bar.add_task("", total=len(questions))

        def advance(record: QaRecord, known: bool) -> None:
            bar.advance(task)

        records = run_questions(graph, questions, run=run, log=args.log, on_record=advance, executor=executor)
    report = qa_report(args.graph, records, questions)
    if args.json:
        show_json(asdict(report))
    else:
        show(score_table(report))
    return 0


def _graph_elsewhere(args: argparse.Namespace) -> Callable[[], Any]:
    """Makes the graph in another process, perhaps on another machine with the same files."""
    options = {name: value for name, value in vars(args).items() if name != "command"}
    for name in ("index", "model", "embeddings", "reward", "reranker"):
        if options[name] and Path(options[name]).is_dir():
            options[name] = str(Path(options[name]).resolve())
    return partial(worker_graph, options)


def executor_of(args: argparse.Namespace) -> Executor | None:
    """Where `eval` asks its questions: here one by one (`None`), in threads, or on a Ray cluster."""
    from agentprm.scale import LocalExecutor, RayExecutor

    if args.ray is None:
        if args.workers is not None or args.gpus:
            raise InputError("--workers and --gpus are for a Ray cluster; name it with --ray ADDRESS.")
        return LocalExecutor(args.threads) if args.threads > 1 else None
    if args.index is None:
        raise InputError("--ray needs --index: a folder that every machine of the cluster can read.")
    return RayExecutor(args.ray, workers=args.workers, threads=args.threads, num_gpus=args.gpus)


def worker_graph(options: dict[str, Any]) -> CompiledStateGraph[Any]:
    """Opens index and models in a process of a cluster.

    Args:
        options: The options of the command line, with absolute paths.
    """
    return opening.open_graph(argparse.Namespace(**options), error_console(quiet=True))[0]


def score_table(report: QaReport) -> Table:
    """The numbers of `eval` as a table."""
    from rich.table import Table

    from agentprm.evaluation.report import percent

    table = Table(title=f"{report.system}, {report.questions} questions", title_justify="left")
    table.add_column("measure")
    table.add_column("per cent [95 % interval]", justify="right")
    for name, interval in report.metrics.items():
        table.add_row(name, percent(interval))
    table.add_section()
    for name, value in (
        ("refused questions", f"{report.failed}"),
        ("tokens asked per question", f"{report.tokens_asked:,.0f}"),
        ("tokens computed per question", f"{report.tokens_computed:,.0f}"),
        ("model calls per question", f"{report.model_calls:.1f}"),
        ("seconds per question, median", f"{report.seconds_median:.2f}"),
    ):
        table.add_row(name, value)
    return table
