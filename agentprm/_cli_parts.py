"""What the commands of `agentprm.cli` share: consoles, checks of paths, and opening things by name."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentprm.errors import IndexCorruptError, InputError, MissingDependencyError

if TYPE_CHECKING:
    import argparse

    from langchain_core.embeddings import Embeddings
    from langgraph.graph.state import CompiledStateGraph
    from rich.console import Console
    from rich.table import Table

    from agentprm.evaluation import QaReport
    from agentprm.lm import LanguageModel
    from agentprm.retrievers import FaissStore
    from agentprm.scale import Executor

__all__ = [
    "build_store",
    "check_index_target",
    "check_writable",
    "embeddings_called",
    "embeddings_name",
    "error_console",
    "executor_of",
    "index_embeddings",
    "note_embeddings",
    "open_index",
    "run_streamed",
    "score_table",
    "settings_of",
    "show",
    "system",
    "tell",
    "worker_graph",
]

_PACKAGED = "packaged"
_NOTE = "agentprm.json"  # beside the index: which embeddings built it
_BATCH = 64


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
    from agentprm.trace.text import one_line

    progress.print(one_line(text), style="dim", markup=False, emoji=False, soft_wrap=True)


def check_index_target(target: Path) -> None:
    """Refuses an unusable index folder before the long work."""
    if target.is_dir():
        if any(target.iterdir()) and not (target / "CURRENT").exists():
            raise InputError(
                f"{target} is a folder with other files in it; give a new folder or an index to replace."
            )
    elif target.exists():
        raise InputError(f"{target} is a file; give a new folder for the index.")
    nearest = next(folder for folder in (target, *target.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(f"{target} cannot be written; give a folder that you may write to.")


def check_writable(path: Path) -> None:
    """Refuses an unusable output path before the long work, not after it."""
    folder = path.absolute().parent
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the path of a file.")
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; make it first or give another path.")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise InputError(f"{path} cannot be written; give a path where you may write.")


def embeddings_name(name: str | None) -> str:
    """What an index notes: a folder by its absolute path, so that it is found from anywhere."""
    if name is None:
        return _PACKAGED
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def note_embeddings(folder: Path, name: str) -> None:
    """Remembers beside an index which embeddings built it, so that `ask` needs no option."""
    (folder / _NOTE).write_text(json.dumps({"embeddings": name}) + "\n", encoding="utf-8")


def embeddings_called(name: str) -> Embeddings:
    """The embeddings behind a name that `embeddings_name` gave."""
    if name == _PACKAGED:
        from agentprm.packaged import default_embeddings

        return default_embeddings()
    from agentprm.retrievers import SentenceTransformerEmbeddings

    return SentenceTransformerEmbeddings(name)


def build_store(documents: Sequence[Any], embeddings: Embeddings, progress: Console) -> FaissStore:
    """An index of documents in memory, with a progress bar."""
    from rich.progress import track

    from agentprm.retrievers import FaissStore

    store = FaissStore(embeddings)
    batches = [documents[start : start + _BATCH] for start in range(0, len(documents), _BATCH)]
    for batch in track(batches, "Embedding passages", console=progress, disable=progress.quiet):
        store.add_documents(list(batch))
    return store


def open_index(args: argparse.Namespace, progress: Console) -> tuple[FaissStore, str]:
    """The index that `--index` names, and the name of the embeddings that built it."""
    from agentprm.retrievers import FaissStore

    folder, name = Path(args.index), index_embeddings(args)
    with progress.status("Opening the index"):
        return FaissStore.load(folder, embeddings_called(name)), name


def index_embeddings(args: argparse.Namespace) -> str:
    """Name of the embeddings that built the index that `--index` names."""
    folder = Path(args.index)
    if not (folder / "CURRENT").exists():
        raise InputError(f"There is no index in {folder}; make one with: agentprm index FOLDER -o {folder}")
    return embeddings_name(args.embeddings) if args.embeddings else _noted_embeddings(folder)


def _noted_embeddings(folder: Path) -> str:
    try:
        name = json.loads((folder / _NOTE).read_text(encoding="utf-8"))["embeddings"]
    except FileNotFoundError:
        return _PACKAGED  # made with the Python interface; the store compares the vectors anyway
    except (OSError, ValueError, KeyError, TypeError):
        name = None
    if not isinstance(name, str):
        raise IndexCorruptError(
            f"{folder / _NOTE} is damaged; name the embeddings with --embeddings or index again."
        )
    return name


def settings_of(args: argparse.Namespace, embeddings: str) -> dict[str, Any]:
    """What the options make of a run: its name in logs and traces."""
    settings: dict[str, Any] = {
        "graph": args.graph,
        "model": args.model or _PACKAGED,
        "embeddings": embeddings,
        "passages": args.passages or (5 if args.graph == "rag" else 1),
    }
    if args.graph == "reasoning":
        settings |= {"candidates": args.candidates, "max_steps": args.max_steps, "seed": args.seed}
        settings["look_ahead"] = args.look_ahead
    return settings


def system(
    args: argparse.Namespace, store: FaissStore, embeddings: str, progress: Console
) -> tuple[CompiledStateGraph[Any], dict[str, Any]]:
    """The graph that the options ask for, and the settings that a trace records."""
    from agentprm.graphs import create_rag_graph, create_reasoning_graph
    from agentprm.search import TD, Plain

    with progress.status("Loading the language model (the first time takes about 15 s)"):
        model = _model(args.model)
    settings = settings_of(args, embeddings)
    if args.graph == "rag":
        return create_rag_graph(model, store, k=settings["passages"]).compile(), settings
    value = TD(horizon=args.look_ahead) if args.look_ahead else Plain()
    own = {name: settings[name] for name in ("candidates", "max_steps", "seed")}
    return create_reasoning_graph(
        model, store, k=settings["passages"], value=value, **own
    ).compile(), settings


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
    import argparse

    args, quiet = argparse.Namespace(**options), error_console(quiet=True)
    store, name = open_index(args, quiet)
    return system(args, store, name, quiet)[0]


def _model(name: str | None) -> LanguageModel:
    if name is None:
        from agentprm.packaged import default_language_model

        return default_language_model()
    from agentprm.lm import as_language_model

    return as_language_model(name)


def run_streamed(graph: CompiledStateGraph[Any], question: str, progress: Console) -> dict[str, Any]:
    """Runs the graph, telling what happens while it happens, and returns the final state."""
    from agentprm.trace.live import event_line

    state: dict[str, Any] = {}
    with progress.status("Searching"):
        for mode, chunk in graph.stream({"question": question}, stream_mode=["custom", "values"]):
            if not isinstance(chunk, dict):
                continue
            if mode == "values":
                state = dict(chunk)
            elif line := event_line(chunk):
                tell(progress, line)
    return state


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
