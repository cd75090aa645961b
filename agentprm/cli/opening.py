"""What the commands open: the index, the models, and the graph over both."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentprm.errors import IndexCorruptError, InputError, MissingDependencyError

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from langgraph.graph.state import CompiledStateGraph
    from langgraph.store.base import BaseStore
    from rich.console import Console

    from agentprm.cli.models import Models
    from agentprm.retrievers import FaissStore

__all__ = [
    "NOTE",
    "build_store",
    "embeddings_called",
    "embeddings_name",
    "index_embeddings",
    "make_graph",
    "note_embeddings",
    "open_graph",
    "open_models",
    "open_store",
    "settings_of",
]

_PACKAGED = "packaged"
NOTE = "agentprm.json"  # beside the index: which embeddings built it
_LONGEST_NOTE = 1 << 16
_BATCH = 64
# Options that go to the graph as they are.
_PLAIN = ("k", "passages", "mode", "candidates", "max_steps", "strategy", "seed", "recall", "threshold")


def embeddings_name(name: str | None) -> str:
    """What an index notes: a folder by its absolute path, so that it is found from anywhere."""
    if name is None:
        return _PACKAGED
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def note_embeddings(folder: Path, name: str) -> None:
    """Remembers beside an index which embeddings built it, so that `ask` needs no option."""
    whole = folder / f"tmp-{NOTE}"
    whole.unlink(missing_ok=True)
    with whole.open("x", encoding="utf-8") as file:
        file.write(json.dumps({"embeddings": name}) + "\n")
    whole.replace(folder / NOTE)


def embeddings_called(name: str) -> Embeddings:
    """The embeddings behind a name that `embeddings_name` gave."""
    if name == _PACKAGED:
        from agentprm.packaged import default_embeddings

        return default_embeddings()
    from agentprm.cli.models import embeddings_from_provider
    from agentprm.retrievers import SentenceTransformerEmbeddings

    return embeddings_from_provider(name) or SentenceTransformerEmbeddings(name)


def build_store(documents: Sequence[Any], embeddings: Embeddings, progress: Console) -> FaissStore:
    """An index of documents in memory, with a progress bar."""
    from rich.progress import track

    from agentprm.retrievers import FaissStore

    store = FaissStore(embeddings)
    batches = [documents[start : start + _BATCH] for start in range(0, len(documents), _BATCH)]
    for batch in track(batches, "Embedding passages", console=progress, disable=progress.quiet):
        store.add_documents(list(batch))
    return store


def index_embeddings(args: argparse.Namespace) -> str:
    """Name of the embeddings that built the index that `--index` names.

    Raises:
        InputError: If there is no index.
    """
    folder = Path(args.index)
    if not (folder / "CURRENT").exists():
        raise InputError(f"There is no index in {folder}; make one with: agentprm index FOLDER -o {folder}")
    return embeddings_name(args.embeddings) if args.embeddings else _noted_embeddings(folder)


def _noted_embeddings(folder: Path) -> str:
    from agentprm.retrievers.files import read_bounded

    try:
        name = json.loads(read_bounded(folder / NOTE, _LONGEST_NOTE))["embeddings"]
    except FileNotFoundError:
        return _PACKAGED  # made with the Python interface; the store compares the vectors anyway
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        name = None
    if not isinstance(name, str):
        raise IndexCorruptError(
            f"{folder / NOTE} is damaged; name the embeddings with --embeddings or index again."
        )
    return name


def open_store(args: argparse.Namespace, embeddings: str, progress: Console) -> FaissStore:
    """The index that `--index` names, whose embeddings have the name `embeddings`."""
    from agentprm.retrievers import FaissStore

    with progress.status("Opening the index"):
        return FaissStore.load(Path(args.index), embeddings_called(embeddings))


def open_models(args: argparse.Namespace, progress: Console) -> Models:
    """The models that the options name; before anything that takes long, so that mistakes show at once."""
    from agentprm.cli.models import (
        Models,
        model_called,
        planner_called,
        reader_called,
        reranker_called,
        reward_called,
    )

    slow = " (the first time takes about 15 s)" if args.model is None else ""
    with progress.status(f"Loading the models{slow}"):
        reader = reader_called(args.reader, packaged_model=args.model is None)
        model = model_called(args.model)
        return Models(
            model,
            reward_called(args.reward, model, reader),
            reranker_called(args.reranker, model),
            reader,
            planner_called(args.planner, model),
            model_called(args.explainer) if args.explainer else None,
        )


def settings_of(args: argparse.Namespace, embeddings: str) -> dict[str, Any]:
    """What the options make of a run: its name in logs and traces."""
    from agentprm.cli.graphs import settings_for

    return {
        "graph": args.graph,
        "model": args.model or _PACKAGED,
        "embeddings": embeddings,
        **settings_for(args),
    }


def make_graph(
    args: argparse.Namespace, models: Models, store: FaissStore, **more: Any
) -> CompiledStateGraph[Any]:
    """The graph that the options ask for.

    Args:
        args: The options.
        models: The models that they name.
        store: The index.
        more: Arguments of the graph that no option gives; they win.
    """
    from agentprm.cli.graphs import arguments_for, graph_called
    from agentprm.cli.models import retriever_called
    from agentprm.search import TD

    if args.look_ahead and (args.value or "value" in more):
        raise InputError("--look-ahead is --value td with a number of steps; give one of the two.")
    values: dict[str, Any] = {
        "reader": models.reader,
        "reranker": models.reranker,
        "reward": models.reward,
        "planner": models.planner,
        "explainer": models.explainer,
        "value": TD(horizon=args.look_ahead) if args.look_ahead else args.value,
        **{name: getattr(args, name) for name in _PLAIN},
    }
    experience = getattr(args, "experience", None)
    if experience is not None:
        values["experience"] = True
    arguments = arguments_for(args, values)
    if arguments.get("threshold") == "none":
        arguments["threshold"] = None
    retriever = retriever_called(args.retriever, args.feedback, store)
    graph: CompiledStateGraph[Any] = graph_called(args.graph)(
        models.model, retriever, **{**arguments, **more}
    ).compile(store=_experience_in(experience))
    return graph


def _experience_in(path: str | None) -> BaseStore:
    """The store in a file; without one a store in memory, for graphs that cannot do without.

    Raises:
        InputError: If the file cannot be written, or is none.
        MissingDependencyError: Without the extra `cli`.
    """
    import sqlite3

    if path is None:
        from langgraph.store.memory import InMemoryStore

        return InMemoryStore()
    try:
        from langgraph.store.sqlite import SqliteStore
    except ImportError as error:
        raise MissingDependencyError.for_extra("langgraph-checkpoint-sqlite", "cli") from error
    try:
        store = SqliteStore(sqlite3.connect(path, check_same_thread=False, isolation_level=None))
        store.setup()
    except sqlite3.Error as error:
        raise InputError(
            f"Experience cannot be kept in {path} ({error}): give a file of its own in a folder that you may "
            "write to."
        ) from error
    return store


def open_graph(
    args: argparse.Namespace, progress: Console
) -> tuple[CompiledStateGraph[Any], dict[str, Any], FaissStore]:
    """The graph over the index that `--index` names, what a trace records of it, and the index."""
    embeddings = index_embeddings(args)
    models = open_models(args, progress)
    store = open_store(args, embeddings, progress)
    return make_graph(args, models, store), settings_of(args, embeddings), store
