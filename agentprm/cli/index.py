"""`agentprm index`: an index of a folder of documents."""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentprm.cli import opening
from agentprm.cli.console import error_console, progress_bar, show, tell
from agentprm.cli.options import add_command, add_names, count
from agentprm.errors import InputError

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from rich.console import Console

    from agentprm.retrievers import BuildProgress

__all__ = ["add"]

_BATCH = 64  # what is embedded between two checkpoints


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "index",
        run,
        "index a folder of documents",
        "Reads text, Markdown, HTML, JSON, CSV, PDF and Word files under a folder, splits long texts and "
        "indexes them. Over an index that is there only what is new or has changed is embedded; a command "
        "that was stopped goes on when it is repeated.",
        "agentprm index my-notes -o my-index\n  agentprm index my-notes -o my-index --chunk-size 600",
    )
    command.add_argument("folder", metavar="DIR", help="folder with the documents, or one file")
    command.add_argument(
        "-o", "--output", metavar="INDEX", required=True, help="folder to write the index to"
    )
    embeddings = "provider:name (openai:…, ollama:…), or a Hugging Face name or folder (default: packaged)"
    add_names(command, {"--embeddings": embeddings})
    command.add_argument("--chunk-size", type=count, default=1000, metavar="N", help="characters (1000)")
    command.add_argument("--chunk-overlap", type=int, default=100, metavar="N", help="characters (100)")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    progress = error_console()
    target = Path(args.output)
    check_index_target(target)
    from agentprm.retrievers import load_folder

    start = time.perf_counter()
    name = opening.embeddings_name(args.embeddings)
    # What was skipped is listed below, and pypdf does not say of which file it speaks.
    loggers = [logging.getLogger(name) for name in ("agentprm.retrievers.loading", "pypdf")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        embeddings = opening.embeddings_called(name)
        with progress.status("Reading documents"):
            found = load_folder(
                args.folder,
                chunk_size=args.chunk_size,
                chunk_overlap=args.chunk_overlap,
                embeddings=embeddings,
            )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    for source, reason in found.skipped[:5]:
        tell(progress, f"skipped {source}: {reason}")
    for reason, times in Counter(reason for _, reason in found.skipped[5:]).most_common(5):
        tell(progress, f"skipped {times} more: {reason}")
    if len(found.skipped) > 5:
        tell(progress, f"skipped {len(found.skipped)} in all; agentprm.load_folder(…).skipped names each")
    done = _build(target, found.documents, embeddings, progress)
    opening.note_embeddings(target, name)
    sources = len({document.metadata["source"] for document in found.documents})
    known = f" {done.resumed:,} of them had been embedded before." if done.resumed else ""
    show(
        f"Indexed {len(found.documents):,} passages from {sources:,} file{'' if sources == 1 else 's'} "
        f"into {target} in {time.perf_counter() - start:.1f} s.{known}"
    )
    return 0


def _build(
    target: Path, documents: list[Document], embeddings: Embeddings, progress: Console
) -> BuildProgress:
    """Builds the index, with a bar and the time left; returns what was done."""
    from agentprm.retrievers import BuildProgress, build_index

    done = BuildProgress(0, 0, 0)
    try:
        with progress_bar(progress, "Embedding passages") as bar:
            task = bar.add_task("", total=len(documents))

            def advance(state: BuildProgress) -> None:
                nonlocal done
                done = state
                bar.update(task, completed=state.seen)

            build_index(target, documents, embeddings, batch_size=_BATCH, progress=advance)
    except KeyboardInterrupt:
        tell(progress, "What has been embedded is kept; the same command goes on from there.")
        raise
    return done


def check_index_target(target: Path) -> None:
    """Refuses an unusable index folder before the long work."""
    from agentprm.retrievers.building import holds_only_index

    if target.is_dir():
        if not holds_only_index(target, opening.NOTE):
            raise InputError(
                f"{target} is a folder with other files in it; give a new folder or an index to replace."
            )
    elif target.exists():
        raise InputError(f"{target} is a file; give a new folder for the index.")
    nearest = next(folder for folder in (target, *target.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(f"{target} cannot be written; give a folder that you may write to.")
