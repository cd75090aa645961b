"""`agentprm index`: an index of a folder of documents."""

from __future__ import annotations

import argparse
import logging
import os
import time
from pathlib import Path
from typing import Any

from agentprm.cli import opening
from agentprm.cli.console import error_console, show, tell
from agentprm.cli.options import add_command, count
from agentprm.errors import InputError

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "index",
        run,
        "index a folder of documents",
        "Reads text, Markdown, HTML, JSON, CSV, PDF and Word files under a folder, splits long texts and "
        "indexes them.",
        "agentprm index my-notes -o my-index\n  agentprm index my-notes -o my-index --chunk-size 600",
    )
    command.add_argument("folder", metavar="DIR", help="folder with the documents, or one file")
    command.add_argument(
        "-o", "--output", metavar="INDEX", required=True, help="folder to write the index to"
    )
    command.add_argument("--embeddings", metavar="NAME", help="Hugging Face name or path (default: packaged)")
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
    logger = logging.getLogger("agentprm.retrievers.loading")
    level = logger.level
    logger.setLevel(logging.ERROR)  # what was skipped is listed below
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
        logger.setLevel(level)
    for source, reason in found.skipped[:5]:
        tell(progress, f"skipped {source}: {reason}")
    if len(found.skipped) > 5:
        tell(progress, f"skipped {len(found.skipped) - 5} more")
    store = opening.build_store(found.documents, embeddings, progress)
    store.save(target)
    opening.note_embeddings(target, name)
    sources = len({document.metadata["source"] for document in found.documents})
    show(
        f"Indexed {len(found.documents):,} passages from {sources:,} file{'' if sources == 1 else 's'} "
        f"into {target} in {time.perf_counter() - start:.1f} s."
    )
    return 0


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
